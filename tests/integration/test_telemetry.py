"""Traces: one from the request to the last step, whoever goes on with it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from absurd import Absurd, AsyncAbsurd, telemetry
from absurd.context.watching import watched
from absurd.registry import Registry
from absurd.spawning import NOTHING, around_spawn
from absurd.telemetry import harmless
from absurd.types import NO_OPTIONS


class Traced:
    """What was traced in this process."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("a request")

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order in which they ended."""
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def trace_ids(self) -> set[int]:
        return {span.context.trace_id for span in self.spans}


@pytest.fixture
def traced() -> Iterator[Traced]:
    found = Traced()
    telemetry.instrument(found.provider)
    yield found
    telemetry.uninstrument()


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:
        yield made


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and child.parent.span_id == parent.context.span_id


def attribute(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


def declare_order(app: Absurd, kind: str) -> None:
    """A task with a step, a child, an emit, waits and a transaction."""
    if kind == "sync":

        @app.register_task("order")
        def order(params: Any, ctx: Any) -> Any:
            ctx.step("charge", lambda: "paid")
            child = ctx.spawn("label", {})
            ctx.emit_event("charged", {"k": 1})
            click = ctx.await_event("confirmed")
            ctx.transaction("book", lambda conn: conn.execute("select 1").fetchone()[0])
            return [click, ctx.await_task(child)]

    else:

        @app.register_task("order")
        async def order_async(params: Any, ctx: Any) -> Any:
            await ctx.step("charge", lambda: "paid")
            child = await ctx.spawn("label", {})
            await ctx.emit_event("charged", {"k": 1})
            click = await ctx.await_event("confirmed")

            async def book(conn: Any) -> int:
                return int((await (await conn.execute("select 1")).fetchone())[0])

            await ctx.transaction("book", book)
            return [click, await ctx.await_task(child)]

    @app.register_task("label")
    def label(params: Any, ctx: Any) -> str:
        return str(ctx.step("print", lambda: "label"))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_trace_goes_from_the_request_through_steps_children_and_waits(app: Absurd, traced: Traced, kind: str) -> None:
    declare_order(app, kind)
    with traced.tracer.start_as_current_span("POST /orders"):
        task = app.spawn("order", {})
    app.run_worker_once()
    with traced.tracer.start_as_current_span("POST /confirmations"):
        app.emit_event("confirmed", "by phone")
    app.run_worker_once()
    assert task.result(timeout=5) == ["by phone", "label"]

    request, spawn = traced.one("POST /orders"), traced.one("spawn order")
    emitted = next(span for span in traced.named("emit default") if attribute(span, "absurd.event.name") == "confirmed")
    runs = traced.named("run order")
    assert [attribute(run, "absurd.run.outcome") for run in runs] == ["suspended", *["suspended"] * (len(runs) - 2), "completed"]
    assert is_child(spawn, request)
    assert all(is_child(run, spawn) and run.kind is SpanKind.CONSUMER for run in runs)
    # Executed once, in the run that executed it; the replay of the second run shows nothing.
    assert is_child(traced.one("step charge"), runs[0])
    child_spawn = traced.one("spawn label")
    assert is_child(child_spawn, runs[0])
    assert is_child(traced.one("run label"), child_spawn)
    assert is_child(traced.one("step print"), traced.one("run label"))
    book = traced.one("transaction book")
    woken = next(run for run in runs if is_child(book, run))
    (link,) = [link for run in runs for link in run.links]
    assert link in list(woken.links)
    assert link.context.span_id == emitted.context.span_id
    assert link.context.trace_id == traced.one("POST /confirmations").context.trace_id != request.context.trace_id
    assert (link.attributes or {})["absurd.event.name"] == "confirmed"
    mine = [span for span in traced.spans if span.context.trace_id == request.context.trace_id]
    assert len(mine) == len(traced.spans) - 2  # all but the other request and its emit


def test_attributes_are_those_of_messaging(app: Absurd, traced: Traced, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select absurd.create_queue('mail')")

    @app.register_task("send", queue="mail")
    def send(params: Any, ctx: Any) -> None: ...

    task = app.spawn(send)
    app.run_worker_once(queues=["mail"])
    spawn, run = traced.one("spawn send"), traced.one("run send")
    assert spawn.kind is SpanKind.PRODUCER
    assert {name: attribute(spawn, f"messaging.{name}") for name in ("system", "operation.type", "destination.name")} == {
        "system": "absurd",
        "operation.type": "send",
        "destination.name": "mail",
    }
    assert attribute(run, "messaging.operation.type") == "process"
    assert attribute(run, "messaging.message.id") == str(task.task_id)
    assert attribute(run, "absurd.run.attempt") == 1


def test_a_failed_attempt_is_an_error_and_the_retry_is_in_the_same_trace(app: Absurd, traced: Traced) -> None:
    tries: list[int] = []

    @app.register_task("flaky", max_attempts=2, retry={"kind": "fixed", "base_seconds": 0})
    def flaky(params: Any, ctx: Any) -> str:
        ctx.step("before", lambda: 1)
        ctx.step("call", call)
        return "done"

    def call() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("the other side is down")

    app.spawn(flaky)
    app.run_worker_once()
    first, second = traced.named("run flaky")
    assert (attribute(first, "absurd.run.outcome"), first.status.status_code) == ("failed", StatusCode.ERROR)
    assert (attribute(second, "absurd.run.outcome"), second.status.status_code) == ("completed", StatusCode.UNSET)
    assert [event.name for event in first.events] == ["exception"]
    assert [span.status.status_code for span in traced.named("step call")] == [StatusCode.ERROR, StatusCode.UNSET]
    assert len(traced.named("step before")) == 1
    assert len(traced.trace_ids()) == 1


def test_a_suspension_is_no_error_and_says_what_it_waits_for(app: Absurd, traced: Traced) -> None:
    @app.register_task("waits")
    def waits(params: Any, ctx: Any) -> None:
        ctx.await_event("never")

    app.spawn(waits)
    app.run_worker_once()
    run = traced.one("run waits")
    assert run.status.status_code is StatusCode.UNSET
    (event,) = run.events
    assert event.name == "absurd.suspended"
    assert "never" in str((event.attributes or {})["absurd.waits_for"])


def test_a_task_without_a_trace_gets_one_that_all_its_runs_share(
    app: Absurd, traced: Traced, conn: psycopg.Connection[Any]
) -> None:
    @app.register_task("waits")
    def waits(params: Any, ctx: Any) -> None:
        ctx.await_event("go")
        ctx.sleep_for(0.01)

    for _ in range(2):
        conn.execute("select absurd.spawn_task('default', 'waits', '{}')")
    app.run_worker_once()
    conn.execute("select absurd.emit_event('default', 'go', '1')")
    app.run_worker_once()
    app.run_worker_once()
    by_task: dict[Any, set[int]] = {}
    for span in traced.named("run waits"):
        by_task.setdefault(attribute(span, "absurd.task.id"), set()).add(span.context.trace_id)
    assert [len(traces) for traces in by_task.values()] == [1, 1]
    assert len(set.union(*by_task.values())) == 2
    assert len(traced.named("run waits")) >= 4
    # An event without a trace is told without a link.
    assert [event.name for span in traced.named("run waits") for event in span.events].count("absurd.event") == 2


def test_the_sampler_decides_on_a_trace_that_begins_with_a_task(app: Absurd, conn: psycopg.Connection[Any]) -> None:
    @app.register_task("noop")
    def noop(params: Any, ctx: Any) -> None:
        ctx.step("one", lambda: 1)

    for ratio, expected in ((0.0, 0), (1.0, 3)):
        found = Traced(sampler=ParentBased(TraceIdRatioBased(ratio)))
        telemetry.instrument(found.provider)
        try:
            for _ in range(3):
                conn.execute("select absurd.spawn_task('default', 'noop', '{}')")
            app.run_worker_once()
        finally:
            telemetry.uninstrument()
        assert len(found.named("run noop")) == expected


def test_sql_carries_a_trace_in_headers_and_in_the_source_of_an_event(
    app: Absurd, traced: Traced, conn: psycopg.Connection[Any]
) -> None:
    spawned, emitted = (f"00-{n * 32}-{n * 16}-01" for n in "ab")

    @app.register_task("waits")
    def waits(params: Any, ctx: Any) -> None:
        ctx.await_event("go")

    @app.register_task("listens")
    def listens(params: Any, ctx: Any) -> None: ...

    app.subscribe("go", listens)
    options = json.dumps({"headers": {"traceparent": spawned}})
    conn.execute("select absurd.spawn_task('default', 'waits', '{}', %s::jsonb)", (options,))
    app.run_worker_once()
    source = json.dumps({"kind": "billing", "name": "cron", "traceparent": emitted})
    conn.execute("select absurd.append_event('default', 'go', '1', p_source => %s::jsonb)", (source,))
    app.run_worker_once()
    assert {span.context.trace_id for span in traced.named("run waits")} == {int("a" * 32, 16)}
    (link,) = [link for span in traced.named("run waits") for link in span.links]
    assert link.context.trace_id == int("b" * 32, 16)
    # A subscriber's task is a child of the emit.
    assert traced.one("run listens").parent == link.context


@pytest.mark.parametrize(
    "headers",
    [
        '{"traceparent": 7}',
        '{"traceparent": "nonsense"}',
        "[1]",
        '{"absurd-source": 5}',
        '{"absurd-source": {"event_source": []}}',
    ],
)
def test_headers_that_are_no_trace_harm_nobody(app: Absurd, traced: Traced, conn: psycopg.Connection[Any], headers: str) -> None:
    @app.register_task("noop")
    def noop(params: Any, ctx: Any) -> str:
        return "done"

    task_id = conn.execute("select task_id from absurd.spawn_task('default', 'noop', '{}')").fetchone()
    assert task_id is not None
    conn.execute("update absurd.tasks set headers = %s::json", (headers,))
    app.run_worker_once()
    assert app.task(task_id[0]).result(timeout=5) == "done"
    assert len(traced.named("run noop")) == 1


def test_own_headers_stay_and_a_trace_of_ones_own_wins(app: Absurd, traced: Traced) -> None:
    seen: list[dict[str, Any]] = []

    @app.register_task("look", headers={"tenant": "a"})
    def look(params: Any, ctx: Any) -> None:
        seen.append(dict(ctx.headers))

    own = f"00-{'c' * 32}-{'c' * 16}-01"
    app.spawn(look)
    app.spawn(look, headers={"traceparent": own})
    app.spawn_many(look, [1, 2])
    app.spawn(look, headers={"large": "x" * 65_500})  # there is no room for more
    app.run_worker_once(concurrency=1)  # one after another, as they were spawned
    assert all(headers["tenant"] == "a" for headers in seen)
    assert seen[1]["traceparent"] == own
    assert seen[0]["traceparent"].startswith("00-")
    assert seen[0]["traceparent"] != own
    assert seen[2]["traceparent"] == seen[3]["traceparent"]
    assert "traceparent" not in seen[4]
    assert attribute(traced.named("spawn look")[2], "messaging.batch.message_count") == 2


def test_baggage_reaches_the_handler_and_its_span_is_current(app: Absurd, traced: Traced) -> None:
    seen: list[Any] = []

    @app.register_task("look")
    def look(params: Any, ctx: Any) -> None:
        seen.append(baggage.get_baggage("tenant"))
        with traced.tracer.start_as_current_span("query"):
            pass
        ctx.step("call", lambda: traced.tracer.start_span("request").end())

    token = context.attach(baggage.set_baggage("tenant", "acme"))
    app.spawn(look)
    context.detach(token)
    app.run_worker_once()
    assert seen == ["acme"]
    assert is_child(traced.one("query"), traced.one("run look"))
    assert is_child(traced.one("request"), traced.one("step call"))


def test_async_steps_side_by_side_have_spans_of_their_own(app: Absurd, traced: Traced) -> None:
    @app.register_task("both")
    async def both(params: Any, ctx: Any) -> list[Any]:
        async def work(name: str) -> str:
            await asyncio.sleep(0.01)
            with traced.tracer.start_as_current_span(f"inside {name}"):
                await asyncio.sleep(0.01)
            return name

        return list(await asyncio.gather(*(ctx.step(name, work, name) for name in "ab")))

    task = app.spawn(both)
    app.run_worker_once()
    assert task.result(timeout=5) == ["a", "b"]
    for name in "ab":
        assert is_child(traced.one(f"inside {name}"), traced.one(f"step {name}"))
        assert is_child(traced.one(f"step {name}"), traced.one("run both"))


async def test_the_async_client_traces_too(database_url: str, traced: Traced) -> None:
    async with AsyncAbsurd(database_url) as app:

        @app.register_task("noop")
        async def noop(params: Any, ctx: Any) -> None: ...

        await app.spawn(noop)
        await app.spawn_many(noop, [1, 2])
        await app.emit_event("something")
        await app.run_worker_once()
    first, many = traced.named("spawn noop")
    runs = traced.named("run noop")
    assert sum(is_child(run, first) for run in runs) == 1
    assert sum(is_child(run, many) for run in runs) == 2
    assert len(traced.named("emit default")) == 1


def test_events_cleaned_up_meanwhile_or_unreadable_fail_no_task(
    app: Absurd, traced: Traced, conn: psycopg.Connection[Any]
) -> None:
    @app.register_task("waits")
    def waits(params: Any, ctx: Any) -> Any:
        return ctx.await_event("go")

    task = app.spawn(waits)
    app.run_worker_once()
    app.emit_event("go", 1)
    conn.execute("drop function absurd.event_sources(bigint[])")
    app.run_worker_once()
    assert task.result(timeout=5) == 1


class Broken(SpanProcessor):
    """Somebody's processor, with an error of its own."""

    def __init__(self, where: str) -> None:
        self._where = where

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._where == "start":
            raise RuntimeError("broken at the start")

    def on_end(self, span: Any) -> None:
        if self._where == "end":
            raise RuntimeError("broken at the end")


