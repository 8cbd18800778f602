"""What a type checker sees of the interface: the types of steps, sync and async."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

USAGE = """
from __future__ import annotations

from typing import Any, assert_type

from absurd import Absurd, AsyncContext, Context, TaskHandle

app = Absurd()


async def slow(number: int) -> str:
    return str(number)


async def slow_too(anything: dict[str, Any]) -> str:
    return str(anything)


def quick(number: int) -> float:
    return number / 2


@app.register_task("sync")
def sync_handler(params: dict[str, Any], ctx: Context) -> int:
    assert_type(ctx.step("quick", quick, 1), float)
    assert_type(ctx.transaction("quick", quick, 1), float)

    @ctx.step
    def plain(name: str) -> bytes:
        return name.encode()

    @ctx.step("named", retries=2)
    def named(name: str) -> bytes:
        return name.encode()

    assert_type(plain("a"), bytes)
    assert_type(named("a"), bytes)
    return 1


@app.register_task("async")
async def async_handler(params: dict[str, Any], ctx: AsyncContext) -> int:
    assert_type(await ctx.step("slow", slow, 1), str)
    assert_type(await ctx.step("slow too", slow_too, {}), str)
    assert_type(await ctx.step("quick", quick, 1), float)
    assert_type(await ctx.transaction("slow", slow, 1), str)
    assert_type(await ctx.transaction("quick", quick, 1), float)

    @ctx.step
    async def plain(name: str) -> bytes:
        return name.encode()

    @ctx.step("named", retries=2)
    async def named(name: str) -> bytes:
        return name.encode()

    @ctx.step("not async")
    def other(name: str) -> bytes:
        return name.encode()

    assert_type(await plain("a"), bytes)
    assert_type(await named("a"), bytes)
    assert_type(await other("a"), bytes)
    return 1


assert_type(app.spawn(sync_handler, {}), TaskHandle[int])
assert_type(app.spawn(async_handler, {}).result(), int)
"""


def test_type_checker_knows_what_steps_and_tasks_return(tmp_path: Path) -> None:
    (tmp_path / "usage.py").write_text(USAGE)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(ROOT / ".cache" / "mypy")]
    env = {"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, "usage.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_type_checker_refuses_a_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "usage.py").write_text(USAGE.replace("assert_type(await named", "assert_type(named"))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(ROOT / ".cache" / "mypy")]
    env = {"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, "usage.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert "assert-type" in done.stdout
