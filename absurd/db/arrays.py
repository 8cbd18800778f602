"""Arrays to PostgreSQL in binary: as text every quote in them is escaped, which costs far more than all else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar

from psycopg.abc import AdaptContext
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

from absurd.queries.arrays import Ints, Jsonbs, Jsons, Texts, Uuids

_pack_int = struct.Struct("!i").pack
# Dimensions, whether there may be nulls, type of the elements; then size and lower bound of the only dimension.
_pack_empty = struct.Struct("!iiI").pack
_pack_head = struct.Struct("!iiIii").pack
_NULL = _pack_int(-1)


class _ArrayDumper(Dumper):
    """Packs a list, with ``None`` for null. Subclasses say which type its elements have, and how one becomes bytes."""

    format = Format.BINARY
    element_oid: ClassVar[int]

    def dump(self, obj: list[Any]) -> bytes:
        """The array in PostgreSQL's binary format."""
        if not obj:
            return _pack_empty(0, 0, self.element_oid)
        pack = self._packer()
        parts = [_pack_head(1, None in obj, self.element_oid, len(obj), 1)]
        for item in obj:
            if item is None:
                parts.append(_NULL)
            else:
                raw = pack(item)
                parts.append(_pack_int(len(raw)))
                parts.append(raw)
        return b"".join(parts)

    def _packer(self) -> Callable[[Any], bytes]:
        raise NotImplementedError


class _UuidsDumper(_ArrayDumper):
    oid, element_oid = 2951, 2950

    def _packer(self) -> Callable[[Any], bytes]:
        return attrgetter("bytes")


class _IntsDumper(_ArrayDumper):
    oid, element_oid = 1007, 23

    def _packer(self) -> Callable[[Any], bytes]:
        return _pack_int


class _TextsDumper(_ArrayDumper):
    oid, element_oid = 1009, 25

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        # The server reads text in the connection's encoding, in binary too. SQL_ASCII takes any bytes as they are.
        found = self.connection.info.encoding if self.connection is not None else "utf-8"
        self._encoding = "utf-8" if found == "ascii" else found

    def _packer(self) -> Callable[[Any], bytes]:
        encoding = self._encoding
        return lambda text: text.encode(encoding)


class _JsonsDumper(_TextsDumper):
    oid, element_oid = 199, 114


class _JsonbsDumper(_TextsDumper):
    oid, element_oid = 3807, 3802

    def _packer(self) -> Callable[[Any], bytes]:
        encode = super()._packer()
        return lambda text: b"\x01" + encode(text)  # the version of the format


def register_arrays(adapters: AdaptersMap) -> None:
    """Makes connections or cursors with these adapters take the columns of ``absurd.queries.arrays``."""
    adapters.register_dumper(Uuids, _UuidsDumper)
    adapters.register_dumper(Ints, _IntsDumper)
    adapters.register_dumper(Texts, _TextsDumper)
    adapters.register_dumper(Jsons, _JsonsDumper)
    adapters.register_dumper(Jsonbs, _JsonbsDumper)