@pytest.mark.parametrize("where", ["start", "end"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_trace_that_breaks_costs_no_task(app: Absurd, where: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    declare_order(app, kind)
    provider = TracerProvider()
    provider.add_span_processor(Broken(where))
    telemetry.instrument(provider)
    harmless._next_warning = 0.0
    try:
        task = app.spawn("order")
        app.run_worker_once()
        app.emit_event("confirmed", 1)
        app.run_worker_once()
    finally:
        telemetry.uninstrument()
    assert task.result(timeout=5) == [1, "label"]
    assert app.get_result(task.task_id).failure is None
    assert "traces or metrics met an error" in caplog.text


def test_an_error_of_the_handler_passes_a_trace_that_breaks(app: Absurd) -> None:
    @app.register_task("fails", max_attempts=1)
    def fails(params: Any, ctx: Any) -> None:
        ctx.step("bad", lambda: 1 / 0)

    provider = TracerProvider()
    provider.add_span_processor(Broken("end"))
    telemetry.instrument(provider)
    try:
        task = app.spawn(fails)
        app.run_worker_once()
    finally:
        telemetry.uninstrument()
    assert app.get_result(task.task_id).failure["name"] == "ZeroDivisionError"


def test_steps_in_threads_of_the_handlers_own_belong_to_its_run(app: Absurd, traced: Traced) -> None:
    @app.register_task("threads")
    def threads(params: Any, ctx: Any) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: ctx.step(name, lambda: 1), "ab"))

    app.spawn(threads)
    app.run_worker_once()
    assert all(is_child(traced.one(f"step {name}"), traced.one("run threads")) for name in "ab")


def test_off_nothing_of_opentelemetry_or_prometheus_is_loaded() -> None:
    code = (
        "import sys; from absurd import Absurd; import absurd.worker, absurd.context; app = Absurd()\n"
        "print(*(name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus_client', 'structlog'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_off_nothing_is_wrapped() -> None:
    telemetry.uninstrument()
    steps = watched("a run", "step", "a", generator := (op for op in ()))  # type: ignore[arg-type]
    assert steps is generator
    assert around_spawn(Registry(), "a", NO_OPTIONS, "default") is NOTHING
    assert telemetry.emitting("default", "a") is telemetry.emitting("default", "b")


def test_off_requests_carry_nothing(app: Absurd) -> None:
    @app.register_task("noop")
    def noop(params: Any, ctx: Any) -> Any:
        return dict(ctx.headers)

    telemetry.uninstrument()
    task = app.spawn(noop)
    app.run_worker_once()
    assert task.result(timeout=5) == {}
    assert isinstance(task.task_id, UUID)
