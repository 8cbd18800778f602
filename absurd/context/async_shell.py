"""Performs the core's operations for an async handler, on the engine's loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from absurd import failpoints
from absurd.context.base import BaseContext, Port, Undo
from absurd.context.core import Core, Steps
from absurd.context.ops import PLAIN_VALUES, REACHED, Ask, Call, LoadMore, Look, NotCommitted, Op, Pause, Send, Settle, Transact
from absurd.db import run_async
from absurd.errors import DatabaseUnavailableError
from absurd.queries import runs as queries
from absurd.writes import RecordCheckpoint, WriteResult

P = ParamSpec("P")
T = TypeVar("T")


class StepDecorator(Protocol):
    """What ``ctx.step("name")`` returns: a decorator for async and for plain functions."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(self, function: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]: ...


class AsyncShell(BaseContext):
    """Runs the generators of the core on the loop."""

    def __init__(self, core: Core, port: Port) -> None:
        super().__init__(core, port)
        self._unsettled: list[asyncio.Future[WriteResult]] = []

    async def _drive(self, steps: Steps) -> Any:
        try:
            op = next(steps)
            while True:
                try:
                    answer = await _PERFORM[type(op)](self, op)
                    if failpoints.hook is not None:
                        failpoints.hook(REACHED[type(op)], self)
                except BaseException as error:
                    op = steps.throw(error)
                else:
                    op = steps.send(answer)
        except StopIteration as stop:
            return stop.value

    async def _settle(self, op: Settle) -> None:
        # A future stays listed until it is answered: steps side by side all have to wait for what came before them.
        while self._unsettled:
            future = self._unsettled[0]
            if not future.done():
                await asyncio.wait({future})  # unlike a plain await this does not cancel the future that others wait for
            if self._unsettled and self._unsettled[0] is future:
                del self._unsettled[0]
            self._core.check(future.result())

    async def _send(self, op: Send) -> None:
        future: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
        self._unsettled.append(future)
        self._port.send(op.write, future)

    async def _ask(self, op: Ask) -> WriteResult:
        future: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
        self._port.send(op.write, future)
        return await future

    async def _call(self, op: Call) -> Any:
        return await _value(op.fn(*op.args))

    async def _pause(self, op: Pause) -> None:
        await asyncio.sleep(op.seconds)

    async def _load_more(self, op: LoadMore) -> Any:
        return await self._port.run_query(queries.read_checkpoints(self.task_id, op.after_position, op.after_step))

    async def _look(self, op: Look) -> Any:
        return await self._port.run_query(op.query)

    async def _transact(self, op: Transact) -> str:
        text: str | None = None
        async with contextlib.AsyncExitStack() as stack:
            try:
                conn = await stack.enter_async_context(self._port.async_connection())
            except DatabaseUnavailableError as error:
                raise NotCommitted(error, unreachable=error.__cause__ is not None) from error
            try:
                async with conn.transaction():
                    text = self._core.encode_result(op, await _value(op.fn(conn, *op.args)))
                    write = RecordCheckpoint(self._core.holder, op.step_name, op.position, text)
                    Undo.unless_ok((await run_async(conn, queries.record_checkpoints([write])))[0])
                    if failpoints.hook is not None:
                        failpoints.hook("context.recorded-in-transaction", self)
                return text
            except Undo as undo:
                answer = undo.answer
            except Exception as error:
                if not conn.broken:
                    if NotCommitted.follows(error):
                        raise NotCommitted(error) from error
                    raise
                lost = error
                answer = None
        if answer is None:
            # Nobody answered: ask on another connection whether the commit took place.
            answer = WriteResult(await self._port.run_query(queries.verify_checkpoint(self._core.holder, op.step_name)))
            if answer.status == "missing":
                raise NotCommitted(lost)
        self._core.check(answer)
        assert text is not None
        return text


async def _value(result: Any) -> Any:
    # Asking whether something can be awaited takes longer than all else that is done with a plain value here.
    return result if type(result) in PLAIN_VALUES or not inspect.isawaitable(result) else await result


_PERFORM: dict[type[Op], Callable[[AsyncShell, Any], Coroutine[Any, Any, Any]]] = {
    Settle: AsyncShell._settle,
    Send: AsyncShell._send,
    Ask: AsyncShell._ask,
    Call: AsyncShell._call,
    Pause: AsyncShell._pause,
    Transact: AsyncShell._transact,
    LoadMore: AsyncShell._load_more,
    Look: AsyncShell._look,
}
