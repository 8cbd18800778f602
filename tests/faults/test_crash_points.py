"""A process is killed at every named point between two commits; another one goes on, and every promise holds.

The points are found in the sources. A point that no scenario reaches fails: there are no dead ones. The short form goes through
all scenarios to see that, and kills at some of the points.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.crash_points.points import find_points
from tests.faults.crash_points.scenarios import PROGRAMS, SCENARIOS
from tests.faults.report import Promise, record
from tests.support_amqp import AMQP_URL, own_queue, require_broker

ROOT = Path(__file__).parents[2]
KILLED = -9

# Of which scenario a point is part; all others belong to "program".
PLACES: dict[str, str] = {
    "context.paused": "lasts",
    "leases.renewed": "lasts",
    "context.loaded": "long",
    "context.looked": "traced",
    "writer.reconnected": "cut",
    "writer.forgotten-handed-back": "cut",
    "writer.written-alone": "locked",
    "leases.swept-first": "idle worker",
    "leases.beaten": "busy worker",
    "engine.told-idle": "busy worker",
    "engine.handed-back": "stopped worker",
    "engine.wrote-last": "stopped worker",
    "engine.unregistered": "stopped worker",
    "pool.committed": "clients",
    "async-pool.committed": "clients",
    "client.batch-spawned": "clients",
    "async-client.batch-spawned": "clients",
    "cleanup.batch-deleted": "clean-up",
    "retention.batch-deleted": "retention",
    "schedules.planned": "schedules",
    "schedules.rejected": "schedules",
    "schedules.fired": "schedules",
    "triggers.registered": "triggers",
    "triggers.claimed": "triggers",
    "triggers.polled": "triggers",
    "triggers.settled": "triggers",
    "triggers.released": "triggers",
    "notify.lock-held": "notify",
    "notify.listening": "notify",
    "notify.started": "notify",
    "listener.beaten": "notify",
    "listener.unregistered": "notify",
    "listener.spawned": "webhook",
    "webhook.started": "webhook",
    "files.started": "files",
    "async-listener.spawned": "async listener",
    "rabbitmq.started": "rabbitmq",
    "rabbitmq.acknowledged": "rabbitmq",
    "rabbitmq.buried": "rabbitmq",
    "rabbitmq.kept": "rabbitmq away",
}
POINTS = sorted(find_points())
# At every so many-th of them the short form kills.
SAMPLE = 14
# Points that are reached again and again: the full form also kills there later.
REPEATED = {
    point for point in POINTS if point.startswith(("context.", "writer.", "promoter.", "triggers.", "pool.", "async-pool."))
} - {"context.paused", "context.loaded", "context.looked", "triggers.registered", "triggers.released", "writer.reconnected"}
REPEATED -= {"writer.forgotten-handed-back", "writer.written-alone"}


@pytest.fixture(scope="module")
def victims() -> Iterator[subprocess.Popen[str]]:
    """The process that makes victims."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.crash_points.victim"],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(60)


def kind_of(point: str) -> str:
    """The kind of handlers that a case takes: what is there twice is gone through in both forms by the full one."""
    return "async" if point.startswith("async-") else "sync"


def scenario_of(point: str) -> str:
    """The scenario that a point is part of."""
    return PLACES.get(point, "program")


def live(victims: subprocess.Popen[str], **order: Any) -> int:
    """How a victim ended."""
    assert victims.stdin is not None
    assert victims.stdout is not None
    victims.stdin.write(json.dumps(order) + "\n")
    victims.stdin.flush()
    return int(victims.stdout.readline())


def some_of(points: Sequence[str]) -> list[Any]:
    """All of them in the full form, a sample in the short one."""
    return [pytest.param(point, marks=() if place % SAMPLE == 0 else pytest.mark.full) for place, point in enumerate(points)]


@pytest.mark.short  # the full form kills at each of them
@pytest.mark.parametrize(("scenario", "kind"), sorted({(scenario_of(point), kind_of(point)) for point in POINTS}))
def test_each_point_is_reached_by_its_scenario(
    scenario: str, kind: str, victims: subprocess.Popen[str], database_url: str, tmp_path: Path
) -> None:
    notes = tmp_path / "points"
    with the_scene(scenario, database_url, tmp_path) as (conn, extra):
        ended = live(victims, scenario=scenario, url=database_url, kind=kind, extra=extra, point=None, notes=str(notes))
        assert ended == 0
        check(conn, scenario)
    wanted = {point for point in POINTS if (scenario_of(point), kind_of(point)) == (scenario, kind)}
    assert wanted <= set(notes.read_text().split())


def test_no_scenario_is_left_over() -> None:
    assert {scenario_of(point) for point in POINTS} == set(SCENARIOS)
    assert set(PLACES) <= set(POINTS)


@pytest.mark.parametrize("point", some_of(POINTS))
def test_killed_there_another_process_goes_on_and_every_promise_holds(
    point: str, victims: subprocess.Popen[str], database_url: str, tmp_path: Path
) -> None:
    strike(point, 1, kind_of(point), victims, database_url, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(("point", "occurrence"), [(point, 2 + place % 2) for place, point in enumerate(sorted(REPEATED))])
def test_the_same_where_it_is_reached_again(
    point: str, occurrence: int, victims: subprocess.Popen[str], database_url: str, tmp_path: Path
) -> None:
    strike(point, occurrence, kind_of(point), victims, database_url, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("context.")])
