"""Waits for several things of which some have come, taken up again by a new attempt."""

from __future__ import annotations

from typing import Any

import psycopg

from absurd.context.history import History
from tests.support import DEFAULT_TIMEOUT, wait_until
from tests.support_tasks import Play, count

Connection = psycopg.Connection[Any]


def test_what_has_come_stays_when_a_wait_for_several_is_taken_up_again(play: Play, conn: Connection) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        return await ctx.await_all(["a", "b", "c"])

    with play.worker(strict_replay=True):
        waiting = play.spawn()
        play.wait_for_state(waiting.task_id, "sleeping")
        play.app.emit_event("b", "first")
        waiting.cancel()
        conn.execute("select absurd.purge_events('default', 0)")
        play.app.emit_event("b", "second")
        waiting.retry()
        wait_until(lambda: count(conn, "select count(*) from absurd.waits where kind = 'event'") == 2, what="the second wait")
        play.app.emit_event("c", 3)
        play.app.emit_event("a", 1)
        assert waiting.result(DEFAULT_TIMEOUT) == {"a": 1, "b": "first", "c": 3}


def test_a_history_is_read_on_from_where_the_piece_ended_whatever_the_order_of_names_in_the_database() -> None:
    history = History('[["a", 0, "step", 1, null], ["B", 0, "step", 2, null]]', 3, task="t", strict=False)
    assert history.last_place == (0, "B")
    history.extend('[["c", 0, "step", 3, null]]')
    assert history.last_place == (0, "c")
    assert not history.incomplete
