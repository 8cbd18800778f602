"""Text from a connection without an encoding (``SQL_ASCII``): the server converts nothing, and the driver hands out bytes."""

from __future__ import annotations

from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader


class _Utf8Loader(Loader):
    def load(self, data: Buffer) -> str:
        """The text, of a database in UTF-8."""
        return bytes(data).decode()


def register_utf8(adapters: AdaptersMap) -> None:
    """Makes cursors with these adapters read text as UTF-8, whatever the connection's encoding is."""
    for name in ("text", "varchar", "bpchar", "name"):
        adapters.register_loader(name, _Utf8Loader)
