"""What the forms of the dashboard do, and what they say when they cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urljoin

import psycopg
import pytest

from absurd import Absurd
from tests.support_dashboard import Visitor, form_of, greeting, register_trigger, text_of, visiting
from tests.support_tasks import count


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with greeting(database_url) as made:
        yield made


@pytest.fixture
def visitor(app: Absurd) -> Iterator[Visitor]:
    with visiting(app) as made:
        yield made


def test_emit_form_emits_and_a_refused_one_keeps_what_was_typed(app: Absurd, visitor: Visitor) -> None:
    app.create_queue("orders")
    done = visitor.post("events/emit", {"name": "order.paid:1", "queue": "orders", "payload": '{"sum": 12.5}', "key": "k"})
    page = visitor.follow(done)
    assert page.url.path == "/events/1"
    assert "Event number 1 has been emitted." in text_of(page)
    assert '"sum": 12.5' in text_of(page)
    assert "http dashboard" in text_of(page)
    assert "has been emitted" not in visitor.text("events/1")  # a message is told once
    again = visitor.follow(visitor.post("events/emit", {"name": "order.paid:1", "queue": "orders", "payload": "", "key": "k"}))
    assert "Nothing was done" in text_of(again)
    for fields, said in (
        ({"name": "e", "queue": "orders", "payload": "{'a': 1}"}, "The payload is no JSON"),
        ({"name": "e", "queue": "orders", "payload": "NaN"}, "NaN is no number"),
        ({"name": " ", "queue": "orders"}, "Give a name for the event"),
        ({"name": "e"}, "Give a queue"),
        ({"name": "e" * 2000, "queue": "orders"}, "the limit is 1000"),
        ({"name": "e", "queue": "orders", "payload": '"\\u0000"'}, "NUL"),
    ):
        refused = visitor.post("events/emit", fields, 422)
        assert said.lower() in text_of(refused).lower(), said
        assert "open" in re.findall(r'<details class="panel" id="emit"([^>]*)>', refused.text)[0]
    refused = visitor.post("events/emit", {"name": "e", "queue": "nowhere", "payload": "<b>"}, 422)
    assert "&lt;b&gt;</textarea>" in refused.text
    missing = visitor.post("events/emit", {"name": "e", "queue": "nowhere", "payload": "1"}, 404)
    assert '"nowhere" does not exist' in text_of(missing)
    assert "order.paid:1" in visitor.get("events?emit=order.paid:1").text


def test_emit_wakes_who_waits(app: Absurd, visitor: Visitor) -> None:
    task = app.spawn("greet", {"event": "paid:1"})
    app.run_worker_once()
    page = visitor.get("waits")
    assert re.search(r"greet …\w+ event paid:1 default (now|\d+ s ago) – Emit …", text_of(page))
    link = re.search(r'href="\./(events\?[^"#]*)#emit"', page.text)
    assert link is not None
    assert 'value="paid:1"' in visitor.get(link[1].replace("&amp;", "&")).text
    visitor.post("events/emit", {"name": "paid:1", "queue": "default", "payload": "7"})
    app.run_worker_once()
    assert task.result(timeout=5) == 7
    assert "No task waits" in visitor.text("waits")


def test_schedules_are_paused_resumed_and_run_now(app: Absurd, visitor: Visitor) -> None:
    app.create_schedule("nightly/report", task="greet", cron="0 2 * * *", timezone="Europe/Berlin", params={"kind": "full"})
    app.create_schedule("beat", event="beat", every="1h", run_immediately=False)
    text = visitor.text("schedules")
    assert "0 2 * * * (Europe/Berlin)" in text
    assert "every 1 h" in text
    assert len(re.findall(r"<li>20\d\d-", visitor.get("schedules").text)) == 8  # the times after the next, of both
    assert "nightly" not in visitor.text("schedules?q=BEAT")
    assert "is paused" in visitor.press("schedules", "Pause", name="nightly/report")
    assert app.list_schedules()[1].status == "paused"
    assert "goes on" in visitor.press("schedule?name=nightly%2Freport", "Resume")
    assert app.list_schedules()[1].status == "active"
    started = visitor.post("schedules/run", {"name": "nightly/report"})
    task_id = started.headers["location"].rpartition("/")[2]
    app.run_worker_once()
    assert app.get_result(task_id).result == {"kind": "full"}
    assert "has emitted its event" in visitor.press("schedules", "Run now", name="beat")
    one = visitor.text("schedule?name=nightly%2Freport")
    for part in ("Next", '"kind": "full"', "by hand", "in all"):
        assert part in one
    for action in ("pause", "resume", "run"):
        assert "no schedule" in text_of(visitor.post(f"schedules/{action}", {"name": "x"}, 404))


def test_triggers_are_disabled_and_enabled(app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]) -> None:
    register_trigger(conn, "inbox")
    conn.execute("update absurd.triggers set last_error = 'connection refused', last_error_at = now(), failures = 4")
    text = visitor.text("triggers")
    assert "4 failed polls: connection refused" in text
    assert "nobody" in text
    assert "It has not fired yet" in visitor.text("trigger?name=inbox")
    assert "is disabled" in visitor.press("triggers", "Disable", name="inbox")
    assert not app.list_triggers()[0].enabled
    assert "is enabled" in visitor.press("trigger?name=inbox", "Enable")
    assert app.list_triggers()[0].enabled
    assert "no trigger" in text_of(visitor.post("triggers/disable", {"name": "x"}, 422)).lower()


def test_subscription_is_ended(app: Absurd, visitor: Visitor) -> None:
    app.create_queue("orders")
    app.subscribe("order.*", "greet", queue="orders", target_queue="default", config={"template": "hello"})
    app.subscribe("user.*", "greet")
    text = visitor.text("subscriptions")
    assert re.search(r'order\.\* orders greet in default \{"template": "hello"\}', text)
    assert "order.*" not in visitor.text("subscriptions?queue=default")
    assert "user.*" not in visitor.text("subscriptions?q=ORDER")
    assert "is not started by order.* any more" in visitor.press("subscriptions", "Unsubscribe", pattern="order.*")
    assert app.list_subscriptions(queue="orders") == []
    again = visitor.post("subscriptions/unsubscribe", {"queue": "orders", "pattern": "order.*", "task": "greet"})
    assert "any more" in text_of(visitor.follow(again))


def test_queue_is_paused_and_resumed(app: Absurd, visitor: Visitor) -> None:
    task = app.spawn("greet", {"a": 1})
    assert "is paused" in visitor.press("queues", "Pause", queue="default")
    assert app.run_worker_once() == 0
    assert "goes on" in visitor.press("queues", "Resume", queue="default")
    app.run_worker_once()
    assert task.result(timeout=5) == {"a": 1}
    assert "does not exist" in text_of(visitor.post("queues/pause", {"queue": "nowhere"}, 404))


def test_after_an_action_the_page_is_shown_as_it_was(app: Absurd, visitor: Visitor) -> None:
    app.create_schedule("a b", task="greet", every="1h")
    page = visitor.follow(visitor.post("schedules/pause?q=a+b", {"name": "a b"}))
    assert (page.url.path, page.url.params["q"]) == ("/schedules", "a b")


def test_a_page_that_asks_for_itself_again_takes_no_message(visitor: Visitor) -> None:
    visitor.post("queues/pause", {"queue": "default"})
    live = visitor.get("queues", headers={"X-Absurd-Live": "1"})
    assert "is paused" not in text_of(live)
    assert "is paused" in visitor.text("queues")
    assert "is paused" not in visitor.text("queues")


def twice(visitor: Visitor, place: str, button: str, **instead: str) -> list[str]:
    """Where a form leads to that a page's visitor sends twice at once, and then a third time; and what it says then."""
    action, fields = form_of(visitor.get(place), button, **instead)
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: visitor.web.post(action, data=fields, follow_redirects=False), range(2)))
    answers.append(visitor.web.post(action, data=fields, follow_redirects=False))
    assert [answer.status_code for answer in answers] == [303] * 3, text_of(answers[-1])
    return [urljoin(str(answer.url), answer.headers["location"]) for answer in answers]


