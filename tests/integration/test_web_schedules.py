"""Events at an interval over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from absurd import Absurd
from tests.integration.test_cli_serve import served
from tests.support import wait_until
from tests.support_web import serving


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as app:
        yield app


@pytest.fixture
def web(app: Absurd) -> Iterator[TestClient]:
    with serving(app) as client:
        yield client


def test_g27_schedule_answers_with_its_interval_in_either_form(web: TestClient, app: Absurd) -> None:
    answer = web.post("/api/schedule/tick?interval_seconds=5", json={"a": 1})
    assert answer.status_code == 200
    assert answer.json() == {
        "message": "Event tick scheduled to run every 5 seconds",
        "event_type": "tick",
        "interval_seconds": 5,
    }
    answer = web.post("/api/schedule/tock", json={"interval_seconds": 60, "payload": {"b": 2}})
    assert answer.json()["message"] == "Event tock scheduled to run every 60 seconds"
    made = app.get_schedule("tock")
    assert made is not None
    assert (made.event_name, made.interval_seconds, made.params) == ("tock", 60, {"b": 2})


def test_g28_schedule_is_due_at_once(web: TestClient, conn: psycopg.Connection[Any]) -> None:
    web.post("/api/schedule/tick?interval_seconds=60")
    assert conn.execute("select due_at <= absurd.current_time() from absurd.schedules").fetchone() == (True,)


def test_g29_interval_below_five_seconds_is_400(web: TestClient, app: Absurd) -> None:
    for answer in (
        web.post("/api/schedule/tick?interval_seconds=4"),
        web.post("/api/schedule/tick?interval_seconds=-1"),
        web.post("/api/schedule/tick", json={"interval_seconds": 0}),
    ):
        assert (answer.status_code, answer.json()) == (400, {"detail": "Interval must be at least 5 seconds"})
    assert app.list_schedules() == []


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("", None),
        ("", {}),
        ("", []),
        ("", {"interval_seconds": "60"}),
        ("", {"interval_seconds": True}),
        ("", {"interval_seconds": 60, "more": 1}),
        ("", {"interval_seconds": 60, "payload": [1]}),
        ("", {"interval_seconds": 10**30}),
        ("?interval_seconds=60", [1]),
        ("?interval_seconds=5.5", None),
        ("?interval_seconds=nan", None),
        ("?interval_seconds=" + "9" * 5000, None),
    ],
)
def test_g27_what_cannot_be_used_is_422(web: TestClient, app: Absurd, query: str, body: Any) -> None:
    answer = web.post(f"/api/schedule/tick{query}", json=body)
    assert answer.status_code == 422, answer.text
    assert app.list_schedules() == []


def test_g30_scheduled_twice_is_200_and_says_so_also_with_another_interval(web: TestClient, app: Absurd) -> None:
    web.post("/api/schedule/tick?interval_seconds=60")
    for interval in (60, 90):
        answer = web.post(f"/api/schedule/tick?interval_seconds={interval}")
        assert (answer.status_code, answer.json()) == (
            200,
            {"message": "Event tick already scheduled", "event_type": "tick", "interval_seconds": 60},
        )
    assert len(app.list_schedules()) == 1


def test_k12_name_of_a_schedule_of_another_kind_is_409_and_it_is_neither_listed_nor_cancelled(
    web: TestClient, app: Absurd
) -> None:
    app.create_schedule("report", task="report", every=3600)
    assert web.post("/api/schedule/report?interval_seconds=60").status_code == 409
    assert web.get("/api/schedule").json() == {}
    assert web.delete("/api/schedule/report").status_code == 404
    assert app.get_schedule("report") is not None


def test_g32_cancel_says_whether_there_was_one(web: TestClient) -> None:
    web.post("/api/schedule/a/b?interval_seconds=60")
    answer = web.delete("/api/schedule/a/b")
    assert (answer.status_code, answer.json()) == (200, {"message": "Scheduled event a/b cancelled"})
    answer = web.delete("/api/schedule/a/b")
    assert (answer.status_code, answer.json()) == (404, {"detail": "No scheduled event found for a/b"})


def test_g33_list_shows_interval_start_and_payload(web: TestClient) -> None:
    assert web.get("/api/schedule").json() == {}
    web.post("/api/schedule/tick?interval_seconds=60", json={"b": 1, "a": 2})
    web.post("/api/schedule/tock?interval_seconds=5")
    found = web.get("/api/schedule").json()
    assert list(found) == ["tick", "tock"]
    assert set(found["tick"]) == {"interval_seconds", "started_at", "payload"}
    assert (found["tick"]["interval_seconds"], list(found["tick"]["payload"].items())) == (60, [("b", 1), ("a", 2)])
    assert found["tock"]["payload"] == {}


def test_g31_two_servers_make_one_schedule_that_is_there_after_a_restart(database_url: str, tmp_path: Path) -> None:
    with served(tmp_path, database_url) as (_, one), served(tmp_path, database_url) as (_, other):
        said = [web.post("/api/schedule/tick?interval_seconds=60").json()["message"] for web in (one, other)]
        assert said == ["Event tick scheduled to run every 60 seconds", "Event tick already scheduled"]
        assert one.get("/api/schedule").json() == other.get("/api/schedule").json()
    with served(tmp_path, database_url) as (_, again):
        assert list(again.get("/api/schedule").json()) == ["tick"]


def test_g31_one_schedule_fires_once_however_many_servers_and_schedulers_there_are(
    app: Absurd, web: TestClient, conn: psycopg.Connection[Any]
) -> None:
    @app.register_task("any")
    def any_task(params: Any, ctx: Any) -> None: ...

    with serving(app) as other, app.worker(), app.worker():
        for server in (web, other):
            assert server.post("/api/schedule/tick?interval_seconds=3600", json={"a": 1}).status_code == 200
        wait_until(lambda: conn.execute("select fired_count = 1 from absurd.schedules").fetchone() == (True,))
        # Every scheduler knows of the next slot, which is an hour away, before it could fire the first one again.
        fired = conn.execute("select payload from absurd.events").fetchall()
        assert [list(payload) for (payload,) in fired] == [["a", "scheduled_at"]]


def test_g31_payload_carries_the_last_run_from_the_second_time_on(
    app: Absurd, web: TestClient, conn: psycopg.Connection[Any]
) -> None:
    web.post("/api/schedule/tick?interval_seconds=3600")
    for _ in range(2):
        conn.execute("select set_config('absurd.fake_now', due_at::text, false) from absurd.schedules")
        fired = conn.execute(
            """select f.status from absurd.schedules s, absurd.fire_schedule(s.schedule_name, s.revision, s.next_slot,
              array[s.next_slot], s.next_slot + interval '1 hour', s.next_slot + interval '1 hour') f"""
        ).fetchone()
        assert fired == ("fired",)
    first, second = (row[0] for row in conn.execute("select payload from absurd.events order by seq").fetchall())
    assert set(first) == {"scheduled_at"}
    assert set(second) == {"scheduled_at", "last_run"}
