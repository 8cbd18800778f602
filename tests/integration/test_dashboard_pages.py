"""The pages of the dashboard but those of tasks: empty, with data, page by page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd import Absurd
from absurd.web.dashboard.pages import PAGES
from tests.support import wait_until
from tests.support_dashboard import Visitor, greeting, listen, register_trigger, register_worker, row_ids, text_of, visiting


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with greeting(database_url) as made:
        yield made


@pytest.fixture
def visitor(app: Absurd) -> Iterator[Visitor]:
    with visiting(app) as made:
        yield made


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "Nothing has failed."),
        ("events", "No event has been emitted yet."),
        ("events?name=x", "No event fits."),
        ("waits", "No task waits for anything."),
        ("waits?event=x&queue=y", "Nothing that waits fits."),
        ("schedules", "There is no schedule."),
        ("schedules?q=x", "No schedule fits."),
        ("triggers", "There is no trigger."),
        ("subscriptions", "No task is subscribed to an event."),
        ("subscriptions?q=x", "No subscription fits."),
        ("listeners", "No listener runs"),
        ("workers", "No worker is alive"),
        ("queues", "default"),
    ],
)
def test_page_of_an_empty_database_says_so(visitor: Visitor, place: str, said: str) -> None:
    assert said in visitor.text(place)


def test_every_page_is_in_the_navigation_and_marked_there(visitor: Visitor) -> None:
    for page in PAGES:
        if "{" in page.path or page.section is not None:
            continue
        text = visitor.get(page.path[1:]).text
        marked = re.findall(r'<a href="([^"]*)" aria-current="page">([^<]*)</a>', text)
        assert marked == [(f"./{page.path[1:]}", page.title)]
        assert "Skip to content" in text


def test_there_is_no_page_of_what_does_not_exist(visitor: Visitor) -> None:
    for place in (
        "events/1",
        "events/x",
        "events/99999999999999999999",
        "schedule?name=x",
        "schedule",
        "trigger?name=",
        "nowhere",
    ):
        assert "There is no" in visitor.text(place, 404)


def test_event_shows_whose_waits_it_ended_and_who_got_it_later(
    app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]
) -> None:
    woken = app.spawn("greet", {"event": "paid"})
    app.run_worker_once()
    app.emit_event("paid", 1)
    app.emit_event("paid", 2)
    assert "at once" in visitor.text("events/1")
    app.run_worker_once()
    conn.execute("update absurd.events set emitted_at = emitted_at - interval '1 hour'")
    late = app.spawn("greet", {"event": "paid"})
    app.run_worker_once()
    page = visitor.get("events/1")
    rows = row_ids(page.text, "taker-")
    assert rows == [f"{task.task_id}-%24await%3Apaid" for task in (woken, late)]
    assert f'href="../tasks/{late.task_id}"' in page.text
    assert "after it was emitted" in text_of(page)
    assert "None: nobody has taken it yet." in visitor.text("events/2")


def test_search_for_takers_goes_on_where_it_ended(app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]) -> None:
    tasks = [app.spawn("greet", {"event": "go"}).task_id for _ in range(5)]
    app.run_worker_once()
    app.emit_event("go")
    for later, order in ((False, tasks[::-1]), (True, tasks)):
        conn.execute("update absurd.events set emitted_at = now() - %s * interval '1 hour'", (int(later),))
        found, place = [], None
        for number in (2, 2, 1):
            sql = "select task_id, next from absurd.takers_of_event(1, %s, %s, 2)"
            rows = conn.execute(sql, (later, place)).fetchall()
            found += [task_id for task_id, _ in rows if task_id is not None]
            place = rows[-1][1]
            assert len(rows) == number + (place is not None)
        assert (found, place) == (order, None)
    page = visitor.get(f"events/1?later={tasks[2]}/%24await%3Ago")
    assert row_ids(page.text, "taker-") == [f"{task}-%24await%3Ago" for task in tasks[3:]]
    assert "Back to the start" in text_of(page)
    assert len(row_ids(visitor.get("events/1?earlier=nothing").text, "taker-")) == 5
    # A page that stays open does not search again and again.
    assert 'id="takers"' not in visitor.get("events/1", headers={"X-Absurd-Live": "1"}).text


def test_log_of_events_shows_source_payload_and_whom_they_started(app: Absurd, visitor: Visitor) -> None:
    app.create_queue("orders")
    app.subscribe("order.*", "greet", queue="orders")
    waiting = app.spawn("greet", {"event": "order.paid"}, queue="orders")
    app.run_worker_once(["orders"])
    app.emit_event("order.placed", {"order": 17}, queue="orders", source={"kind": "webhook", "name": "shop"})
    app.emit_event("user.signed_up", {"user": "ada"})
    text = visitor.text("events")
    assert re.search(r"user.signed_up 2 default .* by nobody yet", text)
    assert re.search(r'order.placed 1 orders .* 1 task webhook shop \{"order": 17\}', text)
    assert "user.signed_up" not in visitor.text("events?queue=orders")
    assert "order.placed" not in visitor.text("events?name=user.signed_up").partition("Payload {")[2]
    assert "No event fits" in visitor.text("events?name=order")
    assert "order.placed" in visitor.text("events?name=order*")
    one = visitor.text("events/1")
    assert "Started by it" in one
    assert "greet pending" in one
    app.emit_event("order.paid", {"sum": 3}, queue="orders")
    _, taken, waits = re.split('id="takers"|id="waiting"', visitor.get("events/3").text)
    assert str(waiting.task_id) in taken
    assert str(waiting.task_id) not in waits
    app.spawn("greet", {"event": "order.sent"}, queue="orders")
    app.run_worker_once(["orders"])
    app.emit_event("order.sent", {}, queue="default")
    assert "Nobody. A task that waits" in visitor.text("events/4")  # that is another queue's


def test_a_subscriber_that_could_not_be_started_is_told_with_its_reason(app: Absurd, visitor: Visitor) -> None:
    app.create_queue("gone")
    app.subscribe("e", "greet", target_queue="gone")
    app.drop_queue("gone")
    app.emit_event("e", {})
    assert "gone" in visitor.text("events/1")
    assert "error" in visitor.text("events/1")


def test_long_payload_is_left_out_of_the_list_and_a_very_long_one_of_the_page(app: Absurd, visitor: Visitor) -> None:
    app.emit_event("long", {"text": "y" * 5000})
    app.emit_event("longer", {"text": "y" * 300_000})
    page = visitor.get("events")
    assert len(page.text) < 20_000
    assert "4.9 kB" in text_of(page)
    assert "y" * 4000 in visitor.get("events/1").text
    assert "too long to be shown" in visitor.text("events/2")


def test_events_are_paged_without_gaps(app: Absurd, visitor: Visitor) -> None:
    for number in range(120):
        app.emit_event(f"e{number}", None)
    seen: list[str] = []
    place: str | None = "events"
    while place is not None:
        page = visitor.get(place)
        seen += re.findall(r'<tr id="event-(\d+)"', page.text)
        found = re.search(r'href="\./([^"]*)" rel="next"', page.text)
        place = found[1].replace("&amp;", "&") if found else None
    assert seen == [str(number) for number in range(120, 0, -1)]


def test_search_without_an_index_ends_after_a_while_and_goes_on(
    app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("create or replace function absurd.search_bound() returns integer language sql immutable as 'select 10'")
    app.emit_event("needle", None)
    for _ in range(25):
        app.emit_event("hay", None)
    places, place = [], "events?name=need*"
    while "needle" not in (page := visitor.get(place)).text.partition("<tbody>")[2]:
        assert "have been searched so far" in text_of(page)
        found = re.search(r'href="\./([^"]*)" rel="next"', page.text)
        assert found is not None
        places.append(place := found[1].replace("&amp;", "&"))
    assert len(places) == 2
    conn.execute("create or replace function absurd.search_bound() returns integer language sql immutable as 'select 40'")
    app.spawn("greet", {"event": "x"})
    for _ in range(25):
        app.spawn("greet", {"sleep": 3600})
    app.run_worker_once()
    page = visitor.get("waits?kind=event")
    pages, rows = 1, page.text.count('<tr id="wait-')
    while (found := re.search(r'href="\./([^"]*)" rel="next"', page.text)) is not None:
        page = visitor.get(found[1].replace("&amp;", "&"))
        pages, rows = pages + 1, rows + page.text.count('<tr id="wait-')
    assert (pages, rows) == (3, 1)
    assert "greet" in visitor.text("waits?event=x")


def test_waits_are_shown_by_kind_queue_and_event(app: Absurd, visitor: Visitor) -> None:
    app.create_queue("mail")
    for params in ({"event": "a"}, {"event": "b"}, {"sleep": 3600}):
        app.spawn("greet", params)
    app.spawn("greet", {"event": "a"}, queue="mail")
    app.run_worker_once(["default", "mail"])

    def rows(query: str) -> int:
        return visitor.get(f"waits?{query}").text.count('<tr id="wait-')

    assert [rows(q) for q in ("", "event=a", "event=a&queue=mail", "kind=sleep", "kind=event", "queue=mail", "kind=token")] == [
        4, 2, 1, 1, 3, 1, 0,
    ]  # fmt: skip


def test_schedules_that_nobody_can_compute_are_shown_with_their_problem(
    app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]
) -> None:
    app.create_schedule("broken", task="greet", cron="0 2 * * *")
    conn.execute("update absurd.schedules set cron = 'every so often', next_slot = null, due_at = null, problem = 'no cron'")
    assert "invalid" in visitor.text("schedules")
    assert "no cron" in visitor.text("schedule?name=broken")
    conn.execute("update absurd.schedules set params = '{\"a\": \"\\u0000\"}', options = '{}'")
    visitor.get("schedule?name=broken")


def test_fires_of_a_trigger_are_shown(visitor: Visitor, conn: psycopg.Connection[Any], app: Absurd) -> None:
    register_trigger(conn, "inbox")
    handle = app.spawn("greet", {})
    sql = """
        insert into absurd.trigger_executions (trigger_name, context_hash, task_id, started_at)
        select 'inbox', md5(i::text), case when i = 60 then %s else gen_random_uuid() end, now() from generate_series(1, 60) i"""
    conn.execute(sql, (handle.task_id,))
    page = visitor.get("trigger?name=inbox")
    assert str(handle.task_id) in page.text
    assert "pending" in text_of(page)
    assert page.text.count('<tr id="fire-') == 50
    more = re.search(r'href="\./([^"]*)" rel="next"', page.text)
    assert more is not None
    assert visitor.get(more[1].replace("&amp;", "&")).text.count('<tr id="fire-') == 10


def test_workers_show_what_each_runs(app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]) -> None:
    register_worker(conn, "web-1", version="1.0")
    register_worker(conn, "web-2", "default", "mail", version="1.1")
    tasks = [app.spawn("greet", {}) for _ in range(13)]
    conn.execute(
        "update absurd.runs set state = 'running', worker_id = 'web-1', epoch = 1, attempt = 2, "
        "started_at = now() - interval '100 s', lease_expires_at = now() + interval '25.9 min'"
    )
    conn.execute("update absurd.workers set heartbeat_at = now() - interval '5 min' where worker_id = 'web-2'")
    text = visitor.text("workers")
    assert "Workers of several versions: 1.0, 1.1" in text
    assert re.search(r"web-1 pid 4711 alive Runs 13 of 8 Queues default Heartbeat (now|\d+ s ago) Lease 30 s", text)
    assert "greet" in text
    assert re.search(r"default 2 1 min in 25 min", text)
    assert "and 8 more, started later" in text
    assert "web-2 pid 4711 stale" in text
    assert str(tasks[0].task_id) in visitor.get("workers").text
    conn.execute("update absurd.workers set missing_since = now() where worker_id = 'web-1'")
    assert "web-1 pid 4711 dead" in visitor.text("workers")


def test_a_real_worker_is_seen_while_it_runs(app: Absurd, visitor: Visitor) -> None:
    seen: list[str] = []

    @app.register_task("look")
    def look(params: Any, ctx: Any) -> None:
        with visiting(app) as other:
            seen.append(wait_until(lambda: text if "look" in (text := other.text("workers")) else "", what="the run"))

    app.spawn(look, {})
    app.run_worker_once()
    assert "alive" in seen[0]
    assert re.search(r"look …\w+ default 1 \d+ s in \d+ s", seen[0])


def test_listeners_are_shown_with_their_errors(visitor: Visitor, conn: psycopg.Connection[Any]) -> None:
    listen(conn, "rabbitmq")
    listen(conn, "files", "waiting", "no such directory")
    listen(conn, "old")
    conn.execute("update absurd.listeners set heartbeat_at = now() - interval '10 min' where name = 'old'")
    text = visitor.text("listeners")
    assert re.search(r"rabbitmq listening default", text)
    assert "no such directory waiting" in text
    assert "2 starts 3" in text
    assert "old dead" in text


def test_static_files_are_kept_and_their_urls_change_with_them(visitor: Visitor) -> None:
    page = visitor.get().text
    for link in re.findall(r'(?:href|src)="\./(static/[^"]*)"', page):
        assert re.search(r"\?v=[0-9a-f]{12}$", link)
        answer = visitor.get(link)
        assert "max-age" in answer.headers["cache-control"]
    for wrong in ("static/../app.py", "static/%2e%2e%2fapp.py", "static/nothing.css"):
        visitor.get(wrong, 404)