def test_the_same_with_async_handlers(point: str, victims: subprocess.Popen[str], database_url: str, tmp_path: Path) -> None:
    strike(point, 1, "async", victims, database_url, tmp_path)


def strike(point: str, occurrence: int, kind: str, victims: subprocess.Popen[str], url: str, directory: Path) -> None:
    """One case, from the kill to the promises."""
    with the_scene(scenario_of(point), url, directory) as (conn, extra):
        kill_and_go_on(victims, conn, point, occurrence, kind, url, extra)


@contextmanager
def the_scene(scenario: str, url: str, directory: Path) -> Iterator[tuple[Any, Any]]:
    """What a scenario needs besides the database, and a connection to that."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create table effects (name text)")
        conn.execute("create table booked (number integer)")
        if scenario.startswith("rabbitmq"):
            require_broker()
            with own_queue() as broker:
                broker.declare()
                broker.publish({"workflow_id": "nobody"}, message_id="m")
                if scenario == "rabbitmq":
                    broker.publish(b"no JSON")
                yield conn, [AMQP_URL, broker.queue]
        else:
            yield conn, str(directory)


def kill_and_go_on(
    victims: subprocess.Popen[str], conn: Any, point: str, occurrence: int, kind: str, url: str, extra: Any
) -> None:
    """Kills a process at the point, lets another one bring the scenario to its end, and looks at the promises."""
    scenario = scenario_of(point)
    case = {"scenario": scenario, "url": url, "kind": kind, "extra": extra, "notes": None}
    ended = live(victims, **case, point=point, occurrence=occurrence)
    assert ended == KILLED, f"the scenario {scenario!r} does not reach the point {point}: exit code {ended}"
    recorded, done = recorded_steps(conn), effects(conn)
    assert live(victims, **case, point=None) == 0
    check(conn, scenario)
    again = effects(conn)
    for name in recorded & set(done):
        assert again[name] == done[name], f"{name} was recorded and ran again"
    assert all(times <= 2 for times in again.values()), again
    promises: list[Promise] = ["one end", "steps once", "transactions once", "events once", "recovery"]
    record("process killed (SIGKILL) at a named point", promises, tasks=max(number(conn, "select count(*) from absurd.tasks"), 1))


def recorded_steps(conn: Any) -> set[str]:
    """Effects whose step is recorded: the result of such a step is the effect's name."""
    rows = conn.execute("select state #>> '{}' from absurd.checkpoints where step_name in ('first', 'last', 'work')")
    return {name for (name,) in rows}


def effects(conn: Any) -> dict[str, int]:
    """How often each effect took place."""
    return dict(conn.execute("select name, count(*) from effects group by name").fetchall())


def number(conn: Any, sql: str) -> int:
    """The number that a query answers."""
    return int(conn.execute(sql).fetchone()[0])


def check(conn: Any, scenario: str) -> None:
    """What has to be there in the end, whatever happened before."""
    ends = conn.execute("select task_name, outcome, count(*) from absurd.tasks group by 1, 2 order by 1, 2").fetchall()
    if scenario in ("program", "traced"):
        assert ends == [("child", "completed", PROGRAMS), ("program", "completed", PROGRAMS)]
        results = conn.execute(
            "select result #>> '{0}', result #>> '{1}' from absurd.tasks where task_name = 'program'"
        ).fetchall()
        assert sorted(results) == [(str(n), str(n)) for n in range(PROGRAMS)]
        assert conn.execute("select number from booked order by number").fetchall() == [(n,) for n in range(PROGRAMS)]
        assert number(conn, "select count(*) from absurd.events") == PROGRAMS
        assert set(effects(conn)) == {f"{e} {n}" for e in ("first", "last", "child") for n in range(PROGRAMS)}
    elif scenario == "busy worker":
        assert ends == [("child", "completed", 40), ("lasts", "completed", 1)]
    elif scenario == "clients":
        assert ends == [("nobody", None, 1501)]
        assert number(conn, "select count(*) from absurd.events") == 1
    elif scenario in ("clean-up", "retention"):
        assert ends == []
    elif scenario == "schedules":
        fired = conn.execute("select headers -> 'absurd-source' ->> 'slot', count(*) from absurd.tasks group by 1").fetchall()
        assert all(slot is not None and times == 1 for slot, times in fired), fired
    elif scenario == "triggers":
        assert ends == [("fired", "completed", 3)]
        fired = conn.execute("select params ->> 'n' from absurd.tasks order by 1").fetchall()
        assert fired == [("1",), ("2",), ("3",)]
    elif scenario in ("notify", "files", "webhook", "async listener", "rabbitmq", "rabbitmq away"):
        assert ends == [("nobody", None, 1)]
    else:
        assert [(outcome, count) for _, outcome, count in ends] == [("completed", PROGRAMS if scenario == "locked" else 1)]
    if scenario not in ("clients", "schedules", "notify", "files", "webhook", "async listener", "rabbitmq", "rabbitmq away"):
        assert number(conn, "select count(*) from absurd.runs") == 0
