"""Columns of a batch: arguments that go to PostgreSQL as arrays. The class says of what type; ``absurd.db.arrays`` packs them."""

from __future__ import annotations

from uuid import UUID


class Uuids(list[UUID]):
    """A ``uuid[]``."""


class Ints(list[int]):
    """An ``int[]``."""


class Texts(list[str | None]):
    """A ``text[]``."""


class Jsons(list[str | None]):
    """A ``json[]``, of JSON texts."""


class Jsonbs(list[str | None]):
    """A ``jsonb[]``, of JSON texts."""
