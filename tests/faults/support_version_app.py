"""An application that runs with this release and the one before: ``support_version_app.py worker|client URL NAME [FROM TO]``.

It imports nothing of the tests, so that ``PYTHONPATH`` alone decides which release it runs with.
"""

from __future__ import annotations

import json
import logging
import sys
import time

import psycopg

import absurd

STEPS = 4


def make_app(url: str, name: str) -> absurd.Absurd:
    """The application; ``name`` says in the table ``effects`` who has done something."""
    app = absurd.Absurd(url)

    def note(effect: str, n: int) -> int:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("insert into effects values (%s, %s, %s)", (effect, n, name))
        return n

    def book(conn: psycopg.Connection, n: int) -> int:
        conn.execute("insert into effects values ('transaction', %s, %s)", (n, name))
        return n

    @app.register_task("child", max_attempts=3)
    def child(n: int, ctx: absurd.Context) -> int:
        return ctx.step("child", note, "child", n)

    @app.register_task("relay", max_attempts=3)
    def relay(n: int, ctx: absurd.Context) -> int:
        for number in range(STEPS):
            ctx.step(f"step {number}", note, f"step {number}", n)
            # Whoever is free goes on after this, of either release.
            ctx.sleep_for(0.02)
        ctx.transaction("book", book, n)
        ctx.emit_event(f"event {n}", n)
        ctx.await_event(f"event {n}", timeout=60)
        return ctx.await_task(ctx.spawn(child, n))

    return app


def work_as_client(url: str, name: str, numbers: range) -> None:
    """Spawns and emits, and says in the end what came of it."""
    app = make_app(url, name)
    handles = []
    for n in numbers:
        handles.append(app.spawn("relay", n, idempotency_key=f"relay {n}"))
        app.emit_event(f"from outside {n}", {"n": n})
        time.sleep(0.02)
    print(json.dumps({"version": absurd.__file__, "results": [handle.result(timeout=90) for handle in handles]}))
    app.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    role, database, who = sys.argv[1:4]
    if role == "worker":
        make_app(database, who).start_worker(concurrency=4, poll_interval=0.2, grace_seconds=2)
    else:
        work_as_client(database, who, range(int(sys.argv[4]), int(sys.argv[5])))
