"""What an async handler holds. Generated from ``sync.py`` by ``scripts/build_async.py``; do not edit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar, overload
from uuid import UUID

from absurd.context.arguments import check_event_names
from absurd.context.async_shell import AsyncShell, StepDecorator
from absurd.context.children import ChildTask, as_task_id, children, request_maker
from absurd.context.outcomes import event_of, outcome_value, outcome_values
from absurd.context.tokens import Token, await_token, create_token
from absurd.spawning import around_spawn
from absurd.types import Cancellation, Event, RetryStrategy, SpawnOptions

P = ParamSpec("P")
T = TypeVar("T")


class AsyncContext(AsyncShell):
    """What an async handler holds. Every method may suspend the run or end it, by raising through the handler."""

    # -- steps --------------------------------------------------------------------------------------------------------------

    @overload
    def step(
        self,
        name: str,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        result_type: Any = None,
        retries: int = 0,
        retry_delay: float = 1.0,
        backoff: float = 2.0,
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def step(
        self,
        name: str,
        fn: Callable[..., T],
        *args: Any,
        result_type: Any = None,
        retries: int = 0,
        retry_delay: float = 1.0,
        backoff: float = 2.0,
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def step(self, name: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def step(self, name: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def step(
        self, name: str, *, result_type: Any = None, retries: int = 0, retry_delay: float = 1.0, backoff: float = 2.0
    ) -> StepDecorator: ...

    def step(
        self,
        name: str | Callable[..., Any],
        fn: Callable[..., Any] | None = None,
        *args: Any,
        result_type: Any = None,
        retries: int = 0,
        retry_delay: float = 1.0,
        backoff: float = 2.0,
    ) -> Any:
        """Runs ``fn(*args)``, awaited if it is async, once in the life of the task.

        Its result is recorded, and returned on every replay.

        Without ``fn`` it is a decorator, ``@ctx.step`` or ``@ctx.step("name")``: each call of the decorated function is a step.

        Args:
            name: identifies the step; a name that is used again becomes ``name#2``.
            fn: does the work; its result must be JSON, or fit its return annotation or ``result_type``.
            result_type: the result's type (dataclass, TypedDict, pydantic model, …), if the annotation of ``fn`` does not say it.
            retries: how often to call ``fn`` again at once, within this run, when it raises.
            retry_delay: seconds before the first of these, multiplied by ``backoff`` each time. The worker slot stays taken.

        Raises:
            SerializationError, ValidationError, PayloadTooLargeError: the result cannot be stored.
        """
        if callable(name):
            return self.step(getattr(name, "__name__", "step"))(name)
        if fn is None:

            def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
                @functools.wraps(function)
                def call(*call_args: Any, **options: Any) -> Any:
                    work = functools.partial(function, **options) if options else function
                    return self._drive(self._core.step(name, work, call_args, result_type, retries, retry_delay, backoff))

                return call

            return decorate
        return self._drive(self._core.step(name, fn, args, result_type, retries, retry_delay, backoff))

    @overload
    async def transaction(
        self, name: str, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, result_type: Any = None
    ) -> T: ...

    @overload
    async def transaction(self, name: str, fn: Callable[..., T], *args: Any, result_type: Any = None) -> T: ...

    async def transaction(self, name: str, fn: Callable[..., Any], *args: Any, result_type: Any = None) -> Any:
        """Runs ``fn(connection, *args)``, awaited if it is async, in a transaction of the task database.

        The step is recorded in the same transaction: its effect happens exactly once. A transaction that was rolled back because
        its connection broke, or for the sake of another one (deadlock, serialization failure) is run again, for up to 30 seconds.

        The connection is a ``psycopg.AsyncConnection``; do not commit or roll back on it. What fn raises rolls everything back.

        Args:
            name: identifies the step, as for ``step``.
            fn: does the work; its result must be JSON, or fit its return annotation or ``result_type``.
            result_type: the result's type, if the annotation of ``fn`` does not say it.

        Raises:
            SerializationError, ValidationError, PayloadTooLargeError: the result cannot be stored; nothing has happened.
        """
        result = await self._drive(self._core.transaction(name, fn, args, result_type))
        return result

    async def now(self) -> datetime:
        """The current time in UTC, the same on every replay."""
        found: datetime = await self._drive(self._core.now())
        return found

    async def random(self) -> float:
        """A random number in [0, 1), the same on every replay."""
        found: float = await self._drive(self._core.random())
        return found

    async def uuid4(self) -> UUID:
        """A random UUID, the same on every replay."""
        found: UUID = await self._drive(self._core.make_uuid())
        return found

    # -- waits --------------------------------------------------------------------------------------------------------------

    async def sleep_for(self, seconds: float | timedelta | str, *, name: str | None = None) -> None:
        """Suspends the task for a time. It holds no slot, connection or lease meanwhile.

        Args:
            seconds: a number, a timedelta or a text like ``"2h"``.
            name: how the sleep is recorded, instead of by its place among the sleeps.
        """
        await self._drive(self._core.sleep(name, seconds=seconds))

    async def sleep_until(self, moment: datetime, *, name: str | None = None) -> None:
        """Suspends the task until a moment. It holds no slot, connection or lease meanwhile.

        Args:
            moment: a datetime with a time zone.
            name: how the sleep is recorded, instead of by its place among the sleeps.
        """
        await self._drive(self._core.sleep(name, until=moment))

    async def await_event(
        self,
        name: str,
        timeout: float | timedelta | str | None = None,
        *,
        queue: str | None = None,
        since: int | None = None,
        step_name: str | None = None,
    ) -> Any:
        """Suspends the task until an event of that name has been emitted, also before the wait, and returns its payload.

        Args:
            name: of the event, matched exactly.
            timeout: seconds, a timedelta or a text like ``"7d"`` after which the wait ends with ``absurd.TimeoutError``; that
                too holds on every replay.
            queue: of the event, if it is not the task's own.
            since: take the first emission after this ``seq`` instead of the first of all (see ``next_event``).
            step_name: how the wait is recorded, instead of by the event's name.

        Raises:
            TimeoutError: no event came within ``timeout``.
        """
        arrival = await self._drive(self._core.await_event(name, timeout, since, queue, step_name))
        return arrival.state

    async def next_event(
        self,
        name: str,
        since: Event | int | None = None,
        *,
        timeout: float | timedelta | str | None = None,
        queue: str | None = None,
    ) -> Event:
        """Suspends the task until a name has been emitted after another time: for names that recur.

        Args:
            name: of the event, matched exactly.
            since: the event before, or its ``seq``; otherwise the first emission of all is taken.
            timeout: seconds, a timedelta or a text like ``"7d"``.
            queue: of the event, if it is not the task's own.

        Returns:
            The event: its name, payload and ``seq``.

        Raises:
            TimeoutError: no event came within ``timeout``.
        """
        seq = since.seq if isinstance(since, Event) else since
        return event_of(name, await self._drive(self._core.await_event(name, timeout, seq, queue, None)))

    async def await_any(
        self, names: Sequence[str], timeout: float | timedelta | str | None = None, *, queue: str | None = None
    ) -> tuple[str, Any]:
        """Suspends the task until one of several events is there; returns its name and payload.

        Args:
            names: of the events, up to 1,000.
            timeout: seconds, a timedelta or a text like ``"7d"``.
            queue: of the events, if it is not the task's own.

        Raises:
            TimeoutError: none came within ``timeout``.
        """
        wanted = check_event_names(names)
        ((index, checkpoint),) = await self._drive(self._core.await_events(wanted, 1, timeout, queue))
        return wanted[index], checkpoint.state

    async def await_all(
        self, names: Sequence[str], timeout: float | timedelta | str | None = None, *, queue: str | None = None
    ) -> dict[str, Any]:
        """Suspends the task until all of several events are there; returns their payloads by name.

        Args:
            names: of the events, up to 1,000.
            timeout: seconds, a timedelta or a text like ``"7d"``, for all of them.
            queue: of the events, if it is not the task's own.

        Raises:
            TimeoutError: one did not come within ``timeout``.
        """
        wanted = check_event_names(names)
        found = await self._drive(self._core.await_events(wanted, len(wanted), timeout, queue))
        return {wanted[index]: checkpoint.state for index, checkpoint in found}

    @overload
    async def create_token(
        self,
        name: str = "token",
        *,
        timeout: float | timedelta | str | None = None,
        type: type[T],
        title: str | None = None,
        description: str | None = None,
        url: str | None = None,
    ) -> Token[T]: ...

    @overload
    async def create_token(
        self,
        name: str = "token",
        *,
        timeout: float | timedelta | str | None = None,
        type: Any = None,
        title: str | None = None,
        description: str | None = None,
        url: str | None = None,
    ) -> Token[Any]: ...

    async def create_token(
        self,
        name: str = "token",
        *,
        timeout: float | timedelta | str | None = None,
        type: Any = None,  # noqa: A002
        title: str | None = None,
        description: str | None = None,
        url: str | None = None,
    ) -> Token[Any]:
        """Makes a token, once: whoever gets its ``url`` (a page for people) or its ``secret`` may answer it, once.

        Args:
            name: of the token, for people; one that is used again becomes another token.
            timeout: seconds, or a text like ``"3d"``, after which no answer is taken any more; otherwise it never expires.
            type: what an answer must be (``bool``, a ``Literal``, an enum, a dataclass, a pydantic model, …). An answer that
                does not fit is refused, with the reason, and the token stays open. Otherwise any JSON.
            title: what the page asks.
            description: more text on the page; its line breaks are kept.
            url: the public address of the server with ``absurd.web``, if neither ``Absurd(public_url=…)`` nor
                ``ABSURD_PUBLIC_URL`` says it.

        Raises:
            InvalidOptionError, SerializationError, PayloadTooLargeError: an argument cannot be used.

        Example:

            token = await ctx.create_token("approval", timeout="3d", type=bool, title=f"Refund {amount} €?")
            await ctx.step("mail", send_mail, manager, token.url)
            approved = await ctx.await_token(token)
        """
        base_url = url if url is not None else self._port.registry.public_url
        made: Token[Any] = await self._drive(create_token(self._core, name, timeout, type, title, description, base_url))
        return made

    async def await_token(self, token: Token[T], timeout: float | timedelta | str | None = None) -> T:
        """Suspends the task until a token of its own has been answered, also before the wait, and returns the answer.

        Awaited again it returns the same answer.

        Args:
            token: what ``create_token`` returned.
            timeout: seconds, or a text like ``"1d"``, to wait this time, if that ends before the token expires: to remind
                somebody, and wait again.

        Raises:
            TimeoutError: no answer came before the token expired, or within ``timeout``; that holds on every replay.
            ValidationError: the answer came by a way that does not look at the token's type, such as plain SQL, and does not fit.
        """
        answer: T = await self._drive(await_token(self._core, token, timeout))
        return answer

    # -- other tasks and events ---------------------------------------------------------------------------------------------

    async def spawn(
        self,
        task: Any,
        params: Any = None,
        *,
        queue: str | None = None,
        delay: float | None = None,
        available_at: datetime | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        retry: RetryStrategy | Mapping[str, Any] | str | None = None,
        cancellation: Cancellation | Mapping[str, float] | None = None,
        headers: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> ChildTask:
        """Spawns a child task, exactly once.

        The other arguments are those of ``Absurd.spawn`` (see ``SpawnKeywords``).

        Args:
            task: a function registered with the app, or the name of a task.
            params: JSON, or what the declared type of its handler takes.
            queue: where the task goes; otherwise the queue of its definition, otherwise the parent's.

        Returns:
            The child, for ``await_task`` and ``gather``.

        Raises:
            InvalidOptionError, SerializationError, ValidationError: what was given cannot be used.
            QueueNotFoundError, PayloadTooLargeError: the database refused it.
        """
        options = SpawnOptions(
            queue, delay, available_at, priority, max_attempts, retry, cancellation, headers, idempotency_key, self.task_id
        )
        (child,) = await self._spawn(task, [params], options)
        return child

    async def spawn_many(self, task: Any, all_params: Sequence[Any], **options: Any) -> list[ChildTask]:
        """Spawns one child for each of the params, as one step: all of them or none.

        Args:
            task: a function registered with the app, or the name of a task.
            all_params: the params of each, up to 100,000.
            options: as of ``spawn``; the same for all.
        """
        return await self._spawn(task, all_params, SpawnOptions(**options, parent_task_id=self.task_id))

    async def _spawn(self, task: Any, all_params: Sequence[Any], options: SpawnOptions) -> list[ChildTask]:
        name, make = request_maker(self._port.registry, task, all_params, options, self.queue_name)
        around = around_spawn(self._port.registry, name, options, self.queue_name, len(all_params))
        return children(await self._drive(self._core.spawn(name, make, around)), name)

    async def await_task(self, task: ChildTask | UUID | str, timeout: float | timedelta | str | None = None) -> Any:
        """Suspends the task until another one has ended, and returns its result.

        Args:
            task: what ``spawn`` returned, or the id of any task.
            timeout: seconds, a timedelta or a text like ``"7d"``.

        Raises:
            TaskFailedError, TaskCancelledError: it ended otherwise.
            TimeoutError: it did not end within ``timeout``.
        """
        (outcome,) = await self._drive(self._core.await_tasks([as_task_id(task)], timeout))
        return outcome_value(outcome, self._port.registry, getattr(task, "task_name", None))

    async def gather(
        self, *tasks: ChildTask | UUID | str, timeout: float | timedelta | str | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """Suspends the task until all of these have ended, and returns their results in order.

        Args:
            tasks: what ``spawn`` and ``spawn_many`` returned, or ids of any tasks.
            timeout: seconds, a timedelta or a text like ``"7d"``, for all of them.
            return_exceptions: put the error of one that failed in the place of its result, instead of raising it.

        Raises:
            TaskFailedError, TaskCancelledError: one ended otherwise; raised when all have ended.
            TimeoutError: one did not end within ``timeout``.
        """
        if not tasks:
            return []
        outcomes = await self._drive(self._core.await_tasks([as_task_id(task) for task in tasks], timeout))
        names = [getattr(task, "task_name", None) for task in tasks]
        return outcome_values(outcomes, self._port.registry, names, return_exceptions)

    async def emit_event(self, name: str, payload: Any = None, *, queue: str | None = None) -> None:
        """Emits an event, exactly once.

        Args:
            name: of the event, 1 to 1,000 bytes.
            payload: JSON.
            queue: of the event, if it is not the task's own.

        Raises:
            InvalidOptionError, SerializationError: what was given cannot be used.
            QueueNotFoundError, PayloadTooLargeError: the database refused it.
        """
        await self._drive(self._core.emit_event(name, payload, queue))

    async def heartbeat(self, seconds: float | None = None) -> None:
        """Renews the lease now (the worker does so by itself), and ends the run here if it has been cancelled or lost.

        Args:
            seconds: for how long; otherwise as long as the worker's leases are.
        """
        await self._drive(self._core.heartbeat(self._port.lease_seconds if seconds is None else seconds))
