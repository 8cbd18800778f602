"""Performs the core's operations for a sync handler, by blocking the handler's thread."""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from absurd.context.base import BaseContext, Port, Undo
from absurd.context.core import Core, Steps
from absurd.context.ops import Ask, Call, LoadMore, NotCommitted, Op, Pause, Send, Settle, Transact
from absurd.db import run
from absurd.errors import ContextError
from absurd.queries import runs as queries
from absurd.writes import RecordCheckpoint, WriteResult


class SyncShell(BaseContext):
    """Runs the generators of the core in a thread."""

    def __init__(self, core: Core, port: Port) -> None:
        super().__init__(core, port)
        self._unsettled: list[Future[WriteResult]] = []

    def _drive(self, steps: Steps) -> Any:
        try:
            op = next(steps)
            while True:
                try:
                    answer = self._perform(op)
                except BaseException as error:
                    op = steps.throw(error)
                else:
                    op = steps.send(answer)
        except StopIteration as stop:
            return stop.value

    def _perform(self, op: Op) -> Any:
        if isinstance(op, Settle):
            return self._settle()
        if isinstance(op, Send):
            future: Future[WriteResult] = Future()
            self._unsettled.append(future)
            return self._port.send_threadsafe(op.write, future)
        if isinstance(op, Call):
            return _call(op.fn, op.args)
        if isinstance(op, Ask):
            future = Future()
            self._port.send_threadsafe(op.write, future)
            return future.result()
        if isinstance(op, Transact):
            return self._transact(op)
        if isinstance(op, Pause):
            return time.sleep(op.seconds)
        if isinstance(op, LoadMore):
            return self._port.run_query_threadsafe(queries.read_checkpoints(self.task_id, op.after_position, op.after_step))
        raise AssertionError(f"unknown operation {op!r}")

    def _settle(self) -> None:
        # A future stays listed until it is answered: steps in threads side by side all have to wait for what came before them.
        for future in list(self._unsettled):
            concurrent.futures.wait([future])
            with contextlib.suppress(ValueError):  # another thread was faster
                self._unsettled.remove(future)
            self._core.check(future.result())

    def _transact(self, op: Transact) -> str:
        text: str | None = None
        with self._port.connection() as conn:
            try:
                with conn.transaction():
                    text = self._core.encode_result(op, _call(op.fn, (conn, *op.args)))
                    write = RecordCheckpoint(self._core.holder, op.step_name, op.position, text)
                    Undo.unless_ok(run(conn, queries.record_checkpoints([write]))[0])
                return text
            except Undo as undo:
                answer = undo.answer
            except Exception as error:
                if not conn.broken:
                    raise NotCommitted.if_repeatable(error) from error
                lost = error
                answer = None
        if answer is None:
            # Nobody answered: ask on another connection whether the commit took place.
            answer = WriteResult(self._port.run_query_threadsafe(queries.verify_checkpoint(self._core.holder, op.step_name)))
            if answer.status == "missing":
                raise NotCommitted(lost)
        self._core.check(answer)
        assert text is not None
        return text


def _call(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    value = fn(*args)
    if inspect.iscoroutine(value):
        value.close()
        raise ContextError(
            f"{fn!r} is async, but the task's handler is not; make the handler an async def, or the step a plain function"
        )
    return value
