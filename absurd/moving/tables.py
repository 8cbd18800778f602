"""Which rows of each table belong to a queue, and the COPY statements that carry them from one database to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

Connection = psycopg.Connection[Any]

OWN_QUEUE = "queue_name = any({queues})"
OF_TASKS = "task_id in (select t.task_id from absurd.tasks t where t.queue_name = any({queues}))"
OF_EVENTS = "seq in (select e.seq from absurd.events e where e.queue_name = any({queues}))"
OF_TRIGGERS = "trigger_name in (select t.trigger_name from absurd.triggers t where t.queue_name = any({queues}))"

# Columns that hold the number of an event, and those that hold the number of a subscription.
EVENT_NUMBERS = ("seq", "event_seq", "since_seq", "after_seq")
SUBSCRIPTION_NUMBERS = ("subscription_id",)


@dataclass(frozen=True, slots=True)
class Table:
    """A table, which of its rows go along, and the column that the new database numbers anew."""

    name: str
    rows: str
    numbered: str | None = None

    def condition(self, queues: Sequence[str]) -> sql.Composed:
        """What its rows fulfil."""
        return sql.SQL(self.rows).format(queues=sql.Literal(list(queues)))


# In the order in which they are written: what a condition looks up in another table stands behind that table.
MOVED = (
    Table("queues", OWN_QUEUE),
    Table("retention", OWN_QUEUE),
    Table("tasks", OWN_QUEUE),
    Table("runs", OWN_QUEUE),
    Table("attempts", OWN_QUEUE),
    Table("checkpoints", OF_TASKS),
    Table("tokens", OF_TASKS),
    Table("idempotency_keys", OWN_QUEUE),
    Table("events", OWN_QUEUE),
    Table("event_keys", OWN_QUEUE),
    Table("subscriptions", OWN_QUEUE),
    Table("event_tasks", OF_EVENTS),
    # What a client waits for it asks for anew, on a connection to the new database.
    Table("waits", "kind <> 'client' and " + OF_TASKS, numbered="wait_id"),
    Table("schedules", OWN_QUEUE),
    Table("triggers", OWN_QUEUE),
    Table("trigger_executions", OF_TRIGGERS, numbered="execution_id"),
)

# They belong to the database and not to a queue.
STAY = ("listeners", "schema_version", "workers")

# Rows that workers and people change without the lock of the queue.
CHANGED_BESIDE = ("queues", "retention", "runs", "schedules", "subscriptions", "triggers")


@dataclass(frozen=True, slots=True)
class Shift:
    """What is added to the numbers of events and of subscriptions on the way."""

    events: int = 0
    subscriptions: int = 0

    def expression(self, column: str) -> sql.Composable:
        """The column as it is written there."""
        by = self.events if column in EVENT_NUMBERS else self.subscriptions if column in SUBSCRIPTION_NUMBERS else 0
        return sql.SQL("{} + {}").format(sql.Identifier(column), sql.Literal(by)) if by else sql.Identifier(column)


def lock_rows(source: Connection, queues: Sequence[str]) -> None:
    """Locks what others could change meanwhile; raises a serialization failure for what they have changed since the snapshot."""
    for table in MOVED:
        if table.name in CHANGED_BESIDE:
            source.execute(
                sql.SQL("select from {} where {} for update").format(_qualified(table), table.condition(queues)),
            )


def copy_rows(source: Connection, target: Connection, queues: Sequence[str], shift: Shift) -> int:
    """Copies the rows of all tables within the transactions of both; how many.

    Raises:
        psycopg.errors.UniqueViolation: the target has such a row already.
        RuntimeError: the target holds another number of rows than were sent.
    """
    total = 0
    for table in MOVED:
        columns = _columns(target, table)
        _stream(source, target, table, columns, queues, shift)
        total += _compare(source, target, table, queues)
    return total


def count_rows(conn: Connection, table: Table, queues: Sequence[str]) -> int:
    """How many rows of a table belong to these queues."""
    return int(_value(conn, sql.SQL("select count(*) from {} where {}").format(_qualified(table), table.condition(queues))))


def _stream(
    source: Connection, target: Connection, table: Table, columns: Sequence[str], queues: Sequence[str], shift: Shift
) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    order = sql.SQL("order by {}").format(sql.Identifier(table.numbered)) if table.numbered else sql.SQL("")
    send = sql.SQL("copy (select {} from {} where {} {}) to stdout (format binary)").format(
        sql.SQL(", ").join(shift.expression(column) for column in columns), _qualified(table), table.condition(queues), order
    )
    receive = sql.SQL("copy {} ({}) from stdin (format binary)").format(_qualified(table), names)
    with source.cursor().copy(send) as rows, target.cursor().copy(receive) as into:
        for piece in rows:
            into.write(piece)


def _compare(source: Connection, target: Connection, table: Table, queues: Sequence[str]) -> int:
    sent, arrived = count_rows(source, table, queues), count_rows(target, table, queues)
    if sent != arrived:
        raise RuntimeError(f"absurd.{table.name}: {sent} rows were sent and {arrived} have arrived")
    return sent


def _columns(conn: Connection, table: Table) -> list[str]:
    """The columns to be copied, as the catalogue has them."""
    rows = conn.cursor(row_factory=tuple_row).execute(
        """
        select a.attname from pg_attribute a
        where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attname is distinct from %s
        order by a.attnum""",
        (f"absurd.{table.name}", table.numbered),
    )
    return [str(name) for (name,) in rows]


def _qualified(table: Table) -> sql.Identifier:
    return sql.Identifier("absurd", table.name)


def _value(conn: Connection, statement: sql.Composed) -> Any:
    row = conn.cursor(row_factory=tuple_row).execute(statement).fetchone()
    return None if row is None else row[0]
