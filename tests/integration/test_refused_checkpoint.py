"""A checkpoint that the database itself refuses, as with a full disk, is an error of its attempt and never passed over."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from absurd import TaskFailedError
from tests.support import DEFAULT_TIMEOUT
from tests.support_tasks import Play


def test_a_refused_checkpoint_fails_the_attempt_before_a_sleep_that_follows(play: Play, conn: psycopg.Connection[Any]) -> None:
    conn.execute("""
        create function refuse() returns trigger language plpgsql as $$
        begin
          raise exception 'no such value allowed' using errcode = 'check_violation';
        end $$;
        create trigger full_disk before insert on absurd.checkpoints
          for each row when (new.step_name = 'effect') execute function refuse()""")

    @play.task()
    async def task(params: Any, ctx: Any) -> None:
        await ctx.step("effect", lambda: play.seen.append("effect"))
        await ctx.sleep_for(0.01)

    with play.worker(), pytest.raises(TaskFailedError, match="no such value"):
        play.spawn().result(DEFAULT_TIMEOUT)
    assert play.seen == ["effect"]
