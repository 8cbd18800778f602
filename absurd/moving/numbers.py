"""Numbers of events and subscriptions: each database counts on its own, and those of a moved queue must not meet others'."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from absurd.moving.tables import Shift

Connection = psycopg.Connection[Any]

EVENTS = "events_seq_seq"
SUBSCRIPTIONS = "subscriptions_subscription_id_seq"
# Numbers that others may take between our look at a sequence and its advance.
MARGIN = 100_000

# The last number that was given out, and how far apart they are.
READ = """
    select case when s.is_called then s.last_value else s.last_value - p.increment_by end, p.increment_by
    from {sequence} s, pg_sequences p
    where p.schemaname = 'absurd' and p.sequencename = {name}"""


def plan_shift(target: Connection, renumber: bool) -> Shift:
    """What to add to the numbers on the way, so that none of them is taken there. Events keep theirs unless told otherwise."""
    return Shift(_beyond(target, EVENTS) if renumber else 0, _beyond(target, SUBSCRIPTIONS))


def advance(source: Connection, target: Connection, shift: Shift) -> None:
    """Has the target go on behind everything that the source has numbered: a later event has the greater number."""
    for sequence, by in ((EVENTS, shift.events), (SUBSCRIPTIONS, shift.subscriptions)):
        used = _last(source, sequence)[0] + by
        last, step = _last(target, sequence)
        if used >= last:
            # In whole steps, for databases that share the numbers among them count in different ones.
            target.execute("select setval(%s, %s)", (f"absurd.{sequence}", last + ((used - last + MARGIN) // step + 1) * step))


def _beyond(target: Connection, sequence: str) -> int:
    last, step = _last(target, sequence)
    return (last + MARGIN) // step * step + step


def _last(conn: Connection, sequence: str) -> tuple[int, int]:
    statement = sql.SQL(READ).format(sequence=sql.Identifier("absurd", sequence), name=sql.Literal(sequence))
    row = conn.cursor(row_factory=tuple_row).execute(statement).fetchone()
    assert row is not None, sequence
    return int(row[0]), int(row[1])
