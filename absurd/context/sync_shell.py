"""Performs the core's operations for a sync handler, by blocking the handler's thread."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

from absurd import failpoints
from absurd.context.base import BaseContext, Port, Undo
from absurd.context.core import Core, Steps
from absurd.context.ops import PLAIN_VALUES, REACHED, Ask, Call, LoadMore, Look, NotCommitted, Op, Pause, Send, Settle, Transact
from absurd.db import run
from absurd.errors import ContextError, DatabaseUnavailableError
from absurd.queries import runs as queries
from absurd.writes import RecordCheckpoint, WriteResult


class Answer:
    """Where a thread waits for the answer to a write. A ``concurrent.futures.Future`` does the same at five times the cost."""

    __slots__ = ("_error", "_missing", "_result")

    def __init__(self) -> None:
        self._result: WriteResult | None = None
        self._error: BaseException | None = None
        # Held until the answer is there.
        self._missing = threading.Lock()
        self._missing.acquire()

    def set_result(self, result: WriteResult, /) -> None:
        """Takes the answer."""
        self._result = result
        self._missing.release()

    def set_exception(self, exception: BaseException, /) -> None:
        """Takes an error."""
        self._error = exception
        self._missing.release()

    def done(self) -> bool:
        """Whether it has one of them."""
        return self._result is not None or self._error is not None

    def wait(self) -> None:
        """Blocks until it has one of them. Any number of threads may."""
        with self._missing:
            pass

    def result(self) -> WriteResult:
        """Waits, and returns the answer or raises the error."""
        self.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result


class SyncShell(BaseContext):
    """Runs the generators of the core in a thread."""

    def __init__(self, core: Core, port: Port) -> None:
        super().__init__(core, port)
        self._unsettled: list[Answer] = []

    def _drive(self, steps: Steps) -> Any:
        try:
            op = next(steps)
            while True:
                try:
                    answer = _PERFORM[type(op)](self, op)
                    if failpoints.hook is not None:
                        failpoints.hook(REACHED[type(op)], self)
                except BaseException as error:
                    op = steps.throw(error)
                else:
                    op = steps.send(answer)
        except StopIteration as stop:
            return stop.value

    def _settle(self, op: Settle) -> None:
        # An answer stays listed until it is there: steps in threads side by side all have to wait for what came before them.
        for answer in list(self._unsettled):
            answer.wait()
            with contextlib.suppress(ValueError):  # another thread was faster
                self._unsettled.remove(answer)
            self._core.check(answer.result())

    def _send(self, op: Send) -> None:
        answer = Answer()
        self._unsettled.append(answer)
        self._port.send_threadsafe(op.write, answer)

    def _ask(self, op: Ask) -> WriteResult:
        answer = Answer()
        self._port.send_threadsafe(op.write, answer)
        return answer.result()

    def _call(self, op: Call) -> Any:
        return _value(op.fn, op.fn(*op.args))

    def _pause(self, op: Pause) -> None:
        time.sleep(op.seconds)

    def _load_more(self, op: LoadMore) -> Any:
        return self._port.run_query_threadsafe(queries.read_checkpoints(self.task_id, op.after_position, op.after_step))

    def _look(self, op: Look) -> Any:
        return self._port.run_query_threadsafe(op.query)

    def _transact(self, op: Transact) -> str:
        text: str | None = None
        with contextlib.ExitStack() as stack:
            try:
                conn = stack.enter_context(self._port.connection())
            except DatabaseUnavailableError as error:
                raise NotCommitted(error, unreachable=error.__cause__ is not None) from error
            try:
                with conn.transaction():
                    text = self._core.encode_result(op, _value(op.fn, op.fn(conn, *op.args)))
                    write = RecordCheckpoint(self._core.holder, op.step_name, op.position, text)
                    Undo.unless_ok(run(conn, queries.record_checkpoints([write]))[0])
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
            answer = WriteResult(self._port.run_query_threadsafe(queries.verify_checkpoint(self._core.holder, op.step_name)))
            if answer.status == "missing":
                raise NotCommitted(lost)
        self._core.check(answer)
        assert text is not None
        return text


def _value(fn: Callable[..., Any], result: Any) -> Any:
    if type(result) not in PLAIN_VALUES and inspect.iscoroutine(result):
        result.close()
        raise ContextError(
            f"{fn!r} is async, but the task's handler is not; make the handler an async def, or the step a plain function"
        )
    return result


_PERFORM: dict[type[Op], Callable[[SyncShell, Any], Any]] = {
    Settle: SyncShell._settle,
    Send: SyncShell._send,
    Ask: SyncShell._ask,
    Call: SyncShell._call,
    Pause: SyncShell._pause,
    Transact: SyncShell._transact,
    LoadMore: SyncShell._load_more,
    Look: SyncShell._look,
}
