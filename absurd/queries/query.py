"""What a query is: SQL text, its arguments and how to read its rows. Running it is the business of ``absurd.db``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Query(Generic[T_co]):
    """One call of a SQL function.

    ``repeatable`` says that doing it twice is the same as doing it once, so that it may be sent again when the connection broke
    before the answer came.
    """

    sql: str
    args: Sequence[Any]
    decode: Callable[[list[Row]], T_co]
    repeatable: bool = True


def nothing(rows: list[Row]) -> None:
    """Decodes a call whose answer is empty."""


def scalar(rows: list[Row]) -> Any:
    """Decodes a call that answers with one value."""
    return rows[0][0]


def column(rows: list[Row]) -> list[Any]:
    """Decodes a call that answers with one column."""
    return [row[0] for row in rows]
