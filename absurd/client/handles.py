"""A task in the hands of application code: its state, its result, and what can be done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from absurd.client.waiting import require_success
from absurd.codec import PLAIN, Codec
from absurd.types import TaskResult, TaskState

if TYPE_CHECKING:
    from absurd.client.async_client import AsyncAbsurd
    from absurd.client.sync_client import Absurd

R = TypeVar("R")


class _Handle:
    def __init__(
        self,
        client: Any,
        task_id: UUID,
        *,
        run_id: UUID | None = None,
        queue_name: str | None = None,
        attempt: int | None = None,
        created: bool | None = None,
        codec: Codec = PLAIN,
        conn: Any = None,
    ) -> None:
        self._client = client
        self._codec = codec
        self._conn = conn
        self.task_id = task_id
        self.run_id = run_id
        """Id of the run that the spawn or retry made or found; ``None`` for a handle of a known task id."""
        self.queue_name = queue_name
        self.attempt = attempt
        self.created = created
        """Whether the spawn made the task; false when its idempotency key was known."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_id}{f' in {self.queue_name}' if self.queue_name else ''}>"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Handle) and other.task_id == self.task_id

    def __hash__(self) -> int:
        return hash(self.task_id)

    def _typed(self, found: TaskResult) -> TaskResult:
        if found.state != "completed":
            return found
        value = self._codec.load(found.result, f"result of task {self.task_id}")
        return TaskResult(found.task_id, found.state, value, found.failure)


class TaskHandle(_Handle, Generic[R]):
    """A task, for sync code. ``R`` is what its handler returns."""

    _client: Absurd

    def result(self, timeout: float | None = None) -> R:
        """Waits for the end of the task, at most ``timeout`` seconds, and returns its result.

        Raises:
            TaskFailedError: it failed for good; ``failure`` holds name, message and traceback.
            TaskCancelledError: it was cancelled.
            TimeoutError: it has not ended in time; it goes on.
            TaskNotFoundError: it was rolled back, or cleaned up.
            ConfigurationError: it was spawned in a transaction that is still open, so that nobody can run it yet.
        """
        value: R = require_success(self._typed(self._client._await_end(self.task_id, timeout, self._conn)))
        return value

    def snapshot(self) -> TaskResult:
        """State of the task now and, if it has ended, its result or failure. Does not wait."""
        return self._typed(self._client.get_result(self.task_id, conn=self._client._if_open(self._conn)))

    def state(self) -> TaskState:
        """State of the task now."""
        return self._client.get_result(self.task_id, conn=self._client._if_open(self._conn)).state

    def cancel(self) -> None:
        """Cancels the task, unless it has ended."""
        self._client.cancel_task(self.task_id, conn=self._client._if_open(self._conn))

    def retry(self, *, spawn_new: bool = False, max_attempts: int | None = None) -> TaskHandle[R]:
        """Another attempt, or a copy of the task; arguments as of ``Absurd.retry_task``."""
        handle: TaskHandle[R] = self._client.retry_task(self.task_id, spawn_new=spawn_new, max_attempts=max_attempts)
        handle._codec, handle.queue_name = self._codec, self.queue_name
        return handle

    def fork(self, step_name: str, *, max_attempts: int | None = None) -> TaskHandle[R]:
        """A copy of the task that goes on from one of its steps; arguments as of ``Absurd.fork_task``."""
        handle: TaskHandle[R] = self._client.fork_task(self.task_id, step_name, max_attempts=max_attempts)
        handle._codec, handle.queue_name = self._codec, self.queue_name
        return handle

    def run_now(self) -> None:
        """Makes the time of the sleeping task now; see ``Absurd.run_task_now``."""
        self._client.run_task_now(self.task_id)


class AsyncTaskHandle(_Handle, Generic[R]):
    """A task, for async code. ``R`` is what its handler returns."""

    _client: AsyncAbsurd

    async def result(self, timeout: float | None = None) -> R:
        """Waits for the end of the task, at most ``timeout`` seconds, and returns its result; see ``TaskHandle.result``."""
        value: R = require_success(self._typed(await self._client._await_end(self.task_id, timeout, self._conn)))
        return value

    async def snapshot(self) -> TaskResult:
        """State of the task now and, if it has ended, its result or failure. Does not wait."""
        return self._typed(await self._client.get_result(self.task_id, conn=self._client._if_open(self._conn)))

    async def state(self) -> TaskState:
        """State of the task now."""
        return (await self._client.get_result(self.task_id, conn=self._client._if_open(self._conn))).state

    async def cancel(self) -> None:
        """Cancels the task, unless it has ended."""
        await self._client.cancel_task(self.task_id, conn=self._client._if_open(self._conn))

    async def retry(self, *, spawn_new: bool = False, max_attempts: int | None = None) -> AsyncTaskHandle[R]:
        """Another attempt, or a copy of the task; arguments as of ``Absurd.retry_task``."""
        handle: AsyncTaskHandle[R] = await self._client.retry_task(self.task_id, spawn_new=spawn_new, max_attempts=max_attempts)
        handle._codec, handle.queue_name = self._codec, self.queue_name
        return handle

    async def fork(self, step_name: str, *, max_attempts: int | None = None) -> AsyncTaskHandle[R]:
        """A copy of the task that goes on from one of its steps; arguments as of ``Absurd.fork_task``."""
        handle: AsyncTaskHandle[R] = await self._client.fork_task(self.task_id, step_name, max_attempts=max_attempts)
        handle._codec, handle.queue_name = self._codec, self.queue_name
        return handle

    async def run_now(self) -> None:
        """Makes the time of the sleeping task now; see ``Absurd.run_task_now``."""
        await self._client.run_task_now(self.task_id)
