"""What the target remembers of moves that are not finished, in a table of its own. Written before anything else is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

Connection = psycopg.Connection[Any]

MAKE_TABLE = """
    create schema if not exists absurd_moves;
    -- One row per queue that is on its way into this database.
    create table if not exists absurd_moves.arrivals (
      queue_name text primary key,
      -- the database that it leaves
      source text not null,
      -- whether people had paused it there
      was_paused boolean not null,
      begun_at timestamptz not null default now(),
      -- when its rows were copied: until the source has deleted them they are worth nothing
      copied_at timestamptz
    )"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A queue that is on its way."""

    queue_name: str
    source: str
    was_paused: bool
    copied: bool


def make_table(target: Connection) -> None:
    """Makes the table. Two that do it at once: both find it there."""
    with target.transaction():
        target.execute("select pg_advisory_xact_lock(hashtextextended('absurd moves', 0))")
        target.execute(MAKE_TABLE)


def read_marks(target: Connection, queues: Sequence[str]) -> dict[str, Mark]:
    """Those of these queues that are on their way."""
    if target.execute("select to_regclass('absurd_moves.arrivals')").fetchone() == (None,):
        return {}
    cursor = target.cursor(row_factory=class_row(Mark))
    cursor.execute(
        "select queue_name, source, was_paused, copied_at is not null as copied from absurd_moves.arrivals "
        "where queue_name = any(%s::text[])",
        (list(queues),),
    )
    return {mark.queue_name: mark for mark in cursor}


def write_mark(target: Connection, queue: str, source: str, was_paused: bool) -> None:
    """Says that a queue is on its way. Of one that was said to be before, what people had decided then stays."""
    target.execute(
        """
        insert into absurd_moves.arrivals as a (queue_name, source, was_paused) values (%s, %s, %s)
        on conflict (queue_name) do update set source = excluded.source, was_paused = excluded.was_paused, begun_at = now()
        where a.source <> excluded.source""",
        (queue, source, was_paused),
    )


def set_copied(target: Connection, queues: Sequence[str], copied: bool) -> None:
    """Says that their rows are there, or are not."""
    target.execute(
        "update absurd_moves.arrivals set copied_at = case when %s then now() end where queue_name = any(%s::text[])",
        (copied, list(queues)),
    )


def delete_marks(target: Connection, queues: Sequence[str]) -> None:
    """Says that they are on their way no more."""
    target.execute("delete from absurd_moves.arrivals where queue_name = any(%s::text[])", (list(queues),))
