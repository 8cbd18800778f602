"""Plays a program: one interpreter for sync and async handlers.

It is a generator that yields what the context's methods return. For a sync handler that is the value already; for an async one it
is awaited by the driver, and the value or the error goes back into the generator.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any

from absurd import NonRetryableError, TaskCancelledError, TaskFailedError
from absurd import TimeoutError as WaitTimeoutError
from tests.faults.programs import Node, Task
from tests.faults.programs.world import World

Steps = Generator[Any, Any, Any]


class FlakyError(Exception):
    """Raised by a step that succeeds later, and by a handler whose next attempt goes further."""


class ExhaustedError(Exception):
    """Raised by a handler at every attempt."""


class GuardedError(Exception):
    """Raised and caught within the handler."""


def real_now() -> datetime:
    """The time of the kernel, also in a process whose other clocks are off."""
    return datetime.fromtimestamp(time.clock_gettime(time.CLOCK_REALTIME), UTC)


def play_sync(program: Task, ctx: Any, world: World) -> Any:
    """Plays on a sync context."""
    steps = Player(program, ctx, world, is_async=False).begin(program)
    value = None
    while True:
        try:
            value = steps.send(value)
        except StopIteration as end:
            return end.value


async def play_async(program: Task, ctx: Any, world: World) -> Any:
    """Plays on an async context."""
    steps = Player(program, ctx, world, is_async=True).begin(program)
    value, error = None, None
    while True:
        try:
            awaitable = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value
        value, error = None, None
        try:
            value = await awaitable
        except BaseException as raised:  # control signals too: they unwind the program, as they would unwind a handler
            error = raised


class Player:
    """One run of a handler."""

    def __init__(self, program: Task, ctx: Any, world: World, *, is_async: bool) -> None:
        self._key = program["key"]
        self._ctx = ctx
        self._world = world
        self._is_async = is_async
        self._began = real_now()
        self._epoch = ctx._core.run.epoch

    def play(self, nodes: list[Node]) -> Steps:
        """The values of the nodes, in order."""
        values = []
        for node in nodes:
            values.append((yield from getattr(self, f"_{node['op']}")(node)))
        return values

    # -- steps --------------------------------------------------------------------------------------------------------------

    def _step(self, node: Node) -> Steps:
        return (yield self._ctx.step(node["id"], self._work(lambda: self._act(node), node)))

    def _block(self, node: Node) -> Steps:
        """Holds up the event loop of an async worker."""

        def block() -> str:
            time.sleep(node["seconds"])
            return self._act(node)

        return (yield self._ctx.step(node["id"], block))

    def _flaky(self, node: Node) -> Steps:
        tries = 0

        def work() -> str:
            nonlocal tries
            tries += 1
            if tries <= node["raises"]:
                raise FlakyError(f"try {tries}")
            return self._act(node)

        return (yield self._ctx.step(node["id"], self._work(work), retries=node["raises"], retry_delay=0.02))

    def _transaction(self, node: Node) -> Steps:
        if self._is_async:

            async def work(conn: Any) -> str:
                await asyncio.sleep(node.get("before", 0.0))
                await conn.execute(*self._insertion(node, "transaction"))
                await asyncio.sleep(node.get("after", 0.0))
                return self._name(node)
        else:

            def work(conn: Any) -> str:
                time.sleep(node.get("before", 0.0))
                conn.execute(*self._insertion(node, "transaction"))
                time.sleep(node.get("after", 0.0))
                return self._name(node)

        return (yield self._ctx.transaction(node["id"], work))

    def _helper(self, node: Node) -> Steps:
        """What the context makes up, written down by its first run."""
        value = str((yield getattr(self._ctx, node["of"])()))
        if self._is_async:

            async def work(conn: Any) -> str:
                await conn.execute(*self._insertion(node, "transaction", note=value))
                return ""
        else:

            def work(conn: Any) -> str:
                conn.execute(*self._insertion(node, "transaction", note=value))
                return ""

        yield self._ctx.transaction(node["id"], work)
        yield self._ctx.sleep_for(0.01)
        return value

    # -- errors -------------------------------------------------------------------------------------------------------------

    def _fail(self, node: Node) -> Steps:
        yield from ()
        if self._ctx.attempt <= node["attempts"]:
            raise FlakyError(f"attempt {self._ctx.attempt}")
        return "went on"

    def _die(self, node: Node) -> Steps:
        yield from ()
        raise NonRetryableError(self._name(node))

    def _exhaust(self, node: Node) -> Steps:
        yield from ()
        raise ExhaustedError(self._name(node))

    def _guard(self, node: Node) -> Steps:
        values: list[Any] = []
        try:
            values = yield from self.play(node["nodes"])
            if node["raises"]:
                raise GuardedError
        except Exception as error:  # as user code does; it must never see a control signal
            if not isinstance(error, GuardedError):
                raise
            return ["caught", values]
        return ["through", values]

    # -- waits --------------------------------------------------------------------------------------------------------------

    def _sleep(self, node: Node) -> Steps:
        yield self._ctx.sleep_for(node["seconds"])
        return "slept"

    def _wait(self, node: Node) -> Steps:
        try:
            return ["event", (yield self._ctx.await_event(node["event"], node["timeout"], queue=node["queue"]))]
        except WaitTimeoutError:
            return ["timeout"]

    def _forever(self, node: Node) -> Steps:
        return (yield self._ctx.await_event(f"never {self._name(node)}"))

    def _any(self, node: Node) -> Steps:
        return list((yield self._ctx.await_any(node["events"], queue=node["queue"])))

    def _all(self, node: Node) -> Steps:
        return (yield self._ctx.await_all(node["events"], queue=node["queue"]))

    def _emit(self, node: Node) -> Steps:
        payload = node["starts"] if "starts" in node else {"by": self._name(node)}
        yield self._ctx.emit_event(node["event"], payload, queue=node["queue"])
        return "emitted"

    def _token(self, node: Node) -> Steps:
        token = yield self._ctx.create_token(node["id"])
        answerer = {**node["child"], "answers": token.secret}
        yield self._start(answerer)
        return (yield self._ctx.await_token(token))

    # -- other tasks --------------------------------------------------------------------------------------------------------

    def _spawn(self, node: Node) -> Steps:
        child = yield self._start(node["child"])
        return (yield from self._join(child)) if node["join"] else "spawned"

    def _gather(self, node: Node) -> Steps:
        children = []
        for task in node["children"]:
            children.append((yield self._start(task)))
        values = yield self._ctx.gather(*children, return_exceptions=True)
        return [_outcome(value) for value in values]

    def _cancel(self, node: Node) -> Steps:
        child = yield self._start(node["child"])
        yield self._ctx.sleep_for(node["after"])
        yield self._ctx.step(node["id"], self._work(lambda: self._world.cancel(child.task_id)))
        return (yield from self._join(child))

    def _start(self, task: Task) -> Any:
        return self._ctx.spawn(task["task"], task, queue=task["queue"], **task["options"])

    def _join(self, child: Any) -> Steps:
        try:
            value = yield self._ctx.await_task(child)
        except (TaskFailedError, TaskCancelledError) as error:
            value = error
        return _outcome(value)

    # -- effects ------------------------------------------------------------------------------------------------------------

    def _name(self, node: Node) -> str:
        return f"{self._key}/{node['id']}"

    def _act(self, node: Node) -> str:
        self._world.execute(*self._insertion(node, "step"))
        return self._name(node)

    def begin(self, program: Task) -> Steps:
        """What a task does before its nodes: one that was spawned for it answers a token."""
        if "answers" in program:
            yield self._ctx.step("answer", self._work(lambda: self._world.answer(program["answers"], program["key"])))
        return (yield from self.play(program["nodes"]))

    def _insertion(self, node: Node, kind: str, note: str | None = None) -> tuple[str, tuple[Any, ...]]:
        """An effect. Its id is made before it is sent, so that sending it again after a lost answer is no second effect."""
        who = (self._key, node["id"], kind, self._ctx.run_id, self._epoch, self._ctx.attempt)
        return (
            "insert into public.effects (id, key, node, kind, run_id, epoch, attempt, worker, began, note)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (id) do nothing",
            (uuid.uuid4(), *who, self._world.worker, self._began, note),
        )

    def _work(self, fn: Callable[[], Any], node: Node | None = None) -> Callable[[], Any]:
        """The function of a step, which takes its time; on the event loop of an async worker it must not block."""
        before, after = (node or {}).get("before", 0.0), (node or {}).get("after", 0.0)

        def work() -> Any:
            time.sleep(before)
            value = fn()
            time.sleep(after)
            return value

        async def async_work() -> Any:
            await asyncio.sleep(before)
            value = await asyncio.to_thread(fn)
            await asyncio.sleep(after)
            return value

        return async_work if self._is_async else work


def _outcome(value: Any) -> Any:
    if isinstance(value, TaskFailedError):
        return ["failed"]
    return ["cancelled"] if isinstance(value, TaskCancelledError) else ["completed", value]
