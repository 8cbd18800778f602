"""Names and values that want to be run, or that no page can hold, on every page of the dashboard but those of tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from absurd import Absurd
from tests.support_dashboard import HOSTILE, Visitor, greeting, listen, register_trigger, register_worker, visiting

OWN = ("events", "waits", "schedules", "triggers", "subscriptions", "listeners", "workers", "queues")


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with greeting(database_url) as made:
        yield made


@pytest.fixture
def visitor(app: Absurd) -> Iterator[Visitor]:
    with visiting(app) as made:
        yield made


def test_hostile_names_and_values_are_shown_as_they_are(app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]) -> None:
    evil = HOSTILE
    app.register_task(evil)(lambda params, ctx: ctx.await_event(evil))
    app.create_queue(evil[:57])
    app.spawn(evil, {evil: evil}, queue=evil[:57])
    app.spawn("greet", {"fail": evil})
    app.subscribe(evil, evil, config={evil: evil})
    app.run_worker_once(["default", evil[:57]])
    app.emit_event(evil, {evil: evil}, source={"kind": evil, "name": evil})
    app.emit_event(evil, evil, source={"kind": "schedule", "name": evil})
    app.emit_event(evil, [], source={"kind": ["x"], "name": {"y": evil}})
    app.create_schedule(evil, task=evil, every="1h", params={evil: evil}, queue=evil[:57])
    app.pause_schedule(evil)
    register_trigger(conn, evil, evil)
    conn.execute("update absurd.triggers set last_error = %s, owner = %s, last_error_at = now()", (evil, evil))
    conn.execute("update absurd.subscriptions set last_error = %s, last_error_at = now()", (evil,))
    conn.execute("update absurd.schedules set last_error = %s, last_error_at = now(), problem = %s", (evil, evil))
    register_worker(conn, evil, evil, version=evil)
    listen(conn, evil, "waiting", evil)
    named = [f"{place}?name={quoted}" for quoted in [quote(evil, safe="")] for place in ("schedule", "trigger", "events")]
    searched = [f"{place}?q={quote(evil, safe='')}" for place in ("schedules", "subscriptions")]
    places = [
        "",
        *OWN,
        *named,
        *searched,
        "events/1",
        "events/2",
        "events/3",
        f"waits?event={quote(evil, safe='')}&kind={quote(evil, safe='')}",
    ]
    for place in places:
        page = visitor.get(place).text
        assert "<script>" not in page.replace("<script defer src=", ""), place
        assert "alert" in page, place
        assert "{{ 7+7 }}" in page, place
        assert not re.search(r"""<[^<>]*\s(?:on\w+)\s*=""", page), place
        # Nothing in a value ends the attribute that it stands in.
        assert f'"{evil}' not in page
    answer = visitor.press("schedules", "Resume", name=evil)
    assert f"Schedule {evil}" in answer
    assert f"{evil} is disabled" in visitor.press("triggers", "Disable", name=evil)
    assert "is paused" in visitor.press("queues", "Pause", queue=evil[:57])
    assert "any more" in visitor.press("subscriptions", "Unsubscribe", pattern=evil)


def test_stored_text_that_utf8_cannot_hold_breaks_no_page(app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]) -> None:
    conn.execute('select absurd.append_event(\'default\', \'odd\', \'{"a": "\\ud800", "b": "\\u0000"}\'::json)')
    conn.execute("select absurd.append_event('default', 'deep', (repeat('[', 3000) || repeat(']', 3000))::json)")
    conn.execute("select absurd.append_event('default', 'big', (repeat('9', 3900))::json)")
    for place in ("events", "events/1", "events/2", "events/3"):
        visitor.get(place)
    assert "cannot be shown" in visitor.text("events/2")
    handle = app.spawn("greet", {"fail": "x"})
    app.run_worker_once()
    conn.execute('update absurd.attempts set failure = \'{"name": "\\u0000", "message": "\\u0000"}\'')
    assert str(handle.task_id) in visitor.get().text
    conn.execute("update absurd.attempts set failure = '[1]'")
    visitor.get()
