"""The dashboard's search of tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import psycopg
import pytest

from absurd import Absurd
from tests.support_dashboard import Visitor, row_ids, text_of, visiting

Conn = psycopg.Connection[Any]


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:
        made.create_queue()
        made.create_queue("other")
        yield made


@pytest.fixture
def visitor(app: Absurd) -> Iterator[Visitor]:
    with visiting(app) as made:
        yield made


def fail_next(conn: Conn, reason: str) -> None:
    run_id = conn.execute("select run_id from absurd.claim_task('default', 'w')").fetchone()
    assert run_id is not None
    conn.execute("select absurd.fail_run('default', %s, %s::jsonb)", (run_id[0], reason))


def test_tasks_are_found_by_each_filter_of_the_form(app: Absurd, visitor: Visitor, conn: Conn) -> None:
    broken = str(app.spawn("mail.send", {"to": "ann"}, max_attempts=1, priority=1).task_id)
    fail_next(conn, '{"name": "ValueError", "message": "no such <address>"}')
    keyed = str(app.spawn("ship", {"to": "bob"}, idempotency_key="order 7&8").task_id)
    other = str(app.spawn("mail.read", {}, queue="other", delay=3600).task_id)
    cases = {
        "tasks": [other, keyed, broken],
        "tasks?name=ship": [keyed],
        "tasks?name=mail*": [other, broken],
        "tasks?queue=other": [other],
        "tasks?state=failed": [broken],
        "tasks?state=sleeping": [other],
        "tasks?key=order+7%268": [keyed],
        f"tasks?id={keyed[:13]}": [task for task in (other, keyed, broken) if task[:13] == keyed[:13]],
        f"tasks?text={keyed}": [keyed],
        "tasks?text=no+such": [broken],
        "tasks?text=BOB": [keyed],
        "tasks?from=2000-01-01T00:00": [other, keyed, broken],
        "tasks?to=2000-01-01T00:00": [],
        "tasks?state=failed&name=ship": [],
    }
    for place, wanted in cases.items():
        assert row_ids(visitor.get(place).text) == wanted, place
    page = visitor.get("tasks?state=failed").text
    assert "no such &lt;address&gt;" in page
    assert f'href="./tasks/{broken}"' in page
    assert "No task fits" in visitor.text("tasks?name=nothing")
    assert 'value="order 7&amp;8"' in visitor.get("tasks?key=order+7%268").text


def test_pages_follow_each_other_and_keep_the_filters(app: Absurd, visitor: Visitor) -> None:
    made = [str(handle.task_id) for handle in app.spawn_many("mail & co", [{}] * 120)]
    app.spawn("other")
    seen: list[str] = []
    place = "tasks?name=mail+%26+co"
    while True:
        page = visitor.get(place).text
        seen += row_ids(page)
        more = re.search(r'<a href="([^"]+)" rel="next">', page)
        if more is None:
            break
        place = unescape(more[1]).lstrip("./")
    assert seen == sorted(made, reverse=True)
    assert "Back to the start" in page


def test_a_search_that_stopped_says_how_far_it_looked_and_goes_on(app: Absurd, visitor: Visitor, conn: Conn) -> None:
    needle = str(app.spawn("mail", {"needle": 1}).task_id)
    app.spawn_many("mail", [{}] * 300)
    text = conn.execute("select pg_get_functiondef('absurd.find_tasks'::regproc)").fetchone()
    assert text is not None
    assert "DEFAULT 50000" in text[0]
    conn.execute(text[0].replace("DEFAULT 50000", "DEFAULT 200").encode())
    answer = visitor.get("tasks?text=needle")
    page = answer.text
    assert row_ids(page) == []
    assert re.search(r"Searched 2\d\d tasks, the newest; there are more. Go on searching", text_of(answer))
    assert "data-live" not in page.partition('id="list"')[2].partition(">")[0]
    more = re.search(r'<a href="([^"]+)" rel="next">', page)
    assert more is not None
    assert row_ids(visitor.get(unescape(more[1]).lstrip("./")).text) == [needle]


@pytest.mark.parametrize("query", ["id=xyz", "from=yesterday", "after=nonsense", "state=done"])
def test_what_cannot_be_searched_for_is_said_on_the_page(visitor: Visitor, query: str) -> None:
    page = visitor.get(f"tasks?{query}").text
    assert 'class="problem"' in page
    assert row_ids(page) == []


@pytest.mark.parametrize("name", ["name", "queue", "text", "key", "id", "from", "after", "state"])
@pytest.mark.parametrize("value", ["%00", "%ED%A0%80", "%F0%9F%92%A9", "*", "%25", "'"])
def test_no_text_in_a_filter_is_an_error_of_the_server(visitor: Visitor, name: str, value: str) -> None:
    answer = visitor.web.get(f"/tasks?{name}={value}")
    assert answer.status_code in (200, 422), text_of(answer)


def test_secrets_in_failures_are_not_shown(app: Absurd, visitor: Visitor, conn: Conn) -> None:
    app.spawn("mail", max_attempts=1)
    fail_next(conn, '{"password": "hunter2", "code": 7}')
    page = visitor.get("tasks").text
    assert "hunter2" not in page
    assert "code" in page


def test_stored_values_of_every_kind_do_not_break_the_list(app: Absurd, visitor: Visitor, conn: Conn) -> None:
    for reason in ('"text"', "[1]", "7", "null", '{"message": {"deep": [1]}}', '{"name": "E\\u0000", "message": "\\ud800"}'):
        app.spawn('<b>"name"', max_attempts=1)
        run_id = conn.execute("select run_id from absurd.claim_task('default', 'w')").fetchone()
        assert run_id is not None
        conn.execute("select absurd.fail_run('default', %s, '1')", run_id)
        conn.execute("update absurd.attempts set failure = %s::json where run_id = %s", (reason, run_id[0]))
    page = visitor.get("tasks").text
    assert len(row_ids(page)) == 6
    assert "<b>" not in page


def test_an_empty_database_says_so(visitor: Visitor) -> None:
    assert "No task has been spawned yet" in visitor.text("tasks")
