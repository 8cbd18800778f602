"""Servers that crash, stay away, hand over to their standby or run out of disk, while tasks run."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd, devdb, schema
from absurd.errors import AbsurdError
from absurd.worker import writer
from tests.conftest import MakeServer
from tests.faults.report import record
from tests.faults.support_scenario import TABLE, Load, add_everything, check_everything
from tests.faults.support_standby import Pair
from tests.support import wait_until
from tests.support_tasks import Play, count


def _prepare(url: str, kind: str = "async") -> Play:
    with psycopg.connect(url, autocommit=True) as conn:
        schema.install(conn)
        conn.execute(TABLE)
    play = Play(url, kind)
    add_everything(play)
    return play


@pytest.mark.parametrize("restarts", [pytest.param(1, marks=pytest.mark.short), pytest.param(8, marks=pytest.mark.full)])
def test_postgresql_crashes_in_the_middle_of_a_load(crash_server: devdb.Server, crash_url: str, restarts: int) -> None:
    play = _prepare(crash_url)
    with play.worker(concurrency=8), play.worker(concurrency=8):
        load = Load(play)
        for _ in range(restarts):
            load.wait_for_more(10)
            crash_server.restart("immediate")
        found = load.results()
    assert found == list(range(len(found)))
    with psycopg.connect(crash_url, autocommit=True) as conn:
        check_everything(play, conn, found)
        assert conn.execute("select distinct cause from absurd.attempts").fetchall() == [("error",)]
    play.close()
    record(
        "PostgreSQL restarted (immediate shutdown)",
        ["one end", "steps once", "transactions once", "events once", "recovery"],
        injected=restarts,
        tasks=2 * len(found),
    )


@pytest.mark.parametrize(
    "away", [pytest.param(1.5, marks=pytest.mark.short), pytest.param(60, marks=[pytest.mark.full, pytest.mark.first])]
)
def test_postgresql_is_away_for_longer_than_a_lease(crash_server: devdb.Server, crash_url: str, away: float) -> None:
    """Whoever runs a task goes on with it afterwards: no lease ran out by a fault of the worker's, and no attempt is charged."""
    play = _prepare(crash_url, "sync")
    gate, begun = threading.Event(), []

    @play.task("in the middle", max_attempts=1)
    async def in_the_middle(n: int, ctx: Any) -> int:
        await ctx.step("before", lambda: play.seen.append(("before", n)))
        begun.append(n)
        await play.hold(gate, 120)
        await ctx.step("while away", lambda: play.seen.append(("while away", n)))
        await ctx.transaction("act", lambda conn: conn.execute("insert into effects values ('x', %s)", (n,)) and n)
        return n

    with play.worker(lease_seconds=1), play.worker(lease_seconds=1), play.worker(lease_seconds=1):
        handles = [play.spawn("in the middle", n) for n in range(12)]
        wait_until(lambda: len(begun) == 12)
        crash_server.stop("immediate")
        gate.set()
        time.sleep(away)  # the fault itself: this long there is no server
        crash_server.start()
        assert [handle.result(60) for handle in handles] == list(range(12))
        assert play.spawn("everything", 12).result(30) == 12
    assert sorted(play.seen[:24]) == sorted([(name, n) for name in ("before", "while away") for n in range(12)])
    with psycopg.connect(crash_url, autocommit=True) as conn:
        assert conn.execute("select n from effects order by n").fetchall() == [(n,) for n in range(13)]
        assert count(conn, "select count(*) from absurd.attempts where cause <> 'error'") == 0
    play.close()
    record(
        "PostgreSQL away for " + ("a minute" if away == 60 else "longer than a lease"),
        ["one end", "steps once", "transactions once", "fence", "recovery"],
        tasks=14,
    )


