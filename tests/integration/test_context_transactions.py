"""A transaction step that was rolled back for no fault of its own is run again within the attempt."""

from __future__ import annotations

import functools
import time
from typing import Any

import psycopg
import pytest
from psycopg import errors

from absurd import TaskFailedError
from absurd.context import core
from absurd.db.patience import Patience
from tests.support import DEFAULT_TIMEOUT
from tests.support_tasks import Play, count


@pytest.fixture
def table(conn: psycopg.Connection[Any]) -> str:
    conn.execute("create table effects (what text)")
    return "effects"


@pytest.fixture
def disturbed(play: Play, table: str, conn: psycopg.Connection[Any]) -> Play:
    """A task whose transaction step meets the disturbance that its params name, the first time."""

    def disturb(tx: Any, kind: str) -> None:
        play.seen.append("called")
        if len(play.seen) > 1:
            return
        time.sleep(1.5 if kind == "cut late" else 0)
        if kind.startswith("cut"):
            conn.execute("select pg_terminate_backend(%s, 10000)", (tx.info.backend_pid,))
        elif kind == "serialization":
            raise errors.SerializationFailure

    def finish(tx: Any, kind: str) -> str:
        disturb(tx, kind)
        tx.execute("insert into effects values ('one')")
        if kind == "error":
            raise ValueError("wrong")
        return "written"

    async def finish_async(tx: Any, kind: str) -> str:
        disturb(tx, kind)
        await tx.execute("insert into effects values ('one')")
        if kind == "error":
            raise ValueError("wrong")
        return "written"

    @play.task("transacting", max_attempts=1)
    async def transacting(params: str, ctx: Any) -> str:
        return str(await ctx.transaction("effect", finish if play.kind == "sync" else finish_async, params))

    return play


@pytest.mark.parametrize("kind", ["cut", "serialization"])
def test_it_is_run_again_and_costs_no_attempt(disturbed: Play, kind: str, conn: psycopg.Connection[Any]) -> None:
    assert disturbed.run("transacting", kind) == "written"
    assert disturbed.seen == ["called", "called"]
    assert count(conn, "select count(*) from effects") == 1
    assert count(conn, "select count(*) from absurd.attempts") == 0


def test_so_is_one_that_had_taken_longer_than_it_is_tried_again(
    disturbed: Play, monkeypatch: pytest.MonkeyPatch, conn: psycopg.Connection[Any]
) -> None:
    monkeypatch.setattr(core, "Patience", functools.partial(Patience, limit=1.0))
    assert disturbed.run("transacting", "cut late") == "written"
    assert count(conn, "select count(*) from absurd.attempts") == 0


def test_an_error_of_its_own_fails_the_attempt_and_rolls_back(disturbed: Play, conn: psycopg.Connection[Any]) -> None:
    with disturbed.worker(), pytest.raises(TaskFailedError, match="wrong"):
        disturbed.spawn("transacting", "error").result(DEFAULT_TIMEOUT)
    assert disturbed.seen == ["called"]
    assert count(conn, "select count(*) from effects") == 0
