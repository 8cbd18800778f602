"""The ways in which an application runs its own worker."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from absurd import Absurd, AsyncAbsurd, ConfigurationError, InvalidOptionError, QueueNotFoundError
from tests.support import DEFAULT_TIMEOUT
from tests.support_tasks import count


@pytest.fixture
def app(database_url: str) -> Any:
    with Absurd(database_url) as made:

        @made.register_task
        def double(params: int, ctx: Any) -> int:
            return 2 * params

        @made.register_task(queue="elsewhere")
        def triple(params: int, ctx: Any) -> int:
            return 3 * params

        made.create_queue("elsewhere")
        yield made


def test_a_worker_serves_the_queue_of_the_app_and_those_of_its_tasks(app: Absurd) -> None:
    assert app.worker_options().queues == ("default", "elsewhere")
    assert app.worker_options("elsewhere").queues == ("elsewhere",)
    handles = [app.spawn("double", 2), app.spawn("triple", 2)]
    assert app.run_worker_once() == 2
    assert [handle.result(0) for handle in handles] == [4, 6]


def test_run_worker_once_runs_what_becomes_ready_while_slots_are_free(app: Absurd) -> None:
    @app.register_task
    def parent(params: None, ctx: Any) -> int:
        return int(ctx.await_task(ctx.spawn("double", 2)))

    handle = app.spawn("parent")
    app.run_worker_once(concurrency=8)
    assert handle.result(0) == 4


def test_run_worker_once_runs_what_the_first_runs_make_ready_and_leaves_sleepers_asleep(app: Absurd) -> None:
    @app.register_task
    def parent(params: None, ctx: Any) -> int:
        total = sum(ctx.gather(*ctx.spawn_many("double", [1, 2, 3])))
        ctx.sleep_for(3600)
        return int(total)

    handle = app.spawn("parent")
    assert app.run_worker_once(concurrency=1) == 5  # the parent twice, and three children
    assert handle.state() == "sleeping"
    assert app.run_worker_once() == 0


def test_a_task_that_waited_too_long_is_cancelled_and_not_run_by_the_first_worker_that_comes(
    app: Absurd, conn: psycopg.Connection[Any]
) -> None:
    handle = app.spawn("double", 1, cancellation={"max_delay": 0})
    assert app.run_worker_once() == 0
    assert handle.state() == "cancelled"
    assert count(conn, "select count(*) from absurd.attempts where cause = 'delay'") == 1


@pytest.mark.parametrize("settings", [{"concurency": 3}, {"concurrency": 0}, {"lease_seconds": "30"}, {"poll_interval": -1}])
def test_a_wrong_setting_is_refused_by_name(app: Absurd, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(settings))):
        app.worker(**settings)


def test_a_worker_that_cannot_begin_says_why(app: Absurd, database_url: str) -> None:
    with pytest.raises(QueueNotFoundError, match="create-queue nowhere"), app.worker("nowhere"):
        pass
    with pytest.raises(ConfigurationError, match="register_task"):
        Absurd(database_url).run_worker_once()


async def test_the_async_client_runs_tasks_on_its_own_loop(database_url: str) -> None:
    app = AsyncAbsurd(database_url)

    @app.register_task
    async def double(params: int, ctx: Any) -> int:
        return int(await ctx.step("doubled", lambda: 2 * params))

    handle = await app.spawn(double, 4)
    assert await app.run_worker_once() == 1
    assert await handle.result(DEFAULT_TIMEOUT) == 8
    await app.close()
