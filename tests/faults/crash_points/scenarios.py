"""What victims do. Each scenario can be begun again after a crash, as a supervisor or a caller would do, and comes to its end.

Arguments are the database, the kind of handlers and what else the case needs. Two tables are there: ``effects``, committed apart
from absurd, and ``booked``, written in ``ctx.transaction``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from opentelemetry.sdk.trace import TracerProvider

from absurd import Absurd, AsyncAbsurd, AsyncEventListener, Fire, Skip, telemetry
from absurd.cli.app import main as absurdctl
from absurd.db import connect, run
from absurd.listeners import FileListener, NotifyListener, RabbitMQListener, Scheduler, WebhookListener, run_listener
from absurd.queries.runs import claim_runs
from tests.support import wait_until
from tests.support_tasks import Play

TIMEOUT = 40.0
WORKER: dict[str, Any] = {"concurrency": 4, "poll_interval": 0.2, "grace_seconds": 5.0}
# Seconds; short, for the one task that is to see it renewed. On a busy machine it may run out.
SHORT_LEASE = 0.5
PROGRAMS = 3


def note(url: str, text: str) -> str:
    """An effect of a step."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("insert into effects values (%s)", (text,))
    return text


def make_play(url: str, kind: str) -> Play:
    """The application."""
    play = Play(url, kind)

    @play.task("child", max_attempts=5)
    async def child(params: Any, ctx: Any) -> Any:
        await ctx.step("work", note, url, f"child {params}")
        await ctx.emit_event(f"go {params}", params)
        return params

    @play.task("program", max_attempts=5)
    async def program(params: Any, ctx: Any) -> Any:
        """Everything that a task can do, once."""
        await ctx.step("first", note, url, f"first {params}")
        await ctx.transaction("book", book(play.kind), params)
        child_id = await ctx.spawn("child", params)
        await ctx.sleep_for(0.05)
        came = await ctx.await_event(f"go {params}")
        ended = await ctx.await_task(child_id)
        await ctx.step("last", note, url, f"last {params}")
        return [came, ended]

    @play.task("lasts", max_attempts=5)
    async def lasts(params: Any, ctx: Any) -> Any:
        """Runs for longer than its lease, then meets an error that a second try mends."""
        tries: list[int] = []

        def second_try() -> int:
            tries.append(1)
            if len(tries) == 1:
                raise ValueError("once")
            return 1

        gate = threading.Event()
        threading.Timer(0.8, gate.set).start()
        await play.hold(gate)
        return await ctx.step("mended", second_try, retries=1, retry_delay=0.01)

    _add_troubled(play, url)
    return play


def _add_troubled(play: Play, url: str) -> None:
    """Tasks that meet something rare."""

    @play.task("long", max_attempts=5)
    async def long(params: Any, ctx: Any) -> int:
        """Has more history than a claim carries."""
        for _ in range(1100):
            await ctx.random()
        await ctx.sleep_for(0.01)
        return 1

    @play.task("cut", max_attempts=5)
    async def cut(params: Any, ctx: Any) -> int:
        """Takes the connection of the writer away."""
        await ctx.step("cut", cut_writer, url)
        return await ctx.step("after", lambda: 1)

    together = threading.Barrier(PROGRAMS)

    @play.task("locked", max_attempts=5)
    async def locked(params: Any, ctx: Any) -> int:
        """Ends at the same moment as its neighbours, while somebody holds the rows of all, for longer than a batch waits."""
        with contextlib.suppress(threading.BrokenBarrierError):  # after a crash there may be fewer
            if together.wait(3) == 0:
                opened = threading.Event()
                threading.Thread(target=hold_rows, args=(url, opened), daemon=True).start()
                await play.hold(opened)
            together.wait(3)
        return 1


def book(kind: str) -> Callable[..., Any]:
    """A function for ``ctx.transaction``."""
    if kind == "sync":
        return lambda conn, number: conn.execute("insert into booked values (%s)", (number,)) and number

    async def book_async(conn: Any, number: int) -> int:
        await conn.execute("insert into booked values (%s)", (number,))
        return number

    return book_async


