"""DBOS Transact."""

# mypy: disable-error-code="untyped-decorator,import-not-found"

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bench.adapter import QUEUE, Adapter, Configurations, Params, bulks, timed

VERSION = "bench"


def _clone(changes: str) -> str:
    """Rows like the one that is there, which the runner spawns before it fills."""
    return f"""
        insert into dbos.workflow_status (
          workflow_uuid, status, delay_until_epoch_ms, completed_at, name, created_at, updated_at, application_version,
          queue_name, inputs, priority, serialization, application_name, recovery_attempts)
        select gen_random_uuid()::text, {changes}, name, created_at, updated_at, application_version, queue_name,
               inputs, priority, serialization, application_name, recovery_attempts
          from (select * from dbos.workflow_status limit 1) one, generate_series(1, :count)"""


class System(Adapter):
    """DBOS: workflows on a queue, enqueued by its client."""

    title = "DBOS"
    packages = ("dbos",)
    imports = "import dbos"
    configurations: ClassVar[Configurations] = {
        "best": (
            {
                "queue": {"polling_interval_sec": 0.01, "worker_concurrency": 1000},
                "config": {
                    "sys_db_pool_size": 32,
                    "notification_listener_polling_interval_sec": 0.001,
                    "notification_coalesce_sec": 0.001,
                },
            },
            "async workflows, polling_interval_sec=0.01, worker_concurrency=1000, sys_db_pool_size=32, notifications within 1 ms",
        ),
        "default": ({"queue": {}, "config": {}}, "async workflows, register_queue() as it is: polling every second"),
    }
    tasks = frozenset({"noop", "steps", "sync_noop", "sync_steps", "wait", "wait_all", "child", "fan_out", "transaction"})
    finished = "select count(*) from dbos.workflow_status where status = 'SUCCESS'"
    fills: ClassVar[Mapping[str, str]] = {
        "pending": _clone("'ENQUEUED', null, null"),
        "sleeping": _clone("'DELAYED', (extract(epoch from now()) * 1000)::bigint + 86400000, null"),
        "finished": _clone("'SUCCESS', null, (extract(epoch from now()) * 1000)::bigint"),
    }

    def _client(self) -> Any:
        from dbos import DBOSClient

        return DBOSClient(system_database_url=self.url)

    def install(self) -> None:
        """See ``Adapter``."""
        import sqlalchemy
        from dbos import SQLAlchemyDatasource, run_dbos_database_migrations

        run_dbos_database_migrations(self.url)
        SQLAlchemyDatasource.create(self._psycopg_url())
        engine = sqlalchemy.create_engine(self._psycopg_url())
        with engine.begin() as conn:
            conn.execute(sqlalchemy.text("create table bench_effects (i bigint, at timestamptz default now())"))
        engine.dispose()
        self._client().register_queue(QUEUE, **self.settings["queue"])

    def _psycopg_url(self) -> str:
        return self.url.replace("postgresql://", "postgresql+psycopg://", 1)

    def open(self) -> None:
        """See ``Adapter``."""
        import sqlalchemy

        self.client = self._client()
        self.engine = sqlalchemy.create_engine(self._psycopg_url())

    def _options(self, task: str, params: Params) -> dict[str, Any]:
        return {"workflow_name": task, "queue_name": QUEUE, "app_version": VERSION, "workflow_id": f"{task}-{params['i']}"}

    def spawn_each(self, task: str, all_params: Sequence[Params]) -> list[float]:
        """See ``Adapter``."""
        return timed(
            [lambda params=params: self.client.enqueue(self._options(task, params), params) for params in all_params]  # type: ignore[misc]
        )

    def spawn_many(self, task: str, all_params: Sequence[Params]) -> None:
        """It has no bulk insert: many enqueues in one transaction of the caller."""
        for batch in bulks(all_params):
            with self.engine.begin() as conn:
                for params in batch:
                    self.client.enqueue_in_transaction(conn, self._options(task, params), params)

    def emit_each(self, keys: Sequence[int], pause: float) -> list[float]:
        """An event is a message to a workflow."""
        return timed([lambda key=key: self.client.send(f"wait-{key}", {"k": key}, "e") for key in keys], pause)  # type: ignore[misc]

    def broadcast(self, count: int) -> None:
        """A message for each of the waiting workflows, in one call."""
        from dbos import SendMessage

        self.client.send_bulk([SendMessage(destination_id=f"wait_all-{i}", message={"k": 1}, topic="e") for i in range(count)])

    def work(self) -> None:
        """See ``Adapter``."""
        from dbos import DBOS

        DBOS(
            config={
                "name": "bench",
                "system_database_url": self.url,
                "application_version": VERSION,
                "run_migrations": False,
                "log_level": "WARNING",
                **self.settings["config"],
            }
        )
        self._register(DBOS)
        self._register_more(DBOS)
        DBOS.listen_queues([QUEUE])
        DBOS.launch()
        threading.Event().wait()

    def _register(self, dbos: Any) -> None:
        mark = self.mark

        @dbos.workflow(name="noop")
        async def noop(params: Any) -> int:
            mark("start", params["i"])
            return 1

        @dbos.step(name="work")
        async def work(index: int) -> dict[str, int]:
            return {"k": index}

        @dbos.workflow(name="steps")
        async def steps(params: Any) -> int:
            mark("start", params["i"])
            for index in range(params["n"]):
                await work(index)
            return 1

        @dbos.workflow(name="sync_noop")
        def sync_noop(params: Any) -> int:
            mark("start", params["i"])
            return 1

        @dbos.step(name="sync_work")
        def sync_work(index: int) -> dict[str, int]:
            return {"k": index}

        @dbos.workflow(name="sync_steps")
        def sync_steps(params: Any) -> int:
            mark("start", params["i"])
            for index in range(params["n"]):
                sync_work(index)
            return 1

        self._register_waits(dbos)
        self._register_parents(dbos, noop)

    def _register_parents(self, dbos: Any, noop: Any) -> None:
        mark = self.mark

        @dbos.workflow(name="child")
        async def child(params: Any) -> Any:
            mark("start", params["i"])
            handle = await dbos.start_workflow_async(noop, {"i": params["i"]})
            return await handle.get_result()

        @dbos.workflow(name="fan_out")
        async def fan_out(params: Any) -> int:
            mark("start", params["i"])
            handles = [await dbos.enqueue_workflow_async(QUEUE, noop, {"i": n}) for n in range(params["n"])]
            found = [await handle.get_result() for handle in handles]
            mark("joined", params["i"])
            return len(found)

    def _register_waits(self, dbos: Any) -> None:
        mark = self.mark

        async def receive(params: Any) -> Any:
            mark("waits", params["i"])
            found = await dbos.recv_async("e", timeout_seconds=60)
            mark("resumed", params["i"])
            return found

        dbos.workflow(name="wait")(receive)
        dbos.workflow(name="wait_all")(_copy(receive))

    def _register_more(self, dbos: Any) -> None:
        import sqlalchemy
        from dbos import SQLAlchemyDatasource

        source = SQLAlchemyDatasource.create(self._psycopg_url(), run_migrations=False)
        statement = sqlalchemy.text("insert into bench_effects (i) values (:i)")
        mark = self.mark

        def insert(index: int) -> int:
            source.sql_session().execute(statement, {"i": index})
            return index

        @dbos.workflow(name="transaction")
        def transaction(params: Any) -> Any:
            mark("start", params["i"])
            return source.run_tx_step({"name": "insert", "isolation_level": "READ COMMITTED"}, insert, params["i"])


def _copy(handler: Any) -> Any:
    async def wait_all(params: Any) -> Any:
        return await handler(params)

    return wait_all
