"""What the sync and the async client have in common: settings, tasks, hooks, and the making of requests."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, Unpack, overload
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from absurd.client.keywords import TaskDefaults, default_options, exception_types
from absurd.codec import PLAIN, Codec
from absurd.context.tokens import check_public_url
from absurd.db.connect import connection_arguments
from absurd.errors import AbsurdError, ConfigurationError, InvalidOptionError, TaskNotFoundError
from absurd.location import database_url
from absurd.registry import Registry, check_name
from absurd.spawning import check_headers, check_queue_name, make_ids, make_request, make_requests, options_json
from absurd.types import DEFAULT_QUEUE, RetryStrategy, SpawnOptions, SpawnRequest

F = TypeVar("F", bound=Callable[..., Any])
Hook = TypeVar("Hook", bound=Callable[..., Any])

# Items that spawn_many sends at a time: enough to make the round trip cheap, few enough to keep locks short.
SPAWN_BATCH = 1000

Retry = RetryStrategy | Mapping[str, Any] | str | None


class BaseClient:
    """An application: its tasks, its hooks and where its database is. Nothing is connected, or started, before it is needed."""

    def __init__(
        self,
        conn_or_url: Any = None,
        queue_name: str = DEFAULT_QUEUE,
        *,
        default_max_attempts: int | None = None,
        default_retry: Retry = None,
        pool_size: int = 10,
        public_url: str | None = None,
    ) -> None:
        """Makes an application.

        Args:
            conn_or_url: the URL of the database; or a psycopg connection, on which everything is done then, in its
                transaction and without a commit; or nothing: ``ABSURD_DATABASE_URL``, ``PGDATABASE``, else embedded PostgreSQL.
            queue_name: where tasks and events go when nothing else is said.
            default_max_attempts: for tasks that say nothing of their own; 5 otherwise.
            default_retry: likewise; exponential from 1 s up to 5 minutes otherwise.
            pool_size: the number of connections that this client uses at the same time, at most.
            public_url: where people reach the server with the routes of ``absurd.web``, like ``https://example.com``, for the
                links of tokens; otherwise ``ABSURD_PUBLIC_URL``.

        Raises:
            ConfigurationError: one of them cannot be used.
        """
        self.queue_name = check_queue_name(queue_name)
        self.registry = Registry()
        self.registry.queue_name = self.queue_name
        self.registry.public_url = None if public_url is None else check_public_url(public_url)
        self.registry.defaults = SpawnOptions(max_attempts=default_max_attempts, retry=default_retry)
        options_json(self.registry.defaults)
        if isinstance(pool_size, bool) or not isinstance(pool_size, int) or pool_size < 1:
            raise InvalidOptionError(f"pool_size must be a whole number of 1 or more, not {pool_size!r}")
        self.pool_size = pool_size
        self._setup_lock = threading.Lock()
        self._url: str | None = None
        self._given_url: str | None = None
        self._conn: Any = None
        if conn_or_url is None or isinstance(conn_or_url, str):
            self._given_url = conn_or_url
            if conn_or_url is not None:
                self._url = database_url(conn_or_url)
                connection_arguments(self._url, "")
        else:
            self._conn = self._checked(conn_or_url)

    @property
    def database_url(self) -> str:
        """The URL or connection string of the database; starts the embedded PostgreSQL if it is that. May hold a password."""
        if self._url is None:
            if self._conn is not None:
                info = self._conn.info
                self._url = make_conninfo(info.dsn, password=info.password or None)
            else:
                self._url = database_url(self._given_url)
        return self._url

    def _checked(self, conn: Any) -> Any:
        """The connection, if this client can use it."""
        raise NotImplementedError

    def _if_open(self, conn: Any) -> Any:
        """The connection if its transaction is open, so that only it may see what was spawned there; otherwise None."""
        if conn is None or conn.closed or conn.info.transaction_status == TransactionStatus.IDLE:
            return None
        return conn

    def _missing(self, task_id: UUID, conn: Any) -> AbsurdError:
        """Why a task is not to be seen outside of the transaction in which it was spawned."""
        if self._if_open(conn) is not None:
            return uncommitted(task_id)
        return TaskNotFoundError(
            f"there is no task {task_id}: it was never committed, or has been cleaned up, or its queue was dropped"
        )

    # Tasks and hooks

    @overload
    def register_task(self, name: F, /) -> F: ...

    @overload
    def register_task(
        self,
        name: str | None = None,
        *,
        no_retry_on: type[BaseException] | Sequence[type[BaseException]] = (),
        **defaults: Unpack[TaskDefaults],
    ) -> Callable[[F], F]: ...

    def register_task(self, name: Any = None, *, no_retry_on: Any = (), **defaults: Any) -> Any:
        """Makes a function ``handler(params, ctx)``, plain or async, a task; a decorator that returns the function unchanged.

        Args:
            name: of the task, 1 to 1,000 bytes; the function's name otherwise.
            no_retry_on: exceptions after which no other attempt is made.
            defaults: queue, max_attempts, retry, cancellation, priority and headers of spawns that say nothing of their own.

        Raises:
            ConfigurationError: a name is taken, an option is out of range, or the function cannot be a handler.

        Example:

            @app.register_task("send-invoice", max_attempts=3, retry="fixed")
            def send_invoice(params, ctx): ...
        """
        if callable(name):
            return self.register_task()(name)
        options = default_options(defaults)
        options_json(options)
        check_headers(options.headers)
        if options.queue is not None:
            check_queue_name(options.queue)
        kinds = exception_types(no_retry_on)

        def register(handler: F) -> F:
            self.registry.register(handler, name, options, kinds)
            return handler

        return register

    def before_spawn(self, hook: Hook) -> Hook:
        """Adds a hook ``hook(task_name, params, options)``; it returns the ``SpawnOptions`` to use instead, or None."""
        self.registry.before_spawn.append(_required_callable(hook))
        return hook

    def around_execution(self, hook: Hook) -> Hook:
        """Adds a hook ``hook(ctx, execute)`` around each run; it calls ``execute()`` and returns what that returned."""
        self.registry.around_execution.append(_required_callable(hook))
        return hook

    # Requests

    def _task_name(self, task: Any) -> str:
        definition = self.registry.find(task) if isinstance(task, str) or callable(task) else None
        if definition is not None:
            return definition.name
        if not isinstance(task, str):
            raise InvalidOptionError(f"{task!r} is no task of this app; decorate it with @app.register_task or spawn it by name")
        return check_name("task name", task)

    def _hooked(self, hook: Callable[..., Any], options: SpawnOptions, changed: Any) -> SpawnOptions:
        """The options after a before_spawn hook has answered."""
        if changed is None:
            return options
        if inspect.iscoroutine(changed):
            changed.close()
            raise ConfigurationError(
                f"the before_spawn hook {hook!r} is async; Absurd calls plain functions only, AsyncAbsurd both"
            )
        if not isinstance(changed, SpawnOptions):
            raise ConfigurationError(f"the before_spawn hook {hook!r} must return SpawnOptions or None, not {changed!r}")
        return changed

    def _request(self, task: Any, params: Any, options: SpawnOptions) -> SpawnRequest:
        return make_request(self.registry, task, params, options, queue=self.queue_name)

    def _alike(self, name: str, items: Sequence[Any], options: SpawnOptions) -> list[SpawnRequest]:
        """Requests that differ in their params only; not for apps with hooks, which see each of them."""
        return make_requests(self.registry, name, items, options, queue=self.queue_name)

    def _result_codec(self, task: Any) -> Codec:
        definition = self.registry.find(task)
        return PLAIN if definition is None else definition.result

    def _queue(self, name: str | None) -> str:
        return self.queue_name if name is None else check_queue_name(name)


def uncommitted(task_id: UUID) -> AbsurdError:
    """What to say to somebody who waits for what cannot happen before he goes on."""
    return ConfigurationError(
        f"task {task_id} cannot be waited for here: the transaction on this connection is still open. "
        "Commit first; nobody else sees the task, or what becomes of it reaches this connection, before that"
    )


def many_options(options: SpawnOptions, count: int, keys: Sequence[str | None] | None) -> list[SpawnOptions]:
    """The options of each item of a ``spawn_many``."""
    if options.idempotency_key is not None:
        raise InvalidOptionError(
            "spawn_many takes idempotency_keys, one for each item; a single idempotency_key would make one task"
        )
    if keys is None:
        return [options] * count
    if isinstance(keys, str) or len(keys) != count:
        raise InvalidOptionError(f"idempotency_keys must hold one key, or None, for each of the {count} items; not {len(keys)}")
    plain = {name: getattr(options, name) for name in SpawnOptions.__dataclass_fields__}
    return [SpawnOptions(**{**plain, "idempotency_key": key}) for key in keys]


def many_params(params: Iterable[Any]) -> list[Any]:
    """The params of each item of a ``spawn_many``."""
    if isinstance(params, (str, bytes, Mapping)):
        raise InvalidOptionError(f"spawn_many takes a list of params, one for each task, not {type(params).__name__}")
    return list(params)


def batches(requests: Sequence[SpawnRequest]) -> list[Sequence[SpawnRequest]]:
    """Pieces of at most ``SPAWN_BATCH``."""
    return [requests[start : start + SPAWN_BATCH] for start in range(0, len(requests), SPAWN_BATCH)]


def retry_options(spawn_new: bool, max_attempts: int | None) -> dict[str, Any]:
    """The options of a ``retry_task``."""
    if not isinstance(spawn_new, bool):
        raise InvalidOptionError(f"spawn_new must be True or False, not {spawn_new!r}")
    options: dict[str, Any] = {"spawn_new": spawn_new}
    if max_attempts is not None:
        options["max_attempts"] = options_json(SpawnOptions(max_attempts=max_attempts))["max_attempts"]
    return options


def fork_options(max_attempts: int | None) -> dict[str, Any]:
    """The options of a ``fork_task``, with the ids of the copy: a call that is repeated, its answer lost, makes no second one."""
    task_id, run_id = make_ids(2)
    options: dict[str, Any] = {"task_id": str(task_id), "run_id": str(run_id)}
    if max_attempts is not None:
        options["max_attempts"] = options_json(SpawnOptions(max_attempts=max_attempts))["max_attempts"]
    return options


def wrong_connection(conn: object, client: str, wanted: type[Any], other: str) -> ConfigurationError:
    """What to say of a connection that a client cannot use."""
    if isinstance(conn, (psycopg.Connection, psycopg.AsyncConnection)):
        return ConfigurationError(
            f"{client} takes a psycopg.{wanted.__name__}, not a psycopg.{type(conn).__name__}; use {other} for that"
        )
    return ConfigurationError(
        f"{client} takes a database URL or a {wanted.__name__} of psycopg 3, not {type(conn).__module__}.{type(conn).__name__}; "
        "from SQLAlchemy, give connection.connection.driver_connection"
    )


def _required_callable(hook: Any) -> Any:
    if not callable(hook):
        raise ConfigurationError(f"a hook must be a function, not {hook!r}")
    return hook