def cut_writer(url: str) -> int:
    """Ends the session of the writer, once."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'absurd worker: writer'"
        )
    return 1


def hold_rows(url: str, opened: threading.Event) -> None:
    """Locks all runs for a while."""
    with psycopg.connect(url) as conn:
        conn.execute("select from absurd.runs for update")
        opened.set()
        time.sleep(1.5)  # how long the rows are locked


def work(name: str, count: int = 1, **settings: Any) -> Callable[[str, str, Any], None]:
    """A scenario: spawns tasks, each once, and works until they have ended."""

    def scenario(url: str, kind: str, extra: Any) -> None:
        play = make_play(url, kind)
        with play.worker(**{**WORKER, **settings}):
            handles = [play.spawn(name, number, idempotency_key=f"{name} {number}") for number in range(count)]
            for handle in handles:
                handle.result(TIMEOUT)

    return scenario


def traced(url: str, kind: str, extra: Any) -> None:
    """The program with traces on; the spans go nowhere."""
    telemetry.instrument(TracerProvider())
    work("program", PROGRAMS)(url, kind, extra)


def idle_worker(url: str, kind: str, extra: Any) -> None:
    """A worker that has something to sweep when it starts, and later says that it lives."""
    play = make_play(url, kind)
    play.spawn("child", 0, idempotency_key="child 0")
    with connect(url) as conn:
        run(conn, claim_runs("default", "ghost", 0.5, 1, None))
    with psycopg.connect(url, autocommit=True) as conn:
        wait_until(lambda: conn.execute("select from absurd.runs where lease_expires_at > now()").fetchone() is None)
    with play.worker(**WORKER):
        play.spawn("child", 0, idempotency_key="child 0").result(TIMEOUT)


def busy_worker(url: str, kind: str, extra: Any) -> None:
    """A worker that finds more than it can take, and later nothing more."""
    play = make_play(url, kind)
    handles = [play.spawn("child", number, idempotency_key=f"child {number}") for number in range(40)]
    with play.worker(**WORKER):
        for handle in handles:
            handle.result(TIMEOUT)
        handles = [play.spawn("lasts", 0, idempotency_key="lasts 0")]
        handles[0].result(TIMEOUT)


def stopped_worker(url: str, kind: str, extra: Any) -> None:
    """A worker that is told to stop while a task runs: it goes back, and ends with the next worker."""
    play = make_play(url, kind)
    handle = play.spawn("lasts", 0, idempotency_key="lasts 0")
    with play.worker(**{**WORKER, "grace_seconds": 0}):
        wait_until(lambda: play.app.get_result(handle.task_id).state != "pending")
    with play.worker(**WORKER):
        handle.result(TIMEOUT)


def clients(url: str, kind: str, extra: Any) -> None:
    """Clients, sync and async, that repeat a call whose answer they have not seen."""
    many = list(range(1500))
    keys = [f"many {number}" for number in many]
    if kind == "sync":
        with Absurd(url) as app:
            app.spawn("nobody", 1, idempotency_key="one")
            app.emit_event("told", 1, idempotency_key="told")
            app.spawn_many("nobody", many, idempotency_keys=keys)
        return

    async def work() -> None:
        async with AsyncAbsurd(url) as app:
            await app.spawn("nobody", 1, idempotency_key="one")
            await app.emit_event("told", 1, idempotency_key="told")
            await app.spawn_many("nobody", many, idempotency_keys=keys)

    asyncio.run(work())


def clean_up(url: str, kind: str, extra: Any) -> None:
    """Deletes what has ended, in batches."""
    with Absurd(url) as app:
        for number in range(3):
            app.cancel_task(app.spawn("nobody", number, idempotency_key=f"old {number}").task_id)
    sys.argv = ["absurdctl", "--database", url, "cleanup", "--older-than", "0s"]
    with contextlib.suppress(SystemExit):
        absurdctl()


def retention(url: str, kind: str, extra: Any) -> None:
    """A worker deletes what its queue need not keep."""
    with Absurd(url) as app, psycopg.connect(url, autocommit=True) as conn:
        app.register_task("other")(lambda params, ctx: None)
        app.set_queue_options(keep_cancelled=60)
        for number in range(3):
            app.cancel_task(app.spawn("nobody", number, idempotency_key=f"old {number}").task_id)
        conn.execute("update absurd.tasks set spawned_at = '2020-01-01', finished_at = '2020-01-01'")
        with app.worker(**WORKER):
            wait_until(lambda: conn.execute("select from absurd.tasks").fetchone() is None, TIMEOUT)


def schedules(url: str, kind: str, extra: Any) -> None:
    """A scheduler with a schedule that fires each second, from a moment in the past on, and one that cannot be used."""
    app = Absurd(url)
    app.create_schedule("tick", task="ticked", every="1s", catchup="all", replace=True, run_immediately=True)
    app.create_schedule("yearly", task="ticked", cron="0 0 1 1 *", replace=True)
    app.create_schedule("bad", task="ticked", cron="0 0 1 1 *", replace=True)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "update absurd.schedules set cron = '99 99 * * *', next_slot = null, due_at = null where schedule_name = 'bad'"
        )
        scheduler = Scheduler(app)
        thread = threading.Thread(target=scheduler.start_listening)
        thread.start()
        enough = "select count(*) >= 2 from absurd.tasks where task_name = 'ticked'"
        wait_until(lambda: conn.execute(enough).fetchone() == (True,), TIMEOUT)
        wait_until(lambda: conn.execute("select 1 from absurd.schedules where problem is not null").fetchone(), TIMEOUT)
        scheduler.stop()
        thread.join()


def triggers(url: str, kind: str, extra: Any) -> None:
    """A worker with a trigger that fires three times."""
    play = Play(url, kind)
    app = play.app

    @play.task("fired", max_attempts=5)
    async def fired(params: Any, ctx: Any) -> None: ...

    @app.trigger("three", task="fired", poll_interval=0.1, allow_concurrent=True)
    def three(state: dict[str, Any]) -> Any:
        if state.get("fired", 0) >= 3:
            return Skip
        state["fired"] = state.get("fired", 0) + 1
        return Fire({"n": state["fired"]})

    with psycopg.connect(url, autocommit=True) as conn, play.worker(**WORKER):
        enough = "select count(*) >= 3 from absurd.tasks where task_name = 'fired' and outcome is not null"
        wait_until(lambda: conn.execute(enough).fetchone() == (True,), TIMEOUT)


def _listen(listener: Any, stimulate: Callable[[], object], url: str, wanted: int = 1) -> None:
    problems: list[BaseException] = []

    def serve() -> None:
        try:
            run_listener(listener)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    stimulate()
    with psycopg.connect(url, autocommit=True) as conn:
        wait_until(lambda: conn.execute("select count(*) >= %s from absurd.tasks", (wanted,)).fetchone() == (True,), TIMEOUT)
        # The row is written by a thread of its own; a listener that ends before has none to delete.
        wait_until(lambda: conn.execute("select 1 from absurd.listeners").fetchone(), TIMEOUT)
    listener.stop()
    thread.join(TIMEOUT)
    assert not problems, problems


def notify(url: str, kind: str, extra: Any) -> None:
    """A listener to notifications."""
    listener = NotifyListener(app=Absurd(url))

    def tell() -> None:
        listener.listening.wait(TIMEOUT)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("""notify workflow_triggers, '{"workflow_id": "nobody", "idempotency_key": "told"}'""")

    _listen(listener, tell, url)


def files(url: str, kind: str, extra: Any) -> None:
    """A listener to a directory that holds a file."""
    listener = FileListener(extra, "nobody", quiet_seconds=0, existing=True, app=Absurd(url))
    _listen(listener, lambda: (Path(extra) / "a.csv").touch() if not (Path(extra) / "a.csv").exists() else None, url)


def webhook(url: str, kind: str, extra: Any) -> None:
    """A listener to requests."""
    listener = WebhookListener(port=0, app=Absurd(url))

    def post() -> None:
        wait_until(lambda: listener.address, TIMEOUT)
        assert listener.address is not None
        place = "http://{}:{}/trigger/nobody".format(*listener.address)
        request = urllib.request.Request(place, data=b"{}", headers={"Idempotency-Key": "posted"}, method="POST")
        urllib.request.urlopen(request, timeout=TIMEOUT).read()

    _listen(listener, post, url)


def async_listener(url: str, kind: str, extra: Any) -> None:
    """An async listener of somebody's own."""

    async def serve() -> None:
        listener = AsyncEventListener(AsyncAbsurd(url))
        assert (await listener.run_workflow("nobody", None, idempotency_key="once")).success

    asyncio.run(serve())


