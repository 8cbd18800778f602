"""What keeps vacuum away, and how our tables fare without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from absurd.doctor.finding import Finding, ago, error, mib, ok, warning
from absurd.queries.doctor import Holder, ServerFacts, TableFacts

# Seconds from which on a transaction counts as old, and as stuck.
OLD_SECONDS, STUCK_SECONDS = 60.0, 900.0
# Dead rows beyond which a table is worth a word, whatever their share is.
MANY_DEAD = 10_000
# Dead rows, as a multiple of those at which autovacuum should have come, from which on it does not keep up.
LAG_FACTOR = 3.0
# The table that every claim reads: so many bytes for each live row, and no fewer in all, are bloat.
QUEUE_ROW_BYTES, QUEUE_LEAST_BYTES = 4_000, 64 * 2**20
# The part of the transactions until a forced vacuum from which on something is wrong with the usual one.
FROZEN_SHARE = 1.5


def check_holders(holders: Sequence[Holder], facts: ServerFacts) -> Iterator[Finding]:
    """Old transactions: they keep dead rows in every table, and may hold locks."""
    for holder in holders:
        yield from _holder(holder)
    if not holders:
        yield ok("transactions", f"none is older than {OLD_SECONDS:.0f} s")
    if not facts.sees_sessions:
        yield warning(
            "transactions",
            f"the role {facts.user} does not see what sessions of other roles do",
            "A transaction that is stuck there does not show here.",
            f'grant pg_read_all_stats to "{facts.user}";',
        )


def _holder(holder: Holder) -> Iterator[Finding]:
    who = f"{holder.kind} of {holder.user or 'replication'}" + (f" ({holder.application})" if holder.application else "")
    why = "Rows that died since cannot be removed: claims walk past them and become slower. What it has locked waits."
    if holder.kind == "replication slot":
        todo = f"Let its consumer catch up, or: select pg_drop_replication_slot('{holder.application}');"
        yield error("transactions", f"{who} holds back vacuum; it is {holder.state}", why, todo)
        return
    if holder.kind == "prepared transaction":
        todo = f"rollback prepared '{holder.application}';  -- or commit prepared"
        yield error("transactions", f"{who} is {ago(holder.seconds)} old", why, todo)
        return
    what = f"{who}, process {holder.pid}, is {ago(holder.seconds)} old" + (f" and {holder.state}" if holder.state else "")
    todo = f"End it where it was begun, or: select pg_terminate_backend({holder.pid});"
    if holder.state in ("idle in transaction", "idle in transaction (aborted)"):
        todo += " Against the next one: alter role … set idle_in_transaction_session_timeout = '10min';"
    make = error if holder.seconds >= STUCK_SECONDS else warning
    yield make("transactions", what, why, todo)


def check_tables(tables: Sequence[TableFacts]) -> Iterator[Finding]:
    """Bloat and vacuum of our tables."""
    problems = [finding for table in tables for finding in _table(table)]
    yield from problems
    if not problems:
        total = sum(table.total_bytes for table in tables)
        yield ok("tables", f"{mib(total)} in all; vacuum keeps up")


def _table(table: TableFacts) -> Iterator[Finding]:
    last = "never" if table.vacuumed_seconds is None else f"{ago(table.vacuumed_seconds)} ago"
    if not table.autovacuum:
        yield error(
            "tables",
            f"autovacuum is switched off for absurd.{table.name}",
            "Its dead rows are never removed.",
            f"alter table absurd.{table.name} reset (autovacuum_enabled);",
        )
    elif table.dead > MANY_DEAD and table.dead > LAG_FACTOR * table.threshold:
        yield warning(
            "tables",
            f"absurd.{table.name} has {table.dead:,} dead rows beside {table.live:,} live ones; vacuumed last: {last}",
            "Autovacuum should have come: an old transaction keeps it from its work, or it has too few workers for this server.",
            f"vacuum (verbose, analyze) absurd.{table.name};  -- its output says what it cannot remove, and why",
        )
    if table.name == "runs" and table.total_bytes > max(QUEUE_LEAST_BYTES, QUEUE_ROW_BYTES * table.live):
        yield warning(
            "tables",
            f"absurd.runs, the queue itself, takes {mib(table.total_bytes)} for {table.live:,} live rows",
            "It has been much larger, or was not vacuumed for long; sweeps and lists read all of it.",
            "vacuum full absurd.runs;  -- locks the queue for as long as it takes: seconds, at a quiet time",
        )
    if table.frozen_age > FROZEN_SHARE * table.freeze_max_age:
        yield error(
            "tables",
            f"absurd.{table.name} has not been frozen for {table.frozen_age:,} transactions",
            "At two thousand million PostgreSQL stops to take writes.",
            f"vacuum (freeze, verbose) absurd.{table.name};",
        )
