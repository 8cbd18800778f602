"""RabbitMQ: a message is lost by nothing, runs once if it can be told apart, and poison blocks nobody."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from absurd import Absurd
from absurd.listeners import RabbitMQListener
from tests.conftest import MakeServer
from tests.support import wait_until
from tests.support_amqp import AMQP_URL, Broker, own_queue, require_broker
from tests.support_listeners import listen_process, listening, tasks, wait_for_row
from tests.support_proxy import LossyProxy

Conn = psycopg.Connection[Any]
RABBIT = "absurd.listeners:RabbitMQListener"


@pytest.fixture
def broker() -> Iterator[Broker]:
    require_broker()
    with own_queue() as made:
        yield made


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:
        yield made


def emptied(broker: Broker) -> None:
    """Waits until no message waits, and none is held by a listener that has gone."""
    wait_until(lambda: broker.count() == 0, what="an empty queue")


def test_c30_message_starts_a_task_and_is_acknowledged(broker: Broker, app: Absurd, conn: Conn) -> None:
    broker.declare()
    broker.publish({"workflow_id": "resize"})
    broker.publish({"workflow_id": "resize", "params": {"b": 1, "a": [2]}}, message_id="m-1")
    with listening(RabbitMQListener(AMQP_URL, broker.queue, app=app)):
        wait_until(lambda: len(tasks(conn)) == 2)
    assert broker.count() == 0
    assert tasks(conn) == [
        (None, {"kind": "listener", "name": "RabbitMQListener", "queue": broker.queue}),
        (
            {"b": 1, "a": [2]},
            {"kind": "listener", "name": "RabbitMQListener", "queue": broker.queue, "message_id": "m-1"},
        ),
    ]


def test_c30_queue_is_durable_and_can_be_declared_plainly_by_publishers(broker: Broker, app: Absurd, conn: Conn) -> None:
    with listening(RabbitMQListener(AMQP_URL, broker.queue, app=app)):
        wait_until(lambda: _exists(broker))
        broker.declare()
        broker.publish({"workflow_id": "resize"})
        wait_until(lambda: tasks(conn))


def test_c30_the_queue_is_called_cdktr_workflows_unless_told_otherwise() -> None:
    assert RabbitMQListener()._queue == "cdktr-workflows"


def _exists(broker: Broker) -> bool:
    import pika
    from pika.exceptions import ChannelClosedByBroker

    try:
        broker.count()
    except ChannelClosedByBroker:
        broker.channel = pika.BlockingConnection(pika.URLParameters(AMQP_URL)).channel()
        return False
    return True


POISON = {
    b"no json": "no JSON",
    b"\xff\xfe": "no JSON",
    b'"resize"': "JSON object",
    b"{}": "workflow_id",
    b'{"workflow": "resize"}': "workflow_id",
    b'{"workflow_id": 3}': "must be a text, not a number",
    b'{"workflow_id": ""}': "non-empty string",
    b'{"workflow_id": "resize", "params": NaN}': "no JSON",
    b'{"workflow_id": "resize", "params": "nul\\u0000"}': "NUL",
    b'{"workflow_id": "resize", "idempotency_key": 7}': "must be a text, not a number",
    b"[" * 100_000: "no JSON",
    b'{"workflow_id": "resize", "params": "' + b"x" * 200_000 + b'"}': "bytes; 100000 are allowed",
}


@pytest.mark.parametrize("arguments", [{}, {"x-max-priority": 5}, {"x-dead-letter-exchange": ""}])
def test_c31_k19_poison_is_dead_lettered_with_its_reason_and_blocks_nothing(
    broker: Broker, app: Absurd, conn: Conn, arguments: dict[str, Any]
) -> None:
    broker.declare(**arguments)
    for number, body in enumerate(POISON):
        broker.publish(body, headers={"trace": number}, expiration="60000")
        broker.publish({"workflow_id": "resize", "params": number})
    with listening(RabbitMQListener(AMQP_URL, broker.queue, app=app, max_body_bytes=100_000)):
        wait_until(lambda: len(tasks(conn)) == len(POISON))
        emptied(broker)
    assert [params for params, _ in tasks(conn)] == list(range(len(POISON)))
    for number, (body, reason) in enumerate(POISON.items()):
        found = broker.take_dead()
        assert found is not None
        assert found[0] == body
        assert reason in found[1]["absurd-reason"]
        assert (found[1]["absurd-queue"], found[1]["trace"]) == (broker.queue, number)
    assert broker.take_dead() is None


def test_c31_deleted_dead_letter_queue_is_made_again(broker: Broker, app: Absurd, conn: Conn) -> None:
    broker.declare()
    with listening(RabbitMQListener(AMQP_URL, broker.queue, app=app)):
        for number in (1, 2):
            broker.publish(b"poison")
            broker.publish({"workflow_id": "resize"})
            wait_until(lambda number=number: len(tasks(conn)) == number)  # type: ignore[misc]
            assert broker.take_dead() is not None
            broker.channel.queue_delete(f"{broker.queue}.dead-letter")


def test_c31_failed_spawn_keeps_the_message_until_it_succeeds(broker: Broker, database_url: str, conn: Conn) -> None:
    broker.declare()
    broker.publish({"workflow_id": "resize"}, message_id="m-1")
    with Absurd(database_url, "later") as app:
        listener = RabbitMQListener(AMQP_URL, broker.queue, app=app)
        with listening(listener):
            wait_until(lambda: listener._health.failures >= 2)
            assert tasks(conn) == []
            app.create_queue()
            wait_until(lambda: tasks(conn))
            emptied(broker)
    assert broker.count() == 0
    assert "does not exist" in str(listener._health.last_error)


def test_c31_message_delivered_twice_starts_one_task_by_its_message_id(broker: Broker, app: Absurd, conn: Conn) -> None:
    broker.declare()
    for _ in range(3):
        broker.publish({"workflow_id": "resize"}, message_id="m-1")
    broker.publish({"workflow_id": "resize", "idempotency_key": "own"}, message_id="m-2")
    broker.publish({"workflow_id": "resize", "idempotency_key": "own"}, message_id="m-3")
    broker.publish({"workflow_id": "crop"}, message_id="m-1")
    with listening(RabbitMQListener(AMQP_URL, broker.queue, app=app)):
        wait_until(lambda: len(tasks(conn)) == 3)
    assert broker.count() == 0


def test_c31_listener_goes_on_after_a_cut_connection_and_a_deleted_queue(broker: Broker, app: Absurd, conn: Conn) -> None:
    broker.declare()
    target = conninfo_to_dict("host=127.0.0.1 port=5672")
    with LossyProxy(f"host={target['host']} port={target['port']}") as proxy:
        port = conninfo_to_dict(proxy.url)["port"]
        listener = RabbitMQListener(f"amqp://guest:guest@127.0.0.1:{port}/%2F", broker.queue, app=app)
        with listening(listener):
            broker.publish({"workflow_id": "resize", "params": 1})
            wait_until(lambda: len(tasks(conn)) == 1)
            proxy.cut_links()
            broker.publish({"workflow_id": "resize", "params": 2})
            wait_until(lambda: len(tasks(conn)) == 2)
            failures = listener._health.failures
            broker.channel.queue_delete(broker.queue)
            wait_until(lambda: listener._health.failures > failures)
            wait_until(lambda: _exists(broker))
            broker.publish({"workflow_id": "resize", "params": 3})
            wait_until(lambda: len(tasks(conn)) == 3)


def test_c31_kill_between_spawn_and_acknowledgement_starts_one_task(
    broker: Broker, database_url: str, conn: Conn, tmp_path: Path
) -> None:
    broker.declare()
    with LossyProxy(AMQP_CONNINFO) as proxy:
        # Basic.Ack never reaches the broker: class 60, method 80. The spawn has been committed by then.
        rule = proxy.lose("\x00\x3c\x00\x50", "statement", application="")
        port = conninfo_to_dict(proxy.url)["port"]
        url = f"amqp://guest:guest@127.0.0.1:{port}/%2F"
        arguments = (RABBIT, "--option", f"queue={broker.queue}")
        with listen_process(tmp_path, database_url, *arguments, env={"ABSURD_AMQP_URL": url}) as process:
            wait_for_row(conn, tmp_path, process)
            broker.publish({"workflow_id": "resize"}, message_id="m-1")
            wait_until(lambda: rule.applied)
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert len(tasks(conn)) == 1
    wait_until(lambda: broker.count() == 1, what="the message, back in its queue")
    with Absurd(database_url) as app, listening(RabbitMQListener(AMQP_URL, broker.queue, app=app)):
        emptied(broker)
        broker.publish({"workflow_id": "crop"})
        wait_until(lambda: tasks(conn, "crop"))
    assert len(tasks(conn, "resize")) == 1


AMQP_CONNINFO = "host=127.0.0.1 port=5672"


def test_c31_kill_before_the_spawn_brings_the_message_back(broker: Broker, database_url: str, conn: Conn, tmp_path: Path) -> None:
    broker.declare()
    with psycopg.connect(database_url) as blocker:
        arguments = (RABBIT, "--option", f"queue={broker.queue}")
        with listen_process(tmp_path, database_url, *arguments, env={"ABSURD_AMQP_URL": AMQP_URL}) as process:
            wait_for_row(conn, tmp_path, process)
            blocker.execute("lock table absurd.tasks in access exclusive mode")
            broker.publish({"workflow_id": "resize"})
            wait_until(lambda: _waiting(conn), what="a spawn that waits for the lock")
            process.send_signal(signal.SIGKILL)
            process.wait()
        # The server does not notice that its client is gone while it waits for a lock.
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'")
        wait_until(lambda: not _waiting(conn))
    assert tasks(conn) == []
    wait_until(lambda: broker.count() == 1, what="the message, back in its queue")
    with Absurd(database_url) as app, listening(RabbitMQListener(AMQP_URL, broker.queue, app=app)):
        wait_until(lambda: tasks(conn))
        emptied(broker)


def _waiting(conn: Conn) -> bool:
    query = """
        select from pg_stat_activity
        where wait_event_type = 'Lock' and datname = current_database() and query ~ 'spawn_quietly'"""
    return conn.execute(query).fetchone() is not None


def test_c31_database_that_is_away_keeps_the_message_which_runs_when_it_is_back(broker: Broker, make_server: MakeServer) -> None:
    from absurd import schema

    server = make_server({"fsync": "off"})
    with psycopg.connect(server.url(), autocommit=True) as conn:
        schema.install(conn)
    broker.declare()
    with Absurd(server.url()) as app:
        listener = RabbitMQListener(AMQP_URL, broker.queue, app=app)
        server.stop("immediate")
        with listening(listener):
            broker.publish({"workflow_id": "resize"}, message_id="m-1")
            wait_until(lambda: listener._health.failures > 0)
            server.start()
            with psycopg.connect(server.url(), autocommit=True) as conn:
                wait_until(lambda: tasks(conn))
                emptied(broker)
                assert len(tasks(conn)) == 1


@pytest.mark.parametrize(
    "options", [{"queue": ""}, {"queue": "q" * 250}, {"prefetch": 0}, {"prefetch": "many"}, {"url": "http://x"}]
)
def test_unusable_options_are_refused(options: dict[str, Any]) -> None:
    from absurd import ConfigurationError

    with pytest.raises(ConfigurationError):
        RabbitMQListener(**options)


def test_password_of_the_url_is_in_no_message() -> None:
    from absurd import ConfigurationError

    with pytest.raises(ConfigurationError) as caught:
        RabbitMQListener("amqp://me:hunter2@host:port/")
    assert "hunter2" not in str(caught.value)