def test_a_form_that_is_sent_twice_makes_one_copy_and_every_answer_leads_to_it(
    app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]
) -> None:
    task = app.spawn("greet", {"event": "paid:1"})
    app.emit_event("paid:1", 7)
    app.run_worker_once()
    place, ((step,),) = f"tasks/{task.task_id}", conn.execute("select step_name from absurd.checkpoints").fetchall()
    copies = []
    for number, (button, fields) in enumerate((("Run a copy", {}), ("Retry from here", {"step": step})), 2):
        found = set(twice(visitor, place, button, **fields))
        assert len(found) == 1
        assert count(conn, "select count(*) from absurd.tasks") == number
        copies.extend(found)
    assert len(set(copies)) == 2
    # Whoever loads the page again means it again.
    assert twice(visitor, place, "Run a copy")[0] not in copies
    assert count(conn, "select count(*) from absurd.runs") == 3


def test_an_attempt_is_retried_once_though_the_form_is_sent_again(
    app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]
) -> None:
    task = app.spawn("greet", {"fail": "no"})
    app.run_worker_once()
    action, fields = form_of(visitor.get(f"tasks/{task.task_id}"), "Retry")
    assert "Attempt 2 is ready" in text_of(visitor.follow(visitor.web.post(action, data=fields, follow_redirects=False)))
    assert "Attempt 2 had been started" in text_of(visitor.follow(visitor.web.post(action, data=fields, follow_redirects=False)))
    app.run_worker_once()
    assert "Attempt 2 had been started" in text_of(visitor.follow(visitor.web.post(action, data=fields, follow_redirects=False)))
    assert app.get_result(task.task_id).state == "failed"


def test_schedules_run_and_events_are_emitted_once_though_the_form_is_sent_again(
    app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]
) -> None:
    app.create_schedule("report", task="greet", every="1h", run_immediately=False)
    app.create_schedule("beat", event="beat", every="1h", run_immediately=False)
    assert len(set(twice(visitor, "schedules", "Run now", name="report"))) == 1
    assert count(conn, "select count(*) from absurd.tasks") == 1
    assert len(set(twice(visitor, "schedules", "Run now", name="beat"))) == 1
    assert count(conn, "select count(*) from absurd.events") == 1
    once = re.search(r'name="once" value="([^"]+)"', visitor.get("events").text)[1]  # type: ignore[index]
    form = {"name": "paid", "queue": "default", "payload": "1", "once": once}
    first = visitor.post("events/emit", form).headers["location"]
    again = visitor.post("events/emit", form)
    assert again.headers["location"] == first
    assert "sent twice" in text_of(visitor.follow(again))
    assert visitor.post("events/emit", {**form, "payload": "2"}).headers["location"] != first
    assert count(conn, "select count(*) from absurd.events") == 3
