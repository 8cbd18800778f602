"""A worker in a process of its own: ``python -m tests.support_worker_app URL KIND [settings as JSON]``.

Its tasks tell the test by events where they are, and wait in them for ever; effects are rows of the table ``effects``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg

from tests.support_tasks import Play

ROOT = Path(__file__).parent.parent


def start(url: str, kind: str, **settings: Any) -> subprocess.Popen[str]:
    """Starts such a process."""
    command = [sys.executable, "-m", "tests.support_worker_app", url, kind, json.dumps(settings)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE)


def make_play(url: str, kind: str) -> Play:
    """The application."""
    play = Play(url, kind)

    def note(text: str) -> None:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("insert into effects values (%s)", (text,))

    @play.task("quick")
    async def quick(params: Any, ctx: Any) -> Any:
        return await ctx.step("quick", lambda: params)

    @play.task("until told", max_attempts=3)
    async def until_told(params: Any, ctx: Any) -> str:
        """Runs until a row ``end`` appears, so that a test decides when."""
        await ctx.step("first", lambda: note("first"))
        note("began")
        while not _told(url):
            await (asyncio.sleep(0.02) if kind == "async" else play.hold_briefly())
        return await ctx.step("last", lambda: note("last") or "ended")

    @play.task("hangs once", max_attempts=3)
    async def hangs_once(params: Any, ctx: Any) -> str:
        """Hangs until the process ends, the first time only."""
        await ctx.step("first", lambda: note("first"))
        if _count(url) == 1:
            note("hangs")
            if kind == "async":
                await asyncio.Event().wait()
            threading.Event().wait()
        return await ctx.step("last", lambda: note("last") or f"attempt {ctx.attempt}")

    return play


def _told(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as conn:
        return bool(conn.execute("select from effects where name = 'end'").fetchall())


def _count(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as conn:
        return len(conn.execute("select from effects").fetchall())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    make_play(sys.argv[1], sys.argv[2]).app.start_worker(**json.loads(sys.argv[3]))
