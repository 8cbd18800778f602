"""What the database says after a round: the rows that the oracle judges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]

# A task that an event has started has its program in the event's payload.
TASKS = """
select t.task_id, coalesce(t.params ->> 'key', t.params -> 'event_payload' ->> 'key') as key, t.queue_name,
  t.task_name, t.outcome, t.result, t.spawned_at, t.finished_at
from absurd.tasks t
"""
CHECKPOINTS = """
select c.task_id, c.step_name, c.position, c.kind, c.event_seq, c.owner_run_id, c.completed_at,
  pg_xact_commit_timestamp(c.xmin) as committed_at
from absurd.checkpoints c
"""
ATTEMPTS = """
select a.task_id, a.run_id, a.attempt, a.cause, a.final, a.worker_id, a.failure ->> 'name' as failure,
  a.failure ->> 'message' as message
from absurd.attempts a
"""
EVENTS = """
select e.seq, e.queue_name, e.event_name, e.payload, coalesce(e.payload ->> 'by', e.payload ->> 'key') as by, e.delivered
from absurd.events e
"""
EFFECTS = "select * from public.effects order by began, at"
ACTS = "select a.*, pg_xact_commit_timestamp(a.xmin) as committed_at from public.acts a"
LEFT = """
select 'run' as what,
  r.run_id::text || ' of task ' || r.task_id || ', ' || r.state || coalesce(' at ' || r.worker_id, '') as row from absurd.runs r
union all select 'wait', w.kind || ' of task ' || coalesce(w.task_id::text, '?') from absurd.waits w where w.kind <> 'client'
union all select 'event that was not delivered', e.event_name from absurd.events e where not e.delivered
"""


@dataclass
class Evidence:
    """Everything of one round."""

    tasks: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    checkpoints: dict[UUID, dict[str, Row]] = field(default_factory=lambda: defaultdict(dict))
    attempts: dict[UUID, dict[UUID, Row]] = field(default_factory=lambda: defaultdict(dict))
    events: dict[tuple[str, str], list[Row]] = field(default_factory=lambda: defaultdict(list))
    emissions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    effects: dict[tuple[str, str], list[Row]] = field(default_factory=lambda: defaultdict(list))
    acts: dict[str, Row] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    stopped_workers: set[str] = field(default_factory=set)
    """Names of workers that were asked to stop: they hand back runs without an attempt."""

    def emitted_at(self, event: Row) -> Any:
        """When an emission was committed, exactly; ``None`` if that is not known."""
        return self._commits.get(event["seq"]) or (self.acts.get(str(event["by"])) or {}).get("committed_at")

    def __post_init__(self) -> None:
        self._commits: dict[int, Any] = {}

    def count(self) -> dict[str, int]:
        """How much there is, for the report."""
        effects = [row for rows in self.effects.values() for row in rows]
        return {
            "tasks": sum(map(len, self.tasks.values())),
            "runs with effects": len({(row["run_id"], row["epoch"]) for row in effects}),
            "attempts lost": sum(row["cause"] in ("lease", "worker") for rows in self.attempts.values() for row in rows.values()),
            "steps": sum(row["kind"] == "step" for row in effects),
            "transaction effects": sum(row["kind"] == "transaction" for row in effects),
            "events": sum(map(len, self.events.values())),
            "waits decided": sum(c["kind"] != "step" for rows in self.checkpoints.values() for c in rows.values()),
        }


def read(conn: psycopg.Connection[Any], stopped_workers: Iterable[str]) -> Evidence:
    """Reads it all, at one moment."""
    found = Evidence(stopped_workers=set(stopped_workers))
    with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute("set transaction isolation level repeatable read, read only")
        for row in cursor.execute(TASKS.encode()):
            found.tasks[row["key"]].append(row)
        for row in cursor.execute(CHECKPOINTS.encode()):
            found.checkpoints[row["task_id"]][row["step_name"]] = row
            if row["step_name"].startswith("$emit:"):
                found._commits[row["event_seq"]] = row["committed_at"]
        for row in cursor.execute(ATTEMPTS.encode()):
            found.attempts[row["task_id"]][row["run_id"]] = row
        for row in cursor.execute(EVENTS.encode() + b" order by e.seq"):
            found.events[row["queue_name"], row["event_name"]].append(row)
            found.emissions[row["by"]] += 1
        for row in cursor.execute(EFFECTS.encode()):
            found.effects[row["key"], row["node"]].append(row)
        found.acts = {row["id"]: row for row in cursor.execute(ACTS.encode())}
        found.left = [f"{row['what']}: {row['row']}" for row in cursor.execute(LEFT.encode())]
    return found
