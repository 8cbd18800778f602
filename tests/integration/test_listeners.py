"""Listeners that users write: the base class, what it promises, and that no name of theirs is in its way."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from absurd import Absurd, AsyncAbsurd, AsyncEventListener, ConfigurationError, EventListener, Principal, Result
from absurd.listeners import run_listener
from tests.support_listeners import tasks

Conn = psycopg.Connection[Any]
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"


class Timer(EventListener):
    """As in the seed: no ``super().__init__()``, and names of its own that the base might have wanted."""

    def __init__(self) -> None:
        self.principal = Principal("clock", host="localhost", port=4242)
        self.app = object()
        self.queue_name = "cdktr-workflows"
        self.stopped = False

    def start_listening(self) -> Result:  # type: ignore[override]
        return super().run_workflow("tick")


@pytest.fixture(autouse=True)
def _environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSURD_DATABASE_URL", database_url)


def test_c22_base_class_demands_start_listening() -> None:
    with pytest.raises(NotImplementedError, match=r"^Subclasses must implement start_listening\(\)$"):
        EventListener().start_listening()


def test_c35_async_start_listening_belongs_to_the_async_base_class() -> None:
    class Mixed(EventListener):
        async def start_listening(self) -> None:  # type: ignore[override]
            raise AssertionError

    with pytest.raises(ConfigurationError, match="is async; derive from AsyncEventListener"):
        run_listener(Mixed())


async def test_c35_async_base_class_demands_it_too() -> None:
    with pytest.raises(NotImplementedError, match=r"^Subclasses must implement start_listening\(\)$"):
        await AsyncEventListener().start_listening()


def test_c29_subclass_without_init_of_the_base_starts_tasks_by_super(conn: Conn) -> None:
    listener = Timer()
    result = listener.start_listening()
    assert result.success
    assert result.error is None
    assert result.task_id != result.run_id
    assert tasks(conn, "tick") == [(None, {"kind": "listener", "name": "Timer"})]
    listener._client.close()  # type: ignore[union-attr]


def test_c27_principal_keeps_what_it_is_given_and_hides_passwords() -> None:
    principal = Principal("rabbitmq", host="broker", port=5672, password="hunter2", url="amqp://me:hunter2@broker/")
    assert (principal.name, principal.host, principal.port, principal.password) == ("rabbitmq", "broker", 5672, "hunter2")
    assert repr(principal) == "Principal('rabbitmq', host='broker', port=5672, password=***, url='amqp://me:***@broker/')"
    assert repr(Principal()) == "Principal()"
    assert Principal(name="mail").name == "mail"


@pytest.mark.parametrize("workflow_id", [None, "", 3, [], "x" * 1001, "nul\0", "\ud800", lambda: None])
def test_c23_run_workflow_never_raises_for_ids_that_cannot_be(workflow_id: Any) -> None:
    result = Timer().run_workflow(workflow_id)
    assert not result.success
    assert not result.retryable
    assert result.error


@pytest.mark.parametrize("params", [object(), {"a": float("nan")}, "nul\0"])
def test_c23_run_workflow_never_raises_for_params_that_cannot_be(params: Any) -> None:
    result = Timer().run_workflow("tick", params)
    assert (result.success, result.retryable) == (False, False)


def test_c24_run_workflow_never_raises_without_a_database() -> None:
    result = EventListener(Absurd(NOWHERE)).run_workflow("tick")
    assert not result.success
    assert result.retryable
    assert "cannot be reached" in str(result.error)


def test_c24_unknown_queue_is_an_error_that_may_pass(database_url: str) -> None:
    with Absurd(database_url, "elsewhere") as app:
        result = EventListener(app).run_workflow("tick")
        assert (result.success, result.retryable) == (False, True)
        assert 'queue "elsewhere" does not exist' in str(result.error)
        app.create_queue()
        assert EventListener(app).run_workflow("tick")


def test_c41_params_and_idempotency_key(database_url: str, conn: Conn) -> None:
    with Absurd(database_url) as app:
        listener = EventListener(app, name="mailbox")
        first = listener.run_workflow("mail", {"to": "Ada"}, idempotency_key="mail-1")
        again = listener.run_workflow("mail", {"to": "Bob"}, "mail-1")
    assert first == again
    assert tasks(conn) == [({"to": "Ada"}, {"kind": "listener", "name": "mailbox"})]


def test_c39_target_queue_and_definition_of_the_task_hold(database_url: str, conn: Conn) -> None:
    with Absurd(database_url) as app:
        app.create_queue("mail")
        app.create_queue("bulk")

        @app.register_task("letter", queue="mail", priority=7)
        def letter(params: Any, ctx: Any) -> None: ...

        assert EventListener(app).run_workflow(letter, 1)
        assert EventListener(app, target_queue="bulk").run_workflow("letter", 2)
    rows = conn.execute("select queue_name, params, priority from absurd.tasks order by task_id").fetchall()
    assert rows == [("mail", 1, 7), ("bulk", 2, 7)]


def test_c34_async_listener_starts_tasks_with_either_client(database_url: str, conn: Conn) -> None:
    import asyncio

    class Mailbox(AsyncEventListener):
        def __init__(self, app: Any) -> None:
            self.app = app

        async def start_listening(self) -> None:
            assert await super().run_workflow("mail", 1)
            assert not await super().run_workflow("")

    async def both() -> None:
        async with AsyncAbsurd(database_url) as app:
            await Mailbox(app).start_listening()
        with Absurd(database_url) as plain:
            await Mailbox(plain).start_listening()

    asyncio.run(both())
    assert len(tasks(conn, "mail")) == 2


def test_c33_sync_listener_starts_tasks_with_an_async_client(database_url: str, conn: Conn) -> None:
    listener = EventListener(AsyncAbsurd(database_url))
    assert listener.run_workflow("mail", 1)
    listener._loop_thread.submit(listener._client.close()).result()  # type: ignore[arg-type]
    listener._loop_thread.stop()
    assert len(tasks(conn, "mail")) == 1


def test_constructor_refuses_an_app_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="must be an Absurd or AsyncAbsurd"):
        EventListener("app")  # type: ignore[arg-type]


def test_stop_is_heard_by_whoever_looks_later_or_waits() -> None:
    listener = EventListener()
    waiting = threading.Thread(target=listener.stopped.wait)
    waiting.start()
    listener.stop()
    waiting.join(10)
    assert not waiting.is_alive()
    early = EventListener()
    early.stop()
    assert early.stopped.is_set()


def test_c40_origin_in_the_headers_is_the_listener_and_other_headers_stay(database_url: str, conn: Conn) -> None:
    with Absurd(database_url) as app:

        @app.register_task("mail", headers={"absurd-source": {"kind": "http", "name": "first"}, "tenant": 1})
        def mail(params: Any, ctx: Any) -> None: ...

        assert EventListener(app).run_workflow("mail")
    row = conn.execute("select headers from absurd.tasks").fetchone()
    assert row is not None
    assert row[0]["tenant"] == 1
    assert row[0]["absurd-source"]["kind"] == "listener"