@pytest.mark.full
@pytest.mark.parametrize("form", ["url", "keywords"])
def test_a_synchronous_standby_takes_over_and_everybody_follows(short_directory: Path, form: str) -> None:
    pair = Pair(short_directory)
    play = _prepare(getattr(pair, form))
    with play.worker(concurrency=8), play.worker(concurrency=8):
        load = Load(play)
        load.wait_for_more(10)
        pair.fail_over()
        load.wait_for_more(10)
        found = load.results()
    # Whatever a caller was told of is there, once.
    assert found == list(range(len(found)))
    with psycopg.connect(pair.url, autocommit=True) as conn:
        check_everything(play, conn, found)
        assert conn.execute("select distinct cause from absurd.attempts").fetchall() == [("error",)]
    play.close()
    record(
        "PostgreSQL killed, its synchronous standby promoted",
        ["one end", "steps once", "transactions once", "events once", "recovery"],
        tasks=2 * len(found),
    )


def test_a_url_of_several_hosts_is_shown_without_its_password() -> None:
    app = Absurd("postgresql://me:secret@127.0.0.1:1,127.0.0.1:2/db?target_session_attrs=read-write")
    with pytest.raises(AbsurdError) as caught:
        app.list_queues()
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1,127.0.0.1:2" in str(caught.value)


@contextmanager
def _small_disk(size: str) -> Iterator[Path]:
    """A file system of its own, that everybody may use."""
    directory = Path(f"/tmp/absurd-disk-{os.getpid()}")
    directory.mkdir(mode=0o777)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(directory)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        directory.rmdir()
        pytest.skip(f"no small file system can be made here: {error}")
    if made.returncode != 0:
        directory.rmdir()
        pytest.skip(f"no small file system can be made here: {made.stderr.strip()} (needs root and CAP_SYS_ADMIN)")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False)
        directory.rmdir()


def test_the_disk_of_the_server_is_full_for_a_while(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PUT_OFF_SECONDS", 0.2)
    with _small_disk("64m") as disk:
        server = make_server({"fsync": "off"})
        where = disk / "space"
        where.mkdir(mode=0o700)
        os.chown(where, server.data.stat().st_uid, server.data.stat().st_gid)
        with psycopg.connect(server.url(), autocommit=True) as conn:
            conn.execute(f"create tablespace small location '{where}'".encode())
            conn.execute("create database small template template0 tablespace small")
        play = _prepare(server.url("small"))

        @play.task("large", max_attempts=1)
        async def large(n: int, ctx: Any) -> int:
            for part in range(3):
                await ctx.step(f"part {part}", lambda part=part: play.seen.append((part, n)) or os.urandom(200_000).hex())
            return n

        with psycopg.connect(server.url("small"), autocommit=True) as conn, play.worker(concurrency=8):
            assert play.spawn("everything", 1).result(30) == 1
            before = [play.spawn("large", n) for n in range(20)]
            _fill(conn)
            assert _refusals(server) > 0
            wanted = _refusals(server) + 5
            wait_until(lambda: _refusals(server) >= wanted, 60, "writes that the full disk refused")
            running = count(conn, "select count(*) from absurd.runs")
            assert running > 0
            # Space again.
            subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
            assert [handle.result(60) for handle in before] == list(range(20))
            assert play.spawn("everything", 2).result(30) == 2
            assert sorted(seen for seen in play.seen if isinstance(seen[0], int)) == [(p, n) for p in range(3) for n in range(20)]
            assert count(conn, "select count(*) from absurd.attempts where cause <> 'error'") == 0
            assert count(conn, "select count(*) from absurd.runs") == 0
        play.close()
        refusals = _refusals(server)
        server.stop("immediate")
    record(
        "PostgreSQL without space on its disk, for a while", ["one end", "steps once", "recovery"], injected=refusals, tasks=24
    )


def _fill(conn: psycopg.Connection[Any]) -> None:
    """Takes all the space that is left, in smaller and smaller pieces."""
    conn.execute("create table ballast (b bytea)")
    conn.execute("alter table ballast alter b set storage external")
    for size in (1_000_000, 100_000, 8_000, 8_000):
        try:
            while True:
                conn.execute("insert into ballast values (convert_to(repeat('x', %s), 'utf8'))", (size,))
        except psycopg.errors.DiskFull:
            pass


def _refusals(server: devdb.Server) -> int:
    return server.log.read_text(errors="replace").count("No space left on device")
