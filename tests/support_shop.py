"""A shop in the middle of its day, for pictures: tasks in every state, events, schedules, triggers, workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from absurd import Absurd

QUEUES = ("mail", "orders", "reports")


@contextmanager
def shop(database_url: str) -> Iterator[Absurd]:
    """The application, its database filled."""
    app = Absurd(database_url)
    for queue in QUEUES:
        app.create_queue(queue)
    _declare(app)
    _start(app)
    # In a thread, for Playwright has an event loop in this one.
    worker = threading.Thread(target=app.run_worker_once, args=(QUEUES,))
    worker.start()
    worker.join()
    for number in range(1, 6):
        app.spawn("mail.send", {"order": number}, queue="mail")
    with psycopg.connect(database_url, autocommit=True) as conn:
        _spread(conn)
        _work(conn)
    yield app
    app.close()


def _declare(app: Absurd) -> None:
    @app.register_task("order.fulfil", queue="orders", max_attempts=3, retry="fixed")
    def fulfil(params: Any, ctx: Any) -> Any:
        order = params["order"]
        ctx.step("reserve stock", lambda: {"warehouse": "vienna", "items": 3})
        if params.get("broken"):
            raise RuntimeError("the payment gateway answered 502 Bad Gateway")
        ctx.step("charge card", lambda: {"charge": f"ch_{order}", "amount": 59.9})
        if params.get("held"):
            ctx.await_event(f"order.released:{order}", timeout=86400)
        return {"tracking": f"TRK-{order}"}

    @app.register_task("mail.send", queue="mail", max_attempts=1)
    def send(params: Any, ctx: Any) -> Any:
        if params.get("bounces"):
            raise ValueError("mailbox unavailable")
        return "sent"


def _start(app: Absurd) -> None:
    app.subscribe("order.*", "mail.send", queue="orders", target_queue="mail", config={"template": "order"})
    app.subscribe("user.signed_up", "mail.send", queue="mail", config={"template": "welcome", "api_key": "k-1"})
    for number in range(240):
        app.spawn("order.fulfil", {"order": 4000 + number, "customer": "Ada", "card": {"token": "tok_1", "last4": "4242"}})
    for number in range(9):
        app.spawn("order.fulfil", {"order": 5000 + number, "broken": True}, max_attempts=1)
        app.spawn("order.fulfil", {"order": 6000 + number, "held": True})
        app.spawn("mail.send", {"order": number, "bounces": number % 3 == 0})
    app.spawn("order.fulfil", {"order": 7000, "broken": True})
    for number in range(25):
        app.emit_event(
            "order.placed", {"order": 4000 + number, "sum": 59.9}, queue="orders", source={"kind": "webhook", "name": "shop"}
        )
    app.create_schedule("nightly-report", task="reports.daily", cron="0 2 * * *", timezone="Europe/Vienna", queue="reports")
    app.create_schedule("invoices", task="mail.send", cron="*/15 * * * *", queue="mail")
    app.create_schedule("sync-stock", task="reports.stock", every="5m", queue="reports", run_immediately=False)
    app.create_schedule("old-import", task="reports.import", every="1h", queue="reports", run_immediately=False)
    app.pause_schedule("old-import")


def _spread(conn: psycopg.Connection[Any]) -> None:
    """What ended did so in the course of the last hour."""
    conn.execute("""
        update absurd.tasks t
        set finished_at = n.at, started_at = n.at - n.took, spawned_at = n.at - n.took - interval '0.2 s'
        from (select task_id, now() - random() * interval '56 min' as at, random() * interval '9 s' as took from absurd.tasks) n
        where t.task_id = n.task_id and t.outcome is not null""")
    conn.execute("update absurd.tasks set spawned_at = spawned_at - interval '40 s' where outcome is null")
    conn.execute("""
        update absurd.checkpoints c set completed_at = t.started_at + random() * (t.finished_at - t.started_at)
        from absurd.tasks t where t.task_id = c.task_id and t.outcome is not null""")
    conn.execute("""
        update absurd.attempts a set ended_at = t.finished_at, started_at = t.started_at
        from absurd.tasks t where t.task_id = a.task_id and a.final""")


def _work(conn: psycopg.Connection[Any]) -> None:
    for number, queues in enumerate((["orders", "mail"], ["orders", "mail"], ["reports"]), 1):
        sql = "select absurd.register_worker(%s, %s, %s, %s, '0.2.0', 32, 30)"
        conn.execute(sql, (f"web-{number}", queues, f"web-{number}", 4000 + number))
    conn.execute("""
        update absurd.runs set state = 'running', epoch = 1, worker_id = 'web-1', started_at = now() - interval '14 s',
          lease_expires_at = now() + interval '26 s'
        where run_id in (select run_id from absurd.runs where state = 'pending' and queue_name = 'mail' limit 3)""")
    for name, task in (("inbox", "mail.send"), ("warehouse-files", "reports.import")):
        conn.execute("select absurd.register_trigger(%s, 'mail', %s, 30, 10, false, null, null, null)", (name, task))
    conn.execute("update absurd.triggers set owner = 'web-1', last_poll_at = now(), next_poll_at = now() + interval '25 s'")
    for number, name in enumerate(("rabbitmq orders", "files /srv/inbox")):
        sql = "select absurd.heartbeat_listener(%s, %s, 'orders', %s, %s, 'listening', 1, 0, null)"
        conn.execute(sql, (f"listener-{number}", name, f"web-{number + 1}", 5000 + number))
