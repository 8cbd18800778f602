"""What a context does, once for sync and async handlers: generators that yield the operations their shell performs.

The rules of replay live here. Every effect has a name and a place; an effect that is recorded is answered from the history; a new
one begins only when everything before it is durable (``Settle``), and is itself sent at once, without waiting (``Send``).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from absurd import clock, telemetry
from absurd.codec import PLAIN, Codec, codec_for, copy_through_json, encode, return_codec
from absurd.context.arguments import check_backoff, check_function, check_since, shown
from absurd.context.durations import MAX_SECONDS, check_interval, check_moment, check_seconds, check_timeout
from absurd.context.history import History, parse_checkpoints
from absurd.context.names import RESERVED, user_step
from absurd.context.ops import SETTLE, Ask, Call, LoadMore, NotCommitted, Op, Pause, Send, Transact
from absurd.context.refusals import raise_missing, raise_refusal
from absurd.context.watching import linked, watched
from absurd.db.patience import Patience
from absurd.errors import (
    ContextError,
    InvalidOptionError,
    NonRetryableError,
    PayloadTooLargeError,
    RunCancelled,
    RunInterrupted,
    RunLost,
    RunSuspended,
    TimeoutError,  # noqa: A004
)
from absurd.registry import check_name
from absurd.spawning import NOTHING
from absurd.types import Checkpoint, ClaimedRun, SpawnRequest
from absurd.writes import (
    CheckWaits,
    EmitEvent,
    ExtendLease,
    Holder,
    RecordCheckpoint,
    SpawnChildren,
    Suspend,
    Wait,
    Write,
    WriteResult,
)

Steps = Generator[Op, Any, Any]
Around = AbstractContextManager[None]

# Seconds between two tries to reach the database for a transaction, after those of the pool.
UNREACHABLE_PAUSE = 1.0

_NOT_GIVEN = object()


class Core:
    """The state of one run and the effects it may have."""

    def __init__(self, run: ClaimedRun, *, max_payload_bytes: int, strict: bool = False) -> None:
        self.run = run
        self.holder = Holder(run.queue_name, run.task_id, run.run_id, run.epoch)
        self.history = History(run.checkpoints, run.checkpoint_count, task=run, strict=strict)
        self.max_payload_bytes = max_payload_bytes
        self.suspension: Suspend | None = None
        self.interruption: RunInterrupted | None = None
        self._uses: dict[str, int] = {}
        self._position = 0
        self._calls_in_flight = 0

    # -- what every effect begins with ------------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Raises again what has ended the run, for code that caught it and goes on."""
        if self.interruption is not None:
            raise self.interruption

    def interrupt(self, signal: RunInterrupted) -> None:
        """Ends the run at its next call of the context; the first reason stands."""
        if self.interruption is None:
            self.interruption = signal

    def _next(self, base: str) -> tuple[str, int]:
        self.check_usable()
        uses = self._uses[base] = self._uses.get(base, 0) + 1
        position, self._position = self._position, self._position + 1
        return (base if uses == 1 else f"{base}#{uses}"), position

    def _recall(self, name: str, position: int, kind: str = "step") -> Generator[Op, Any, Checkpoint | None]:
        """The recorded effect of that name, if there is one; a long history is fetched as far as needed."""
        found = self.history.find(name)
        if found is None and self.history.incomplete:
            found = yield from self._peek(name)
        if found is None:
            self.history.go_live(name, position)
        else:
            self.history.replay(found, position, kind)
        return found

    def _peek(self, name: str) -> Generator[Op, Any, Checkpoint | None]:
        found = self.history.find(name)
        while found is None and self.history.incomplete:
            self.history.extend((yield LoadMore(*self.history.last_place)))
            found = self.history.find(name)
        return found

    def check(self, answer: WriteResult) -> WriteResult:
        """Raises the control signal of a write that found the run in other hands."""
        if answer.status == "cancelled":
            self.interrupt(RunCancelled(f"task {self.run.task_id} has been cancelled"))
        elif answer.status == "lost":
            self.interrupt(RunLost(f"run {self.run.run_id} is held by another worker or has ended"))
        self.check_usable()
        return answer

    def encode(self, codec: Codec, value: Any, what: str) -> str:
        """JSON text of a value within the queue's limit."""
        text = codec.encode(value, what)
        if len(text) * 4 > self.max_payload_bytes and (size := len(text.encode())) > self.max_payload_bytes:
            raise PayloadTooLargeError(
                f'{what} has {size} bytes; queue "{self.run.queue_name}" allows {self.max_payload_bytes}. Store it elsewhere and '
                "return a reference, or raise max_payload_bytes of the queue"
            )
        return text

    def encode_result(self, op: Transact, value: Any) -> str:
        """JSON text of what the function of a transaction step returned."""
        return self.encode(op.codec, value, f'result of step "{op.step_name}"')

    def _queue(self, given: str | None) -> str:
        return self.run.queue_name if given is None else check_name("queue name", given)

    # -- steps --------------------------------------------------------------------------------------------------------------

    def step(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        declared: Any,
        retries: int,
        retry_delay: float,
        backoff: float,
    ) -> Steps:
        """``ctx.step``: runs fn unless its result is recorded."""
        check_function("step", fn)
        key, position = self._next(user_step(name))
        codec = codec_for(declared) if declared is not None else return_codec(fn)
        recorded = yield from self._recall(key, position)
        if recorded is not None:
            return codec.load(recorded.state, f'the recorded result of step "{key}"')
        yield SETTLE
        value = yield from watched(self.run, "step", key, self._attempt(fn, args, retries, retry_delay, backoff))
        return (yield from self._record(key, position, codec, value))

    def own_step(self, name: str, fn: Callable[[], Any], codec: Codec = PLAIN) -> Steps:
        """A small step of the library's own, such as the current time: no predecessor has to be durable for it."""
        key, position = self._next(f"{RESERVED}{name}")
        recorded = yield from self._recall(key, position)
        if recorded is not None:
            return codec.load(recorded.state, name)
        return (yield from self._record(key, position, codec, fn()))

    def _attempt(self, fn: Callable[..., Any], args: tuple[Any, ...], retries: int, delay: float, backoff: float) -> Steps:
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise InvalidOptionError(f"retries must be a whole number of 0 or more, not {retries!r}")
        check_seconds("retry_delay", delay)
        check_backoff(backoff)
        while True:
            self._calls_in_flight += 1
            try:
                return (yield Call(fn, args))
            except NonRetryableError:
                raise
            except Exception:
                if retries <= 0:
                    raise
            finally:
                self._calls_in_flight -= 1
            retries -= 1
            self.check_usable()
            yield Pause(delay)
            delay = min(delay * backoff, MAX_SECONDS)

    def _record(self, key: str, position: int, codec: Codec, value: Any) -> Steps:
        what = f'result of step "{key}"'
        text = self.encode(codec, value, what)
        self.check_usable()
        yield Send(RecordCheckpoint(self.holder, key, position, text))
        return copy_through_json(value, text) if codec is PLAIN else codec.decode(text, what)

    def transaction(self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], declared: Any) -> Steps:
        """``ctx.transaction``: fn's writes and the checkpoint commit together."""
        check_function("transaction", fn)
        key, position = self._next(user_step(name))
        codec = codec_for(declared) if declared is not None else return_codec(fn)
        recorded = yield from self._recall(key, position)
        if recorded is not None:
            return codec.load(recorded.state, f'the recorded result of step "{key}"')
        yield SETTLE
        text = yield from watched(self.run, "transaction", key, self._transact(Transact(key, position, fn, args, codec)))
        return codec.decode(text, f'result of step "{key}"')

    def _transact(self, op: Transact) -> Steps:
        """The transaction, again when it was rolled back for no fault of its own: a restart of PostgreSQL costs no attempt."""
        patience: Patience | None = None
        while True:
            self._calls_in_flight += 1
            try:
                return (yield op)
            except NotCommitted as undone:
                # From the first failure on: the transaction itself may have taken long, or the loop may have been blocked.
                patience = patience or Patience(repeatable=True)
                delay = patience.next_delay()
                if undone.unreachable:
                    # As long as it takes, like every other write of a task: the lease says when to stop.
                    patience, delay = None, UNREACHABLE_PAUSE
                if delay is None:
                    raise undone.error from None
            finally:
                self._calls_in_flight -= 1
            self.check_usable()
            yield Pause(delay)

    def now(self) -> Steps:
        """``ctx.now``."""
        return self.own_step("now", clock.now, codec_for(datetime))

    def random(self) -> Steps:
        """``ctx.random``."""
        return self.own_step("random", random.random)

    def make_uuid(self) -> Steps:
        """``ctx.uuid4``."""
        return self.own_step("uuid", uuid.uuid4, codec_for(uuid.UUID))

    # -- waits --------------------------------------------------------------------------------------------------------------

    def sleep(self, name: str | None, *, seconds: Any = None, until: Any = _NOT_GIVEN) -> Steps:
        """``ctx.sleep_for`` and ``ctx.sleep_until``: suspends."""
        duration = check_interval("seconds", seconds) if until is _NOT_GIVEN else None
        moment = check_moment("moment", until) if until is not _NOT_GIVEN else None
        key, position = self._next(user_step(name) if name is not None else f"{RESERVED}sleep")
        if (yield from self._recall(key, position, "sleep")) is None:
            # A checkpoint that the database refuses has to be heard of now: after the sleep its step would run again.
            yield SETTLE
            self._suspend(
                Suspend(self.holder, position, wake_at=moment, timeout=duration, timer_step=key, timer_kind="sleep"), "sleep"
            )

    def await_event(self, name: str, timeout: Any, since: int | None, queue: str | None, step_name: str | None) -> Steps:
        """``ctx.await_event`` and ``ctx.next_event``: the checkpoint of the arrival."""
        check_name("event name", name)
        base = user_step(step_name) if step_name is not None else f"{RESERVED}await:{name}"
        seconds = check_timeout(timeout)
        key, position = self._next(base)
        wait = Wait(key, self._queue(queue), name, check_since(since))
        (arrival,) = yield from self._wait(key, position, [wait], 1, seconds, f'event "{name}"')
        return arrival[1]

    def await_events(self, names: Sequence[str], needed: int, timeout: Any, queue: str | None) -> Steps:
        """``ctx.await_any`` and ``ctx.await_all`` of events: pairs of index and checkpoint."""
        seconds = check_timeout(timeout)
        kind = "any" if needed == 1 else "all"
        key, position = self._next(f"{RESERVED}await_{kind}:{'|'.join(sorted(names))}"[:400])
        places = {name: place for place, name in enumerate(sorted(names))}
        event_queue = self._queue(queue)
        waits = [Wait(f"{key}/{places[name]}", event_queue, name) for name in names]
        return (yield from self._wait(key, position, waits, needed, seconds, f"{kind} of the events {shown(names)}"))

    def await_tasks(self, task_ids: Sequence[uuid.UUID], timeout: Any) -> Steps:
        """``ctx.await_task`` and ``ctx.gather``: how each of the tasks ended, in the order given."""
        seconds = check_timeout(timeout)
        key, position = self._next(f"{RESERVED}await_task:{task_ids[0]}" if len(task_ids) == 1 else f"{RESERVED}gather")
        unique = list(dict.fromkeys(task_ids))
        waits = [Wait(key if len(task_ids) == 1 else f"{key}/{task_id}", task_id=task_id) for task_id in unique]
        what = f"task {unique[0]}" if len(unique) == 1 else f"{len(unique)} tasks"
        arrivals = yield from self._wait(key, position, waits, len(waits), seconds, what)
        by_id = {unique[index]: checkpoint.state for index, checkpoint in arrivals}
        return [by_id[task_id] for task_id in task_ids]

    def await_token(self, token_id: uuid.UUID, name: str, timeout: float | None, expires_at: datetime | None) -> Steps:
        """``ctx.await_token``: the answer. The SQL function ``token_status`` knows this step by its name."""
        key, position = self._next(f"{RESERVED}await_token:{token_id}:{name}")
        wait = Wait(key, token_id=token_id)
        (arrival,) = yield from self._wait(key, position, [wait], 1, timeout, f'an answer to token "{name}"', expires_at)
        return arrival[1].state

    def _wait(
        self,
        key: str,
        position: int,
        waits: list[Wait],
        needed: int,
        timeout: float | None,
        what: str,
        until: datetime | None = None,
    ) -> Generator[Op, Any, list[tuple[int, Checkpoint]]]:
        """The first ``needed`` arrivals, as pairs of index and checkpoint; suspends the run until they are there.

        A timeout is a checkpoint like an arrival, so that it holds on every replay, whatever comes later.
        """
        single = len(waits) == 1 and waits[0].step_name == key
        over = yield from self._peek(key)
        if over is not None and over.kind == "timeout":
            self.history.replay(over, position)
            self.history.drop(wait.step_name for wait in waits if not single)
            within = f"within {timeout} s" if timeout is not None else "in time"
            raise TimeoutError(f"{what} did not come {within}")
        found = {}
        for index, wait in enumerate(waits):
            checkpoint = yield from self._peek(wait.step_name)
            if checkpoint is not None:
                found[index] = checkpoint
        for checkpoint in found.values():
            self.history.replay(checkpoint, position, waits[0].kind)
        if len(found) < needed:
            # What has come stays: a new attempt waits for the rest only, for an event may have been cleaned up meanwhile.
            rest = [wait for index, wait in enumerate(waits) if index not in found]
            arrivals = yield from self._arrivals(key, position, rest, needed - len(found), timeout, what, until)
            found |= {index: arrivals[wait.step_name] for index, wait in enumerate(waits) if wait.step_name in arrivals}
        if telemetry.tracing is not None and not self.history.is_replaying:
            yield from linked(checkpoint.event_seq for checkpoint in found.values())
        return sorted(found.items())[:needed]

    def _arrivals(
        self, key: str, position: int, waits: list[Wait], needed: int, timeout: float | None, what: str, until: datetime | None
    ) -> Generator[Op, Any, dict[str, Checkpoint]]:
        """Arrivals that are there already, by step name; else the run is suspended."""
        self.history.go_live(key, position)
        yield SETTLE
        answer = self.check((yield Ask(CheckWaits(self.holder, position, needed, waits))))
        if answer.status == "ok":
            arrivals = {c.step_name: c for c in parse_checkpoints(answer.detail)}
            self.history.add(arrivals.values())
            return arrivals
        raise_missing(answer, waits)
        self._suspend(
            Suspend(self.holder, position, needed, waits, until, timeout, timer_step=key, timer_kind="timeout"),
            f"wait for {what}",
        )
        raise AssertionError("unreachable: a suspension raises")

    def _suspend(self, suspension: Suspend, what: str) -> None:
        """Unwinds the handler; the engine puts the run to sleep when nothing of it runs any more."""
        if self._calls_in_flight:
            raise ContextError(
                f"cannot {what} while {self._calls_in_flight} other step(s) of this task are running; await them first, "
                "or use ctx.await_any, ctx.await_all or ctx.gather"
            )
        self.suspension = suspension
        self.interrupt(RunSuspended(what))
        self.check_usable()

    # -- spawns, emits, heartbeat -------------------------------------------------------------------------------------------

    def ask_once(self, base: str, make: Callable[[str, int], Write], around: Around = NOTHING) -> Steps:
        """An effect that the database makes and records in one transaction: what it recorded. ``around`` it if it is new."""
        key, position = self._next(f"{RESERVED}{base}")
        recorded = yield from self._recall(key, position)
        if recorded is not None:
            return recorded.state
        with around:
            write = make(key, position)
            yield SETTLE
            answer = self.check((yield Ask(write)))
            raise_refusal(answer)
        return PLAIN.decode(answer.detail, base)

    def spawn(self, base: str, make_requests: Callable[[], Sequence[SpawnRequest]], around: Around = NOTHING) -> Steps:
        """``ctx.spawn`` and ``ctx.spawn_many``: what was recorded of each child, ``{"task_id", "run_id", "created"}``."""
        return self.ask_once(f"spawn:{base}", lambda key, place: SpawnChildren(self.holder, key, place, make_requests()), around)

    def emit_event(self, name: str, payload: Any, queue: str | None) -> Steps:
        """``ctx.emit_event``."""
        check_name("event name", name)
        key, position = self._next(f"{RESERVED}emit:{name}")
        if (yield from self._recall(key, position)) is not None:
            return
        text = None if payload is None else encode(payload, f'payload of event "{name}"')
        yield SETTLE
        event_queue = self._queue(queue)
        with telemetry.emitting(event_queue, name):
            trace = None if telemetry.tracing is None else encode(telemetry.with_trace(None), "trace")
            answer = self.check((yield Ask(EmitEvent(self.holder, key, position, event_queue, name, text, trace))))
            raise_refusal(
                answer, f'queue "{event_queue}" does not exist; create it with app.create_queue or absurdctl create-queue'
            )

    def heartbeat(self, seconds: float) -> Steps:
        """``ctx.heartbeat``."""
        self.check_usable()
        self.check((yield Ask(ExtendLease(self.holder, check_seconds("seconds", seconds)))))
