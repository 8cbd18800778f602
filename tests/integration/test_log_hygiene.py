"""No payload is logged at INFO or above: not by workers, listeners, clients or the command line."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd, AbsurdError, Fire, schema
from absurd.listeners import FileListener, NotifyListener, WebhookListener
from absurd.listeners.notify import read_payload
from absurd.listeners.order import MalformedMessageError, read_order
from tests.conftest import MakeServer
from tests.support import wait_until
from tests.support_listeners import listening
from tests.support_web import KEY, SECRET, serving

MARK = "s3cr3t-payload"


@dataclass
class Order:
    """What some of the tasks want; what is marked is none."""

    number: int


@pytest.fixture
def typed(database_url: str, caplog: pytest.LogCaptureFixture) -> Iterator[Absurd]:
    """An application with a typed task; at the end, whatever was logged at INFO or above holds no value."""
    caplog.set_level(logging.INFO)
    with Absurd(database_url) as app:

        @app.register_task("order", max_attempts=1)
        def order(params: Order, ctx: Any) -> int:
            return params.number

        @app.register_task("result", max_attempts=1)
        def result(params: Any, ctx: Any) -> Order:
            return ctx.step("made", lambda: params, result_type=Order)  # type: ignore[no-any-return]

        yield app
    written = [record for record in caplog.get_records("call") if record.name.startswith("absurd")]
    assert written
    assert MARK not in "\n".join(map(logging.Formatter().format, written))


@pytest.mark.parametrize(
    "body",
    [
        f'["{MARK}"]',
        f'"{MARK}"',
        f'{{"{MARK}": "{MARK}"}}',
        f'{{"{MARK}": NaN',
        f'{{"text": "{MARK}",',
        b'{"a": "\xff' + MARK.encode(),
        "[" * 100_000 + MARK,
    ],
)
def test_a_complaint_about_a_message_does_not_repeat_it(body: bytes | str) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        read_order(body)
    assert MARK not in str(caught.value)


@pytest.mark.parametrize("payload", ["[1]", '"a-name"', '["a", "b"]', "{", "[", ""])
def test_json_that_is_no_object_is_not_taken_for_the_name_of_a_task(payload: str) -> None:
    with pytest.raises(MalformedMessageError):
        read_payload(payload)


def test_the_life_of_a_task_logs_none_of_its_values(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    app = Absurd(database_url)

    @app.register_task("child")
    def child(params: Any, ctx: Any) -> Any:
        return params

    @app.register_task("parent", max_attempts=2, retry="fixed")
    def parent(params: Any, ctx: Any) -> Any:
        ctx.step("charge", lambda: {"card": MARK})
        ctx.emit_event("sent", {"text": MARK})
        ctx.spawn("child", {"text": MARK}, headers={"h": MARK})
        if ctx.attempt == 1:
            ctx.await_event("answer")
        return {"result": MARK, "answer": ctx.await_event("answer")}

    app.subscribe("answer", "child", config={"c": MARK})
    with app.worker():
        task = app.spawn("parent", {"text": MARK}, headers={"h": MARK})
        app.emit_event("answer", {"text": MARK})
        assert task.result(timeout=60)["result"] == MARK
        app.create_schedule("soon", task="child", every=3600, params={"p": MARK}, run_immediately=True)
        refused = app.spawn("child", {"text": MARK}, max_attempts=1, cancellation={"max_delay": 0})
        wait_until(lambda: app.get_result(refused.task_id).state in ("cancelled", "completed"))
    app.close()
    assert MARK not in caplog.text
    assert caplog.records


def test_a_value_of_another_type_is_logged_by_its_place(
    typed: Absurd, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Absurd(database_url) as stranger, typed.worker():
        for name in ("order", "result"):
            task = stranger.spawn(name, {"number": MARK})
            with pytest.raises(AbsurdError):
                task.result(timeout=60)
            assert MARK not in json.dumps(task.snapshot().failure)
    assert "does not fit Order: 1 validation error for Order" in caplog.text


@pytest.mark.parametrize("missing", [False, True])
def test_http_requests_log_nothing_that_they_hold(typed: Absurd, conn: psycopg.Connection[Any], missing: bool) -> None:
    if missing:
        conn.execute("drop schema absurd cascade")  # each answer is an error, which the log describes
    else:
        typed.create_queue()
    with serving(typed) as web:
        tried = [
            web.post("/api/tasks/order", json={"params": {"number": MARK}, "headers": {"h": MARK}}),
            web.post("/api/tasks/other", json={"params": {"text": MARK}, "headers": {"h": MARK}}),
            web.post("/api/tasks/other", json={"params": 1, "options": MARK, MARK: MARK}),
            web.post("/api/tasks/order", content=f'{{"params": "{MARK}'.encode(), headers={"Content-Type": "application/json"}),
            web.post("/api/events/paid", json={"payload": {"card": MARK}}),
            web.post("/api/tasks/other", json={}, headers={"X-API-Key": MARK}),
            web.get("/api/queues", headers={"Authorization": f"Bearer {MARK}", "Cookie": f"session={MARK}"}),
            web.post("/webhooks/paid", content=MARK.encode(), headers={"X-Webhook-Signature": MARK, "X-Token": MARK}),
            web.post(f"/webhooks/paid?code={MARK}", content=MARK.encode()),
            web.get(f"/tokens/{MARK}"),
            web.post(f"/tokens/{MARK}", json={"answer": MARK}),
        ]
    logging.getLogger("absurd.web").info("this many: %s", len(tried))
    assert {answer.status_code // 100 for answer in tried} <= {2, 4, 5}
    assert all(KEY not in answer.text and SECRET not in answer.text for answer in tried)


def test_listeners_log_nothing_that_they_hear(typed: Absurd, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    typed.create_queue()
    notified, posted = NotifyListener(app=typed), WebhookListener(port=0, api_key=KEY, app=typed)
    files = FileListener(tmp_path, "order", quiet_seconds=0.1, existing=True, app=typed)
    (tmp_path / "in.txt").write_text(MARK)
    with listening(notified), listening(posted), listening(files):
        wait_until(notified.listening.is_set)
        wait_until(lambda: posted.address)
        for text in (
            json.dumps({"workflow_id": "order", "params": {"number": MARK}}),
            json.dumps({"workflow_id": "work", "params": MARK}),
            json.dumps({"workflow_id": [MARK]}),
            f'{{"{MARK}',
        ):
            conn.execute("select pg_notify('workflow_triggers', %s)", [text])
        assert posted.address is not None
        for name, body, key in (
            ("order", f'{{"number": "{MARK}"}}', KEY),
            ("work", f'"{MARK}"', KEY),
            ("work", MARK, KEY),
            ("work", "1", MARK),
        ):
            caller = http.client.HTTPConnection(*posted.address, timeout=20)
            caller.request(
                "POST", f"/trigger/{name}", body, {"X-API-Key": key, "Content-Type": "application/json", "Cookie": MARK}
            )
            assert caller.getresponse().status in (200, 400, 401, 500)
            caller.close()
        wait_until(lambda: notified._health.failures >= 3)
        wait_until(lambda: files._health.failures >= 1)  # the task takes no path


def test_triggers_log_nothing_that_they_fire_with(typed: Absurd, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [
        Fire({"text": MARK}),
        Fire({"text": object(), "more": MARK}),
        Fire({"text": MARK * 100}),
        [{"text": MARK}],
        Fire({"number": MARK}),
    ]
    polled = 0

    @typed.trigger("marked", task="order", poll_interval=0.1)
    def marked(state: dict[str, Any]) -> Any:
        nonlocal polled
        polled += 1
        state["text"] = MARK
        return answers.pop(0) if answers else False

    typed.create_queue()
    typed.set_queue_limits(max_payload_bytes=1024)
    with typed.worker(poll_interval=0.2):
        wait_until(lambda: not answers, 60, "the polls")
        wait_until(lambda: "fired: task" in caplog.text, 60, "a fire")


def test_the_log_of_the_embedded_server_holds_no_values(make_server: MakeServer) -> None:
    server = make_server()
    with psycopg.connect(server.url(), autocommit=True) as conn:
        schema.install(conn)
    with Absurd(server.url()) as app:

        @app.register_task("work", max_attempts=2, retry="fixed")
        def work(params: Any, ctx: Any) -> Any:
            ctx.step("made", lambda: {"text": MARK})
            ctx.emit_event("made", {"text": MARK})
            return params

        app.set_queue_limits(max_payload_bytes=1024)
        with app.worker():
            assert app.spawn(work, {"text": MARK}, headers={"h": MARK}).result(timeout=60) == {"text": MARK}
            for refused in (
                lambda: app.spawn(work, {"text": MARK * 1000}),
                lambda: app.emit_event("made", {"text": MARK * 1000}),
                lambda: app.spawn(work, MARK, queue="nowhere"),
                lambda: app.complete_token(MARK, MARK),
            ):
                with pytest.raises(AbsurdError):
                    refused()
        with psycopg.connect(server.url(), autocommit=True) as conn, pytest.raises(psycopg.Error):
            conn.execute("select absurd.spawn_task('default', 'work', %s::text::json)", (f'{{"{MARK}',))
    assert "ERROR" in server.log.read_text()  # those that were refused
    assert MARK not in server.log.read_text()
