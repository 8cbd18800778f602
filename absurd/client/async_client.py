"""The client for async code: the same methods as ``Absurd``, to be awaited; a thin shell over the same base."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, Unpack, overload
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

from absurd import failpoints
from absurd.client.aio_listeners import AsyncListenerMethods
from absurd.client.aio_queues import AsyncQueueMethods
from absurd.client.aio_schedules import AsyncScheduleMethods
from absurd.client.aio_subscriptions import AsyncSubscriptionMethods
from absurd.client.aio_tokens import AsyncTokenMethods
from absurd.client.aio_triggers import AsyncTriggerMethods
from absurd.client.base import (
    batches,
    fork_options,
    many_options,
    many_params,
    retry_options,
    uncommitted,
    wrong_connection,
)
from absurd.client.handles import AsyncTaskHandle
from absurd.client.keywords import SpawnKeywords, spawn_options
from absurd.client.listener import Listener
from absurd.client.waiting import FINAL, Deadline, Pause, Plan, polling, require_end, watching
from absurd.client.workers import AsyncWorkerMethods
from absurd.context.children import as_task_id
from absurd.db import AsyncPool, run_async
from absurd.db.execution import run_whole_async
from absurd.queries import results, tasks
from absurd.queries.query import Query
from absurd.queries.spawn import spawn_one, spawn_tasks
from absurd.registry import check_name
from absurd.spawning import around_spawn
from absurd.types import Spawned, SpawnOptions, SpawnRequest, TaskResult

T = TypeVar("T")
R = TypeVar("R")
Conn = psycopg.AsyncConnection[Any] | None


class AsyncAbsurd(
    AsyncWorkerMethods,
    AsyncQueueMethods,
    AsyncSubscriptionMethods,
    AsyncScheduleMethods,
    AsyncTriggerMethods,
    AsyncTokenMethods,
    AsyncListenerMethods,
):
    """An application, for async code; its handlers may be plain functions all the same. What the methods do, take and raise is
    said at those of ``Absurd``.

    Example:

        app = AsyncAbsurd()

        @app.register_task
        async def greet(params, ctx):
            return await ctx.step("greeting", lambda: f"Hello {params['name']}")

        handle = await app.spawn(greet, {"name": "Ada"})
        print(await handle.result(timeout=10))
    """

    _pool_made: AsyncPool | None = None
    # How long a statement waits for a lock; servers, which share their connections among strangers, say it.
    _lock_seconds: float | None = None
    _listener_made: tuple[Listener, asyncio.AbstractEventLoop] | None = None

    # Running queries

    def _checked(self, conn: Any) -> Any:
        if not isinstance(conn, psycopg.AsyncConnection):
            raise wrong_connection(conn, "AsyncAbsurd", psycopg.AsyncConnection, "Absurd")
        return conn

    def _pool(self) -> AsyncPool:
        with self._setup_lock:
            if self._pool_made is None:
                self._pool_made = AsyncPool(self.database_url, max_size=self.pool_size, lock_seconds=self._lock_seconds)
            return self._pool_made

    async def _run(self, query: Query[T], conn: Conn = None, *, whole: bool = False) -> T:
        target = self._checked(conn) if conn is not None else self._conn
        if target is None:
            if self._url is None:
                # The embedded PostgreSQL may have to be started first, which takes a moment.
                await asyncio.to_thread(lambda: self.database_url)
            return await self._pool().run(query, whole=whole)
        return await run_whole_async(target, query) if whole else await run_async(target, query)

    async def close(self) -> None:
        """Closes the client's own connections; a connection that it was given stays open."""
        made, self._listener_made = self._listener_made, None
        if made is not None and made[1] is asyncio.get_running_loop():
            await made[0].stop()
        if self._pool_made is not None:
            await self._pool_made.close()

    async def __aenter__(self) -> AsyncAbsurd:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # Tasks

    @overload
    async def spawn(
        self,
        task: Callable[..., Coroutine[Any, Any, R]],
        params: Any = None,
        *,
        conn: Conn = None,
        **options: Unpack[SpawnKeywords],
    ) -> AsyncTaskHandle[R]: ...

    @overload
    async def spawn(
        self, task: Callable[..., R], params: Any = None, *, conn: Conn = None, **options: Unpack[SpawnKeywords]
    ) -> AsyncTaskHandle[R]: ...

    @overload
    async def spawn(
        self, task: str, params: Any = None, *, conn: Conn = None, **options: Unpack[SpawnKeywords]
    ) -> AsyncTaskHandle[Any]: ...

    async def spawn(self, task: Any, params: Any = None, *, conn: Conn = None, **options: Any) -> AsyncTaskHandle[Any]:
        """Makes a task, durable when this returns (with ``conn``: when the caller commits). Returns its handle.

        Arguments and errors are those of ``Absurd.spawn``.
        """
        name, given = self._task_name(task), spawn_options(options)
        with around_spawn(self.registry, name, given, self.queue_name):
            request = await self._request_hooked(name, params, given)
            spawned = await self._run(spawn_one(request), conn)
        return self._handle(task, request, spawned, conn)

    async def spawn_many(
        self,
        task: Callable[..., Any] | str,
        params: Iterable[Any],
        *,
        idempotency_keys: Sequence[str | None] | None = None,
        conn: Conn = None,
        **options: Unpack[SpawnKeywords],
    ) -> list[AsyncTaskHandle[Any]]:
        """Makes one task for each of ``params``, in batches of 1,000; each batch is one transaction, or part of the caller's.

        Arguments and errors are those of ``Absurd.spawn_many``.
        """
        name, items = self._task_name(task), many_params(params)
        shared = spawn_options(options)
        choices = many_options(shared, len(items), idempotency_keys)
        handles: list[AsyncTaskHandle[Any]] = []
        with around_spawn(self.registry, name, shared, self.queue_name, len(items)):
            if idempotency_keys is None and not self.registry.before_spawn:
                requests = self._alike(name, items, shared)
            else:
                requests = [await self._request_hooked(name, item, choice) for item, choice in zip(items, choices, strict=True)]
            for batch in batches(requests):
                spawned = await self._run(spawn_tasks(batch), conn, whole=True)
                if failpoints.hook is not None:
                    failpoints.hook("async-client.batch-spawned", self)
                handles += [self._handle(task, request, one, conn) for request, one in zip(batch, spawned, strict=True)]
        return handles

    async def _request_hooked(self, name: str, params: Any, options: SpawnOptions) -> SpawnRequest:
        for hook in self.registry.before_spawn:
            changed = hook(name, params, options)
            options = self._hooked(hook, options, await changed if inspect.isawaitable(changed) else changed)
        return self._request(name, params, options)

    def _handle(self, task: Any, request: SpawnRequest, spawned: Spawned, conn: Conn) -> AsyncTaskHandle[Any]:
        return AsyncTaskHandle(
            self,
            spawned.task_id,
            run_id=spawned.run_id,
            queue_name=request.queue_name,
            attempt=spawned.attempt,
            created=spawned.created,
            codec=self._result_codec(task),
            conn=conn,
        )

    def task(self, task_id: UUID | str, task: Callable[..., Any] | str | None = None) -> AsyncTaskHandle[Any]:
        """A handle of a task whose id is known. ``task`` gives the result its declared type. Does not ask the database."""
        return AsyncTaskHandle(self, as_task_id(task_id), codec=self._result_codec(task))

    async def get_result(self, task_id: UUID | str, *, conn: Conn = None) -> TaskResult:
        """State, result and failure of a task, now. Raises ``TaskNotFoundError``."""
        found = await self._run(results.read_result(as_task_id(task_id)), conn)
        if found is None:
            raise self._missing(as_task_id(task_id), None)
        return found

    async def cancel_task(self, task_id: UUID | str, *, conn: Conn = None) -> None:
        """Cancels a task, also a running one: its worker learns of it. Nothing happens if it has ended."""
        await self._run(results.cancel_task(as_task_id(task_id)), conn)

    async def retry_task(
        self, task_id: UUID | str, *, spawn_new: bool = False, max_attempts: int | None = None, conn: Conn = None
    ) -> AsyncTaskHandle[Any]:
        """Gives a failed or cancelled task another attempt, from its last checkpoint; with ``spawn_new``, runs a copy.

        Arguments are those of ``Absurd.retry_task``.
        """
        spawned = await self._run(results.retry_task(as_task_id(task_id), retry_options(spawn_new, max_attempts)), conn)
        return AsyncTaskHandle(
            self, spawned.task_id, run_id=spawned.run_id, attempt=spawned.attempt, created=spawned.created, conn=conn
        )

    async def fork_task(
        self, task_id: UUID | str, step_name: str, *, max_attempts: int | None = None, conn: Conn = None
    ) -> AsyncTaskHandle[Any]:
        """Starts a copy of a task that goes on from one of its steps; see ``Absurd.fork_task``."""
        options = fork_options(max_attempts)
        spawned = await self._run(tasks.fork_task(as_task_id(task_id), check_name("step name", step_name), options), conn)
        return AsyncTaskHandle(
            self, spawned.task_id, run_id=spawned.run_id, attempt=spawned.attempt, created=spawned.created, conn=conn
        )

    async def run_task_now(self, task_id: UUID | str, *, conn: Conn = None) -> None:
        """Makes the time of a sleeping task now; see ``Absurd.run_task_now``."""
        await self._run(tasks.run_task_now(as_task_id(task_id)), conn)

    # Waiting

    async def _await_end(self, task_id: UUID, timeout: float | None, spawned_on: Conn) -> TaskResult:
        deadline = Deadline(timeout)
        if self._conn is not None:
            return require_end(task_id, await self._await_on_connection(task_id, deadline), deadline)
        found = await self._run(results.read_result(task_id))
        if found is None:
            raise self._missing(task_id, spawned_on)
        if found.state not in FINAL:
            listener, heard = self._listener(), asyncio.Event()
            with listener.waiter(task_id, heard.set):
                found = await self._carry_out(watching(task_id, listener, deadline), heard)
        return require_end(task_id, found, deadline)

    def _listener(self) -> Listener:
        """The listener of the running event loop; one that was made on another loop went with that."""
        loop = asyncio.get_running_loop()
        if self._listener_made is None or self._listener_made[1] is not loop or not self._listener_made[0].running:
            listener = Listener(self.database_url)
            listener.start()
            self._listener_made = (listener, loop)
        return self._listener_made[0]

    async def _await_on_connection(self, task_id: UUID, deadline: Deadline) -> TaskResult | None:
        idle = self._conn.info.transaction_status == TransactionStatus.IDLE
        if idle:
            return await self._carry_out(polling(task_id, deadline), asyncio.Event())
        found = await self.get_result(task_id)
        if found.state not in FINAL:
            raise uncommitted(task_id)
        return found

    async def _carry_out(self, plan: Plan, heard: asyncio.Event) -> TaskResult | None:
        answer: Any = None
        while True:
            try:
                step = plan.send(answer)
            except StopIteration as end:
                found: TaskResult | None = end.value
                return found
            if isinstance(step, Pause):
                answer = await _heard_within(heard, step.seconds)
            else:
                answer = await self._run(step)
                if self._conn is not None and not self._conn.autocommit:
                    # Ends the transaction that the look itself has opened: there was none before.
                    await self._conn.rollback()


async def _heard_within(heard: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await heard.wait()
    except TimeoutError:
        return False
    heard.clear()
    return True
