"""The dashboard's page of one task: everything that is known of it, and what can be done about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from absurd import Absurd, RetryStrategy
from tests.support import wait_until
from tests.support_dashboard import HOSTILE, Visitor, row_ids, text_of, visiting
from tests.support_roles import logins
from tests.support_tasks import Play

Conn = psycopg.Connection[Any]


@pytest.fixture
def shop(sync_play: Play) -> Play:
    """An order of three steps and a wait, with a child; it fails when its params say so."""
    play = sync_play

    @play.task("child")
    async def child(params: Any, ctx: Any) -> int:
        return 7

    @play.task("order", max_attempts=2, retry=RetryStrategy.fixed(0))
    async def order(params: Any, ctx: Any) -> Any:
        await ctx.step("reserve", lambda: {"place": "Köln", "password": "hunter2"})
        await ctx.await_task(await ctx.spawn("child", {}))
        await ctx.step("charge", lambda: play.seen.append("charge"))
        if params.get("broken"):
            raise ValueError("the card was <refused>")
        paid = await ctx.await_event("paid", timeout=params.get("timeout"))
        return await ctx.step("ship", lambda: {"paid": paid})

    return play


@pytest.fixture
def visitor(shop: Play) -> Iterator[Visitor]:
    with visiting(shop.app) as made:
        yield made


def reached(shop: Play, state: str, params: Any) -> Any:
    """An order that a worker has brought to a state; to sleep: until it waits for its payment."""
    with shop.worker(), psycopg.connect(shop.url, autocommit=True) as conn:
        handle = shop.app.spawn("order", params, headers={"tenant": 3})
        paying = "select count(*) from absurd.waits where task_id = %s and event_name = 'paid'"
        wait_until(lambda: handle.state() == state and (state != "sleeping" or count(conn, paying, handle.task_id) == 1))
    return handle


def count(conn: Conn, statement: str, *args: Any) -> int:
    row = conn.execute(statement.encode(), args).fetchone()
    assert row is not None
    return int(row[0])


def after(visitor: Visitor, place: str, fields: dict[str, str] | None = None) -> tuple[str, str]:
    """Sends a form and follows the answer: the path of the page that comes, and its text."""
    answer = visitor.follow(visitor.post(place, fields or {}))
    assert answer.status_code == 200
    return answer.url.path, text_of(answer)


def refused(visitor: Visitor, place: str, fields: dict[str, str] | None = None, status: int = 422) -> str:
    """Sends a form that is refused; what the page says."""
    return text_of(visitor.post(place, fields or {}, status))


def test_the_page_shows_what_the_task_did_and_waits_for(shop: Play, visitor: Visitor) -> None:
    place = f"tasks/{reached(shop, 'sleeping', {'timeout': 3600}).task_id}"
    page = visitor.get(place).text
    text = visitor.text(place)
    for word in (
        "order",
        "sleeping",
        "reserve",
        "charge",
        "Köln",
        "tenant",
        "child",
        "Waits now",
        "paid",
        "attempt 1",
        "this task",
    ):
        assert word in text, word
    assert "hunter2" not in page
    assert "waits for event paid" in text
    assert row_ids(page, "step-")[0] == "0-reserve"
    assert re.search(r'<rect x="[\d.]+%" y="3" width="[\d.]+%"', page)
    assert "style=" not in page
    child = re.search(r'id="child-([0-9a-f-]+)"', page)
    assert child is not None
    assert "Parents and children order" in visitor.text(f"tasks/{child[1]}")


def test_a_failed_task_shows_its_traceback_and_can_be_retried(shop: Play, visitor: Visitor) -> None:
    handle = reached(shop, "failed", {"broken": True})
    page = visitor.get(f"tasks/{handle.task_id}").text
    assert "ValueError: the card was &lt;refused&gt;" in page
    assert 'class="trace"' in page
    assert page.index("<dt>Why</dt>") < page.index('id="timeline"')
    assert row_ids(page, "attempt-") == ["2", "1"]
    assert "Attempt 3 is ready" in visitor.press(f"tasks/{handle.task_id}", "Retry")
    assert handle.state() == "pending"


def test_a_task_is_cancelled_once(shop: Play, visitor: Visitor) -> None:
    handle = shop.app.spawn("order", {})
    place = f"tasks/{handle.task_id}"
    assert "The task is cancelled" in visitor.press(place, "Cancel")
    assert handle.state() == "cancelled"
    assert "nothing to cancel: the task is cancelled" in refused(visitor, f"{place}/cancel")


def test_a_copy_goes_on_from_the_chosen_step(shop: Play, visitor: Visitor) -> None:
    handle = reached(shop, "failed", {"broken": True})
    shop.seen.clear()
    place = f"tasks/{handle.task_id}"
    assert "it goes on from step charge" in visitor.press(place, "Retry from here", step="charge")
    path, text = after(visitor, f"{place}/fork", {"step": "charge"})
    assert path != f"/{place}"
    assert "from step charge" in text.partition("Copy of")[2]
    assert "came along" in text
    copy = shop.app.task(path.rpartition("/")[2])
    with shop.worker():
        wait_until(lambda: copy.state() == "failed")
    assert set(shop.seen) == {"charge"}
    assert handle.state() == "failed"
    assert 'no step "refund"' in refused(visitor, f"{place}/fork", {"step": "refund"})


def test_a_copy_begins_at_the_beginning(shop: Play, visitor: Visitor) -> None:
    handle = reached(shop, "failed", {"broken": True})
    assert "No step has been recorded yet" in visitor.press(f"tasks/{handle.task_id}", "Run a copy")
    path, _ = after(visitor, f"tasks/{handle.task_id}/copy")
    assert path != f"/tasks/{handle.task_id}"


def test_a_delayed_task_is_run_now(shop: Play, visitor: Visitor) -> None:
    handle = shop.app.spawn("child", {}, delay=3600)
    place = f"tasks/{handle.task_id}"
    assert "sleeps until its time" in visitor.text(place)
    assert "its time is now" in visitor.press(place, "Run now")
    assert handle.state() == "pending"
    assert "/run" not in visitor.get(place).text


def test_a_wait_without_a_time_has_no_button_and_is_refused(shop: Play, visitor: Visitor) -> None:
    timed, endless = reached(shop, "sleeping", {"timeout": 3600}), reached(shop, "sleeping", {})
    assert "Time out now" in visitor.text(f"tasks/{timed.task_id}")
    assert "Time out now" not in visitor.text(f"tasks/{endless.task_id}")
    assert 'it waits for event "paid"' in refused(visitor, f"tasks/{endless.task_id}/run")


def test_the_event_that_it_waits_for_is_emitted(shop: Play, visitor: Visitor, conn: Conn) -> None:
    handle = reached(shop, "sleeping", {})
    place = f"tasks/{handle.task_id}"
    assert "Emit paid" in visitor.text(place)
    form = {"event": "paid", "queue": "default"}
    text = refused(visitor, f"{place}/emit", {**form, "payload": "{sum: 1}"})
    assert "The payload is no JSON" in text
    assert "{sum: 1}" in text  # to be mended
    assert "Event paid has been emitted" in after(visitor, f"{place}/emit", {**form, "payload": '{"sum": 1}'})[1]
    with shop.worker():
        assert handle.result(20) == {"paid": {"sum": 1}}
    assert "does not wait for event" in refused(visitor, f"{place}/emit", {**form, "payload": "1"})
    assert conn.execute("select count(*), min(source ->> 'name') from absurd.events").fetchone() == (1, "dashboard")


def test_large_values_have_a_page_of_their_own(shop: Play, visitor: Visitor) -> None:
    handle = shop.app.spawn("child", {"long": "x" * 9000, "token": "t0ps3cret"})
    place = f"tasks/{handle.task_id}"
    page = visitor.get(place).text
    assert "x" * 100 not in page
    assert f'href="../{place}/value?what=params"' in page
    whole = visitor.get(f"{place}/value?what=params").text
    assert "x" * 9000 in whole
    assert "t0ps3cret" not in whole
    visitor.get(f"{place}/value?what=checkpoint&step=a", 404)
    visitor.get(f"{place}/value?what=nonsense", 422)


def test_lists_about_a_task_come_in_pages(shop: Play, visitor: Visitor, conn: Conn) -> None:
    task = shop.app.spawn("child", {}).task_id
    conn.execute(
        "insert into absurd.checkpoints (task_id, step_name, position, state, completed_at)"
        " select %s, 'step ' || n, n, '1', now() from generate_series(1, 120) as n", (task,),
    )  # fmt: skip
    conn.execute(
        "insert into absurd.attempts (run_id, task_id, queue_name, attempt, epoch, ended_at, cause, failure, final)"
        " select gen_random_uuid(), %s, 'default', n, 1, now(), 'error', '1', false from generate_series(1, 119) as n", (task,),
    )  # fmt: skip
    conn.execute("update absurd.runs set attempt = 120")
    shop.app.spawn_many("child", [{}] * 120)
    conn.execute("update absurd.tasks set parent_task_id = %s where task_id <> %s", (task, task))
    for prefix, key in (("step-", "position"), ("attempt-", "attempt"), ("child-", "child")):
        seen: list[str] = []
        place = f"tasks/{task}"
        for _ in range(3):
            page = visitor.get(place).text
            found = re.findall(rf'id="{prefix}([^"]+)"', page)
            assert 0 < len(found) <= 50
            seen += found
            links = [unescape(link) for link in re.findall(r'<a href="([^"]+)" rel="next">', page)]
            place = next((link.lstrip("./") for link in links if f"{key}=" in link), "")
        assert place == ""
        assert len(set(seen)) == len(seen) == 120, key


def test_a_page_of_a_reader_has_no_forms_and_changes_nothing(shop: Play, conn: Conn) -> None:
    handle = reached(shop, "sleeping", {"timeout": 60})
    place = f"tasks/{handle.task_id}"
    with logins(conn) as urls:
        reader = Absurd(urls["reader"])
        with visiting(reader, read_only=True) as visitor:
            assert row_ids(visitor.get("tasks").text)[-1] == str(handle.task_id)
            assert "<form" not in visitor.get(place).text.partition("<main")[2]
            assert "Köln" in visitor.text(f"{place}/value?what=checkpoint&step=reserve")
            for action in ("cancel", "retry", "copy", "fork", "run", "emit"):
                visitor.post(f"{place}/{action}", {"step": "charge", "event": "paid", "queue": "default"}, 403)
        reader.close()
    assert handle.state() == "sleeping"


def test_a_task_that_is_not_there_is_not_found(visitor: Visitor) -> None:
    assert "There is no task" in visitor.text(f"tasks/{uuid4()}", 404)
    assert "is not the id of a task" in visitor.text("tasks/nonsense", 404)


def test_names_and_values_of_every_kind_are_shown_as_text(shop: Play, visitor: Visitor, conn: Conn) -> None:
    source = {"kind": HOSTILE, "forked_from": [1]}
    handle = shop.app.spawn(HOSTILE, {HOSTILE: HOSTILE}, headers={"absurd-source": source}, idempotency_key=HOSTILE)
    place = f"tasks/{handle.task_id}"
    conn.execute(
        "insert into absurd.checkpoints (task_id, step_name, position, state, completed_at) values (%s, %s, 0, %s::json, now())",
        (handle.task_id, HOSTILE, json.dumps({"deep": "\0", "e": HOSTILE})),
    )
    page = visitor.get(place).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    conn.execute("update absurd.tasks set params = '\"\\u0000\\ud800\"'")
    visitor.get(place)
    conn.execute("update absurd.runs set available_at = 'infinity', started_at = '-infinity', lease_expires_at = '294276-12-31'")
    visitor.get(place)
    visitor.get("tasks")
    conn.execute("update absurd.tasks set spawned_at = '4714-12-01 BC'")
    visitor.get(place)
    visitor.get("tasks")
    deep = "[" * 3000 + "]" * 3000
    conn.execute("update absurd.tasks set params = %s::json, headers = %s::json", (deep, '{"absurd-source": ' + deep + "}"))
    assert "cannot be shown" in visitor.text(place)


@pytest.mark.parametrize(
    "query", ["what=%00", "what=checkpoint&step=%00", "what=failure&attempt=99999999999", "what=failure", "what=checkpoint"]
)
def test_no_text_in_the_url_is_an_error_of_the_server(shop: Play, visitor: Visitor, query: str) -> None:
    place = f"tasks/{shop.app.spawn('child', {}).task_id}"
    assert visitor.web.get(f"/{place}/value?{query}").status_code in (404, 422)
    assert visitor.web.get(f"/{place}?position=1&step=%00").status_code == 422
    assert visitor.web.get(f"/{place}?position=99999999999&step=a&attempt=99999999999&child=x").status_code == 200
