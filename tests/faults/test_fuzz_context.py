"""Every public method of a context with hostile values: it works, or refuses by name, and healthy tasks run on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd import Absurd, Context, Fire
from tests.faults import hostile, report
from tests.faults.support_fuzz import QUEUE, Call, calls, database, few, judge, methods, prepare
from tests.faults.test_fuzz_sql import INVARIANTS
from tests.support import wait_until

SHORT = 2
LONG = 15
PATIENCE = 60  # seconds; reached only by a test that fails


@dataclass
class Scene:
    """A worker whose tasks make one call each of their context, beside healthy ones."""

    conn: psycopg.Connection[Any]
    app: Absurd
    call: Call | None = None
    error: Exception | None = None


@pytest.fixture(scope="module")
def scene(server_url: str, template: str) -> Iterator[Scene]:
    with database(server_url, template) as url, psycopg.connect(url, autocommit=True) as conn, Absurd(url, QUEUE) as app:
        made = Scene(conn, app)
        _register(made)
        app.create_queue()
        with app.worker(concurrency=8, poll_interval=0.5):
            yield made


def _register(scene: Scene) -> None:
    @scene.app.register_task("attack-sync", max_attempts=1)
    def attack_sync(params: Any, ctx: Any) -> str:
        token = ctx.create_token()
        try:
            found = _begin(scene, ctx, token)
            if callable(found):
                found()
        except TimeoutError:
            pass  # nobody emits
        except Exception as error:
            scene.error = error
        return str(ctx.step("after", lambda: "after"))

    @scene.app.register_task("attack-async", max_attempts=1)
    async def attack_async(params: Any, ctx: Any) -> str:
        token = await ctx.create_token()
        try:
            found = _begin(scene, ctx, token)
            found = await found if inspect.isawaitable(found) else found
            if callable(found):
                await found()
        except TimeoutError:
            pass
        except Exception as error:
            scene.error = error
        return str(await ctx.step("after", lambda: "after"))

    _register_neighbours(scene)


def _register_neighbours(scene: Scene) -> None:
    @scene.app.register_task("healthy")
    def healthy(params: Any, ctx: Any) -> Any:
        return ctx.step("once", lambda: params)

    @scene.app.register_task("work")
    def work(params: Any, ctx: Any) -> int:
        return 1


def _begin(scene: Scene, ctx: Any, token: Any) -> Any:
    call = scene.call
    assert call is not None
    if "token" in call.kwargs and "token" not in call.hostile:
        call.kwargs["token"] = token
    return getattr(ctx, call.method)(*call.args, **call.kwargs)


@pytest.mark.short
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("method", methods(Context))
def test_a_context_works_or_refuses_by_name(scene: Scene, method: str, kind: str) -> None:
    _attack(scene, method, kind, SHORT)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("method", methods(Context))
def test_a_context_works_or_refuses_many_values_by_name(scene: Scene, method: str, kind: str) -> None:
    _attack(scene, method, kind, LONG)


def _attack(scene: Scene, method: str, kind: str, examples: int) -> None:
    app, made = scene.app, 0

    @few(examples)
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        nonlocal made
        made += 1
        call = data.draw(calls(method, getattr(Context, method), prepare(app, scene.conn)))
        scene.call, scene.error = call, None
        victim = app.spawn(f"attack-{kind}", {})
        wait_until(lambda: victim.state() not in ("pending", "running"), PATIENCE, "the call")
        assert app.spawn("healthy", {"a": 1}).result(timeout=PATIENCE) == {"a": 1}
        ended = victim.snapshot()
        if scene.error is not None:
            judge(call, scene.error)
        assert ended.state != "failed", (call, ended.failure)
        if ended.state == "completed":
            assert ended.result == "after"
        else:
            victim.cancel()

    attack()
    assert scene.conn.execute(INVARIANTS).fetchall() == []
    report.record("hostile values for contexts", ["open queue"], runs=made, injected=made, tasks=2 * made)


def test_what_a_poll_may_not_return_is_an_error_of_its_trigger_alone(scene: Scene) -> None:
    values = [*hostile.OBJECTS[::6], Fire({"a": hostile.DEEP}), Fire({1: 2}), [Fire()] * 3, Fire(hostile.Odd())]  # type: ignore
    polled, value = 0, None
    with Absurd(scene.app.database_url, "polls") as app:

        @app.register_task("work")
        def work(params: Any, ctx: Any) -> int:
            return 1

        @app.trigger("hostile-poll", task="work", poll_interval=0.1)
        def poll(state: dict[str, Any]) -> Any:
            nonlocal polled
            polled += 1
            state["value"] = value
            return value

        app.create_queue()
        with app.worker(poll_interval=0.5):
            for one in values:
                value, before = one, polled
                # One that fails is polled less and less often.
                scene.conn.execute(
                    "update absurd.triggers set failures = 0, next_poll_at = now() where trigger_name = 'hostile-poll'"
                )
                wait_until(lambda before=before: polled > before, PATIENCE, "a poll")  # type: ignore[misc]
            assert app.spawn(work, {}).result(timeout=PATIENCE) == 1
