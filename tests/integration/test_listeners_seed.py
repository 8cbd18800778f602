"""Listeners as users of the seed write them: an ``__init__`` and a principal of their own, ``super().run_workflow``."""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pika
import psycopg
import pytest
from watchfiles import watch

from absurd import EventListener, Principal
from tests.support import wait_until
from tests.support_amqp import AMQP_URL, own_queue, require_broker
from tests.support_listeners import tasks

Conn = psycopg.Connection[Any]


class FileWatcher(EventListener):
    def __init__(self, directory: Path, workflow_id: str) -> None:
        self.principal = Principal(host="localhost", port=5561)
        self.directory = directory
        self.workflow_id = workflow_id
        self.stop_event = threading.Event()

    def start_listening(self) -> None:
        for _ in watch(self.directory, stop_event=self.stop_event, recursive=True, step=20, debounce=50):
            result = super().run_workflow(self.workflow_id)
            if not result.success:
                print(f"failed: {result.error}")


class Webhook(EventListener):
    def __init__(self, port: int) -> None:
        self.principal = Principal(host="localhost", port=5561)
        run_workflow = super().run_workflow

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                result = run_workflow(self.path.rpartition("/")[2])
                self.send_response(200 if result.success else 500)
                self.end_headers()
                self.wfile.write(json.dumps({"error": result.error}).encode())

            def log_message(self, *args: Any) -> None: ...

        self.app = HTTPServer(("127.0.0.1", port), Handler)

    def start_listening(self) -> None:
        self.app.serve_forever(poll_interval=0.05)


class RabbitMQ(EventListener):
    def __init__(self, url: str, queue_name: str) -> None:
        self.principal = Principal(host="localhost", port=5561)
        self.queue_name = queue_name
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.queue_declare(queue=self.queue_name, durable=True)
        self.channel.basic_qos(prefetch_count=1)

    def _callback(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        result = super().run_workflow(json.loads(body)["workflow_id"])
        if result.success:
            channel.basic_ack(delivery_tag=method.delivery_tag)
        else:
            channel.basic_nack(delivery_tag=method.delivery_tag, requeue=True)

    def start_listening(self) -> None:
        self.channel.basic_consume(queue=self.queue_name, on_message_callback=self._callback)
        self.channel.start_consuming()


class Database(EventListener):
    def __init__(self, dsn: str) -> None:
        self.principal = Principal(host="localhost", port=5561)
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.conn.execute("listen workflow_triggers")

    def start_listening(self) -> None:
        for notify in self.conn.notifies():
            if notify.payload == "end":
                return
            super().run_workflow(notify.payload)


@pytest.fixture(autouse=True)
def _environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSURD_DATABASE_URL", database_url)


def begin(listener: EventListener) -> threading.Thread:
    thread = threading.Thread(target=listener.start_listening, daemon=True)
    thread.start()
    return thread


def test_c25_file_watcher_of_a_user_runs_as_it_stands(conn: Conn, tmp_path: Path) -> None:
    listener = FileWatcher(tmp_path, "import")
    thread = begin(listener)
    wait_until(lambda: (tmp_path / "a").write_text(str(os.times())) and tasks(conn, "import"))
    listener.stop_event.set()
    thread.join(20)
    assert tasks(conn)[0][1] == {"kind": "listener", "name": "FileWatcher"}


def test_c28_webhook_of_a_user_runs_as_it_stands(conn: Conn) -> None:
    listener = Webhook(0)
    thread = begin(listener)
    url = f"http://127.0.0.1:{listener.app.server_port}/trigger/report"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=20) as answer:
        assert (answer.status, json.loads(answer.read())) == (200, {"error": None})
    listener.app.shutdown()
    thread.join(20)
    listener.app.server_close()
    assert len(tasks(conn, "report")) == 1


def test_c30_rabbitmq_consumer_of_a_user_runs_as_it_stands(conn: Conn) -> None:
    require_broker()
    with own_queue() as broker:
        listener = RabbitMQ(AMQP_URL, broker.queue)
        thread = begin(listener)
        broker.publish({"workflow_id": "resize"})
        wait_until(lambda: tasks(conn, "resize"))
        listener.connection.add_callback_threadsafe(listener.channel.stop_consuming)
        thread.join(20)
        listener.connection.close()
        assert broker.count() == 0


def test_c32_database_listener_of_a_user_runs_as_it_stands(conn: Conn, database_url: str) -> None:
    listener = Database(database_url)
    thread = begin(listener)
    conn.execute("notify workflow_triggers, 'report'")
    conn.execute("notify workflow_triggers, 'end'")
    thread.join(20)
    listener.conn.close()
    assert len(tasks(conn, "report")) == 1
