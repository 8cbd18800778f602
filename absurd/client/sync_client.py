"""The client for sync code: a thin shell over ``BaseClient``. ``AsyncAbsurd`` has the same methods."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, Unpack, overload
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

from absurd import failpoints
from absurd.client.background import Background
from absurd.client.base import (
    batches,
    fork_options,
    many_options,
    many_params,
    retry_options,
    uncommitted,
    wrong_connection,
)
from absurd.client.handles import TaskHandle
from absurd.client.keywords import SpawnKeywords, spawn_options
from absurd.client.listeners import ListenerMethods
from absurd.client.queues import QueueMethods
from absurd.client.schedules import ScheduleMethods
from absurd.client.subscriptions import SubscriptionMethods
from absurd.client.tokens import TokenMethods
from absurd.client.triggers import TriggerMethods
from absurd.client.waiting import FINAL, Deadline, Pause, Plan, polling, require_end, watching
from absurd.client.workers import SyncWorkerMethods
from absurd.context.children import as_task_id
from absurd.db import Pool, run
from absurd.db.execution import run_whole
from absurd.queries import results, tasks
from absurd.queries.query import Query
from absurd.queries.spawn import spawn_one, spawn_tasks
from absurd.registry import check_name
from absurd.spawning import around_spawn
from absurd.types import Spawned, SpawnOptions, SpawnRequest, TaskResult

T = TypeVar("T")
R = TypeVar("R")
Conn = psycopg.Connection[Any] | None


class Absurd(
    SyncWorkerMethods, QueueMethods, SubscriptionMethods, ScheduleMethods, TriggerMethods, TokenMethods, ListenerMethods
):
    """An application, for sync code; its handlers may be async all the same. Safe to share between threads.

    Example:

        app = Absurd()

        @app.register_task
        def greet(params, ctx):
            return ctx.step("greeting", lambda: f"Hello {params['name']}")

        print(app.spawn(greet, {"name": "Ada"}).result(timeout=10))
    """

    _pool_made: Pool | None = None
    _background: Background | None = None

    # Running queries

    def _checked(self, conn: Any) -> Any:
        if not isinstance(conn, psycopg.Connection):
            raise wrong_connection(conn, "Absurd", psycopg.Connection, "AsyncAbsurd")
        return conn

    def _pool(self) -> Pool:
        with self._setup_lock:
            if self._pool_made is None:
                self._pool_made = Pool(self.database_url, max_size=self.pool_size)
            return self._pool_made

    def _run(self, query: Query[T], conn: Conn = None, *, whole: bool = False) -> T:
        target = self._checked(conn) if conn is not None else self._conn
        if target is None:
            return self._pool().run(query, whole=whole)
        return run_whole(target, query) if whole else run(target, query)

    def close(self) -> None:
        """Closes the client's own connections; a connection that it was given stays open."""
        if self._background is not None:
            self._background.stop()
        if self._pool_made is not None:
            self._pool_made.close()

    def __enter__(self) -> Absurd:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Tasks

    @overload
    def spawn(
        self,
        task: Callable[..., Coroutine[Any, Any, R]],
        params: Any = None,
        *,
        conn: Conn = None,
        **options: Unpack[SpawnKeywords],
    ) -> TaskHandle[R]: ...

    @overload
    def spawn(
        self, task: Callable[..., R], params: Any = None, *, conn: Conn = None, **options: Unpack[SpawnKeywords]
    ) -> TaskHandle[R]: ...

    @overload
    def spawn(self, task: str, params: Any = None, *, conn: Conn = None, **options: Unpack[SpawnKeywords]) -> TaskHandle[Any]: ...

    def spawn(self, task: Any, params: Any = None, *, conn: Conn = None, **options: Any) -> TaskHandle[Any]:
        """Makes a task, durable when this returns (with ``conn``: when the caller commits).

        Args:
            task: a function registered with this app, or the name of a task; a name may be known to workers elsewhere only.
            params: JSON, or what the handler's declared type takes.
            conn: an open connection of the caller's: the task is part of its transaction, which is not committed here.
            options: see ``SpawnKeywords``; what is not given comes from the task's definition, then from the app.

        Returns:
            A handle, to wait for the result or to cancel the task.

        Raises:
            InvalidOptionError, SerializationError, ValidationError: what was given cannot be used; nothing was sent.
            QueueNotFoundError, PayloadTooLargeError: the database refused it.
            DatabaseUnavailableError: the database cannot be reached.
        """
        name, given = self._task_name(task), spawn_options(options)
        with around_spawn(self.registry, name, given, self.queue_name):
            request = self._request_hooked(name, params, given)
            spawned = self._run(spawn_one(request), conn)
        return self._handle(task, request, spawned, conn)

    def spawn_many(
        self,
        task: Callable[..., Any] | str,
        params: Iterable[Any],
        *,
        idempotency_keys: Sequence[str | None] | None = None,
        conn: Conn = None,
        **options: Unpack[SpawnKeywords],
    ) -> list[TaskHandle[Any]]:
        """Makes one task for each of ``params``, in batches of 1,000; each batch is one transaction, or part of the caller's.

        Everything is checked before the first batch is sent. A batch in which the database refuses an item leaves nothing behind.
        Errors and handles are those of ``spawn``.

        Args:
            task: as for ``spawn``.
            params: of each task.
            idempotency_keys: of each task, in the same order; None for one without.
            conn: as for ``spawn``.
            options: as for ``spawn``; the same for all.
        """
        name, items = self._task_name(task), many_params(params)
        shared = spawn_options(options)
        choices = many_options(shared, len(items), idempotency_keys)
        handles: list[TaskHandle[Any]] = []
        with around_spawn(self.registry, name, shared, self.queue_name, len(items)):
            if idempotency_keys is None and not self.registry.before_spawn:
                requests = self._alike(name, items, shared)
            else:
                requests = [self._request_hooked(name, item, choice) for item, choice in zip(items, choices, strict=True)]
            for batch in batches(requests):
                spawned = self._run(spawn_tasks(batch), conn, whole=True)
                if failpoints.hook is not None:
                    failpoints.hook("client.batch-spawned", self)
                handles += [self._handle(task, request, one, conn) for request, one in zip(batch, spawned, strict=True)]
        return handles

    def _request_hooked(self, name: str, params: Any, options: SpawnOptions) -> SpawnRequest:
        for hook in self.registry.before_spawn:
            options = self._hooked(hook, options, hook(name, params, options))
        return self._request(name, params, options)

    def _handle(self, task: Any, request: SpawnRequest, spawned: Spawned, conn: Conn) -> TaskHandle[Any]:
        return TaskHandle(
            self,
            spawned.task_id,
            run_id=spawned.run_id,
            queue_name=request.queue_name,
            attempt=spawned.attempt,
            created=spawned.created,
            codec=self._result_codec(task),
            conn=conn,
        )

    def task(self, task_id: UUID | str, task: Callable[..., Any] | str | None = None) -> TaskHandle[Any]:
        """A handle of a task whose id is known. ``task`` gives the result its declared type. Does not ask the database."""
        return TaskHandle(self, as_task_id(task_id), codec=self._result_codec(task))

    def get_result(self, task_id: UUID | str, *, conn: Conn = None) -> TaskResult:
        """State, result and failure of a task, now. Raises ``TaskNotFoundError``."""
        found = self._run(results.read_result(as_task_id(task_id)), conn)
        if found is None:
            raise self._missing(as_task_id(task_id), None)
        return found

    def cancel_task(self, task_id: UUID | str, *, conn: Conn = None) -> None:
        """Cancels a task, also a running one: its worker learns of it. Nothing happens if it has ended."""
        self._run(results.cancel_task(as_task_id(task_id)), conn)

    def retry_task(
        self, task_id: UUID | str, *, spawn_new: bool = False, max_attempts: int | None = None, conn: Conn = None
    ) -> TaskHandle[Any]:
        """Gives a failed or cancelled task another attempt, from its last checkpoint.

        Args:
            task_id: of the task.
            spawn_new: start a copy of it from the beginning instead, whatever its state is.
            max_attempts: how many attempts it may make in all; otherwise one more than it has made.
            conn: as for ``spawn``.
        """
        spawned = self._run(results.retry_task(as_task_id(task_id), retry_options(spawn_new, max_attempts)), conn)
        return TaskHandle(
            self, spawned.task_id, run_id=spawned.run_id, attempt=spawned.attempt, created=spawned.created, conn=conn
        )

    def fork_task(
        self, task_id: UUID | str, step_name: str, *, max_attempts: int | None = None, conn: Conn = None
    ) -> TaskHandle[Any]:
        """Starts a copy of a task that goes on from one of its steps, whatever the state of the task is, which stays as it is.

        The copy has the same params and the results of the steps before; the step and what follows is done once more, by
        present code. Its ``ctx.task_id`` is its own: what other services know by that of the task, they do again too.

        Args:
            task_id: of the task.
            step_name: a step that it has taken, or waits in, as ``absurdctl show-task`` names it: ``charge``, ``charge#2``.
            max_attempts: how many attempts the copy may make; otherwise as many as the task.
            conn: as for ``spawn``.

        Raises:
            InvalidOptionError: it has no such step; or a token made before it waits for its answer, which no copy would get.
        """
        options = fork_options(max_attempts)
        spawned = self._run(tasks.fork_task(as_task_id(task_id), check_name("step name", step_name), options), conn)
        return TaskHandle(
            self, spawned.task_id, run_id=spawned.run_id, attempt=spawned.attempt, created=spawned.created, conn=conn
        )

    def run_task_now(self, task_id: UUID | str, *, conn: Conn = None) -> None:
        """Makes the time of a sleeping task now: of a delay, a sleep, the pause before another attempt, or the timeout of a wait.

        Raises:
            InvalidOptionError: it does not sleep, or sleeps without a time, until what it waits for comes.
        """
        self._run(tasks.run_task_now(as_task_id(task_id)), conn)

    # Waiting

    def _await_end(self, task_id: UUID, timeout: float | None, spawned_on: Conn) -> TaskResult:
        deadline = Deadline(timeout)
        if self._conn is not None:
            return require_end(task_id, self._await_on_connection(task_id, deadline), deadline)
        found = self._run(results.read_result(task_id))
        if found is None:
            raise self._missing(task_id, spawned_on)
        if found.state not in FINAL:
            listener, heard = self._listening().listener(self.database_url), threading.Event()
            with listener.waiter(task_id, heard.set):
                found = self._carry_out(watching(task_id, listener, deadline), heard)
        return require_end(task_id, found, deadline)

    def _listening(self) -> Background:
        with self._setup_lock:
            if self._background is None:
                self._background = Background()
                weakref.finalize(self, self._background.stop)
            return self._background

    def _await_on_connection(self, task_id: UUID, deadline: Deadline) -> TaskResult | None:
        idle = self._conn.info.transaction_status == TransactionStatus.IDLE
        if idle:
            return self._carry_out(polling(task_id, deadline), threading.Event())
        found = self.get_result(task_id)
        if found.state not in FINAL:
            raise uncommitted(task_id)
        return found

    def _carry_out(self, plan: Plan, heard: threading.Event) -> TaskResult | None:
        answer: Any = None
        while True:
            try:
                step = plan.send(answer)
            except StopIteration as end:
                found: TaskResult | None = end.value
                return found
            if isinstance(step, Pause):
                answer = heard.wait(step.seconds)
                heard.clear()
            else:
                answer = self._run(step)
                if self._conn is not None and not self._conn.autocommit:
                    # Ends the transaction that the look itself has opened: there was none before.
                    self._conn.rollback()
