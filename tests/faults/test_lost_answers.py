"""Each call to the database in turn: the statement is lost, its answer is lost, or half of the answer arrives."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any, get_args

import psycopg
import pytest

from absurd import queries
from absurd.db import Pool
from absurd.errors import DatabaseUnavailableError
from absurd.queries.query import Query, scalar
from absurd.worker import leases
from absurd.writes import WriteResult
from tests.faults.report import record
from tests.faults.support_calls import CASES, World, difference, digest
from tests.faults.support_scenario import TABLE, add_everything, check_everything
from tests.support_proxy import Loss, LossyProxy
from tests.support_tasks import KINDS, Play

# Modules whose queries no application and no worker sends.
LEFT_OUT = {"testing": "the virtual clock and the asserts of tests"}
# Whose answer to a repetition differs, and why that harms nobody.
OTHER_ANSWER = {
    "admin.cleanup_tasks": "how many it deleted: the second time nothing is left, and the caller stops",
    "admin.cleanup_events": "the same",
    "runs.claim_runs": "the first claim's runs are handed back by release_forgotten",
    "runs.promote_due": "how many were due: they are ready, which the next claim sees",
    "runs.release_runs": "lost: the run is back in its queue",
    "runs.extend_worker_leases": "how many it renewed, for the log",
    "runs.release_forgotten": "how many it handed back, for the log",
    "schedules.backfill_schedule": "how many slots it ran: those of the first time have been",
    "schedules.create_schedule": "`created` may be false, as its docstring says",
    "schedules.delete_schedule": "whether there was one: it is gone",
    "schedules.fire_schedule": "stale: the slot has been fired",
    "schedules.plan_schedule": "false: it has been planned",
    "schedules.reconcile_schedules": "unchanged instead of created",
    "subscriptions.subscribe": "the same row",
    "subscriptions.unsubscribe": "whether there was one: it is gone",
    "triggers.claim_trigger_polls": "the same process takes its poll anew",
    "triggers.release_triggers": "how many it let go",
    "triggers.settle_trigger_poll": "lost: the poll has been settled",
    "listeners.hold_listener_lock": "the session whose answer was lost may still hold it",
    "workers.hold_session_lock": "the same",
    "workers.sweep": "how much it swept, for the log",
}
LOSSES: tuple[Loss, ...] = get_args(Loss)
# Calls that only read: what is lost of one is repeated, and all of them by the same loop.
READS = re.compile(
    r"(dashboard|doctor|activity|inspect)\."
    r"|\w+\.(list_|show_|get_|read_|find_|known_|missing_|has_|count_|queue_options|queue_limits|queue_channel|task_|trigger_names)"
)
SAMPLE = 8


def _query_functions() -> set[str]:
    found = set()
    for module in pkgutil.iter_modules(queries.__path__):
        if module.name in LEFT_OUT:
            continue
        loaded = importlib.import_module(f"absurd.queries.{module.name}")
        for name, function in inspect.getmembers(loaded, inspect.isfunction):
            returns = str(function.__annotations__.get("return", ""))
            if function.__module__ == loaded.__name__ and returns.startswith("Query["):
                found.add(f"{module.name}.{name}")
    return found


def test_every_call_to_the_database_is_attacked_here() -> None:
    assert _query_functions() == {name.partition(" ")[0] for name in CASES}


def _pattern(query: Query[Any]) -> str:
    """A part of the statement by which the proxy knows it."""
    found = re.search(r"absurd\.(?!current_time)\w+\(", query.sql) or re.search(r"absurd\.\w+", query.sql)
    return found.group() if found else query.sql.split("%")[0].strip()[-25:]


def _cases() -> Iterator[object]:
    """All of them in the full form; in the short one those that change something, and some of those that only read."""
    read = 0
    for name in CASES:
        only_reads = READS.match(name) is not None
        read += only_reads
        yield pytest.param(name, marks=pytest.mark.full if only_reads and read % SAMPLE else ())


@pytest.mark.parametrize("name", list(_cases()))
def test_a_lost_call_takes_effect_once_or_says_that_nobody_knows(
    database_url: str, conn: psycopg.Connection[Any], name: str
) -> None:
    world, case = World(conn), CASES[name]
    with LossyProxy(database_url) as proxy:
        query = case(world, "undisturbed")
        before = digest(conn)
        expected = Pool(database_url).run(query)
        effect = difference(before, digest(conn))
        assert READS.match(name) is None or effect == {}, "it changes something: it belongs into the short form"
        for loss in LOSSES:
            query = case(world, f"lost {loss}")
            # A connection that is there, and on which the statement has not been sent before.
            pool = Pool(proxy.url, application_name="absurd lossy")
            pool.run(Query("select 1", (), scalar))
            before = digest(conn)
            rule = proxy.lose(_pattern(query), loss, "absurd lossy")
            if query.repeatable:
                answer = pool.run(query)
                if name not in OTHER_ANSWER:
                    _check_alike(answer, expected)
            else:
                with pytest.raises(DatabaseUnavailableError, match="unknown whether it took effect"):
                    pool.run(query)
                if loss == "statement":
                    assert difference(before, digest(conn)) == {}
                    pool.run(query)
            assert rule.applied == 1
            assert difference(before, digest(conn)) == effect, loss
            pool.close()
    record(
        "statement, answer or half of it lost: each call in turn",
        ["one end", "events once", "fence"],
        runs=3,
        injected=3,
        tasks=4,
    )


def _check_alike(answer: Any, expected: Any) -> None:
    assert type(answer) is type(expected)
    if isinstance(answer, list) and answer and isinstance(answer[0], WriteResult):
        assert [one.status for one in answer] == [one.status for one in expected]
    elif isinstance(answer, (bool, str)) and not str(answer).startswith("{"):
        assert answer == expected


# What a worker sends while it does everything that a task can do, in its own ways and on its own connections.
WORKERS = {
    "absurd.claim_runs": "writer",
    "absurd.promote_due": "writer",
    "absurd.record_checkpoints": "writer",
    "absurd.extend_leases": "writer",
    "absurd.check_waits": "writer",
    "absurd.suspend_runs": "writer",
    "absurd.emit_events": "writer",
    "absurd.create_token": "writer",
    "absurd.spawn_children": "writer",
    "absurd.fail_runs": "writer",
    "absurd.complete_runs": "writer",
    "absurd.set_worker_idle": "writer",
    "COMMIT": "transactions",
    "insert into effects": "transactions",
    "absurd.queue_channel": "notifications",
    'listen "': "notifications",
    "absurd.heartbeat_worker": "leases",
}


@pytest.mark.parametrize("kind", [KINDS[0], pytest.param(KINDS[1], marks=pytest.mark.full)])
@pytest.mark.parametrize("statement", WORKERS)
def test_a_worker_that_loses_calls_does_everything_once(
    database_url: str, conn: psycopg.Connection[Any], statement: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT", 0.05)
    monkeypatch.setattr(leases, "TICK", 0.1)
    conn.execute(TABLE)
    with LossyProxy(database_url) as proxy:
        play = Play(proxy.url, kind)
        add_everything(play)
        rules = [proxy.lose(statement, loss, f"absurd worker: {WORKERS[statement]}") for loss in LOSSES]
        with play.worker(concurrency=2, lease_seconds=4):
            handles = [play.spawn("everything", n) for n in range(2)]
            assert [handle.result(60) for handle in handles] == [0, 1]
            for number in range(2, 50):
                if all(rule.applied for rule in rules):
                    break  # each is the first to find the statement in its turn
                assert play.spawn("everything", number).result(60) == number
                handles.append(handles[0])
        play.close()
    assert [rule.applied for rule in rules] == [1, 1, 1]
    check_everything(play, conn, list(range(len(handles))))
    assert conn.execute("select distinct cause, attempt from absurd.attempts").fetchall() == [("error", 1)]
    record(
        "statement, answer or half of it lost: each call of a worker in turn",
        ["one end", "steps once", "transactions once", "events once", "recovery"],
        injected=3,
        tasks=2 * len(handles),
    )
