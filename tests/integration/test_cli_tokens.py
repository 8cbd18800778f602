"""absurdctl complete-token."""

from __future__ import annotations

import threading
from typing import Any

import psycopg

from tests.cli import absurdctl, invoke
from tests.support import wait_until
from tests.support_tasks import Play


def test_complete_token_answers_once_and_says_why_not(sync_play: Play, conn: psycopg.Connection[Any]) -> None:
    gate = threading.Event()

    @sync_play.task("refund")
    async def refund(params: Any, ctx: Any) -> Any:
        token = await ctx.create_token("approval", type=bool, url="https://example.com")
        sync_play.seen.append(token.url)
        await sync_play.hold(gate)
        return await ctx.await_token(token)

    def complete(*arguments: str, code: int = 0) -> str:
        done = absurdctl("complete-token", *arguments, database=sync_play.url, code=code)
        return done.out + done.err

    with sync_play.worker():
        handle = sync_play.spawn("refund")
        url = wait_until(lambda: sync_play.seen)[0]
        assert "'yes' is not of type 'boolean'" in complete(url, "-p", '"yes"', code=1)
        assert f'Answered token "approval" of task {handle.task_id} (refund)' in complete(url, "-p", "true")
        assert "has been used" in complete(url, "-p", "true", code=1)
        assert "there is no such token" in complete("guess", code=1)
        gate.set()
        assert handle.result(20) is True


def test_a_wait_for_a_token_is_shown_in_words(sync_play: Play) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return await ctx.await_token(await ctx.create_token("approval"))

    with sync_play.worker():
        handle = sync_play.spawn()
        sync_play.wait_for_state(handle.task_id, "sleeping")
    assert "the answer to a token" in invoke("list-waits", database=sync_play.url).out
    shown = invoke("show-task", str(handle.task_id), database=sync_play.url).out
    assert "the answer to a token" in shown