def rabbitmq(url: str, kind: str, extra: Any) -> None:
    """A listener to a queue that holds a message, and one that can never become a task."""
    amqp_url, queue = extra
    listener = RabbitMQListener(amqp_url, queue, app=Absurd(url))

    def settled() -> None:
        import pika

        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
            channel = connection.channel()
            channel.queue_declare(f"{queue}.dead-letter", durable=True)
            wait_until(lambda: channel.queue_declare(f"{queue}.dead-letter", passive=True).method.message_count >= 1, TIMEOUT)
            wait_until(lambda: channel.queue_declare(queue, passive=True).method.message_count == 0, TIMEOUT)

    _listen(listener, settled, url)


def rabbitmq_away(url: str, kind: str, extra: Any) -> None:
    """The same with a message whose task is refused at first, as if the database were away."""
    amqp_url, queue = extra
    listener = RabbitMQListener(amqp_url, queue, app=Absurd(url), target_queue="later")

    def make_queue_later() -> None:
        app = Absurd(url)
        wait_until(lambda: listener._health.failures or "later" in app.list_queues(), TIMEOUT)
        app.create_queue("later")

    _listen(listener, make_queue_later, url)


SCENARIOS: dict[str, Callable[[str, str, Any], None]] = {
    "program": work("program", PROGRAMS),
    "traced": traced,
    "lasts": work("lasts", lease_seconds=SHORT_LEASE),
    "long": work("long"),
    "cut": work("cut"),
    "locked": work("locked", PROGRAMS),
    "idle worker": idle_worker,
    "busy worker": busy_worker,
    "stopped worker": stopped_worker,
    "clients": clients,
    "clean-up": clean_up,
    "retention": retention,
    "schedules": schedules,
    "triggers": triggers,
    "notify": notify,
    "files": files,
    "webhook": webhook,
    "async listener": async_listener,
    "rabbitmq": rabbitmq,
    "rabbitmq away": rabbitmq_away,
}
