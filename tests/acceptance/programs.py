"""Programs as a person starts them in a terminal: what they print is kept line by line, and can be waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support import wait_until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TIME_LIMIT = 60.0  # seconds

RESERVED = "{'items': ['widget-A', 'gadget-B'], 'warehouse': 'US-EAST-1', 'reserved_at': '2025-01-01T10:00:00Z'}"
WORKER_TITLE = "Worker started on queue 'examples'; Ctrl-C stops it."


def environment(**changes: str) -> dict[str, str]:
    """The environment of a program: no database is named, unless ``changes`` do."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    kept.pop("ABSURD_DATABASE_URL", None)
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "COLUMNS": "200", "NO_COLOR": "1", **changes}


class Program:
    """A Python program that runs until it ends or is stopped."""

    def __init__(self, *arguments: str, env: Mapping[str, str], cwd: Path = EXAMPLES) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            cwd=cwd,
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.lines: list[str] = []
        self.error_lines: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.error_lines))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Iterator[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))

    def wait_for(self, line: str, times: int = 1) -> None:
        """Waits until the program has printed a line."""

        def printed() -> bool:
            if self.process.poll() is not None and self.lines.count(line) < times:
                raise AssertionError(f"it ended with {self.process.returncode} and printed {self.lines} / {self.error_lines}")
            return self.lines.count(line) >= times

        wait_until(printed, TIME_LIMIT, f"{line!r} among {self.lines}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, waits for the end and returns the exit code."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Waits for the end and returns the exit code."""
        code = self.process.wait(TIME_LIMIT)
        for reader in self._readers:
            reader.join(TIME_LIMIT)
        return code


@contextmanager
def running(*arguments: str, env: Mapping[str, str], cwd: Path = EXAMPLES) -> Iterator[Program]:
    """A program that is killed at the end of the block if it still runs."""
    program = Program(*arguments, env=env, cwd=cwd)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.end()


def run(*arguments: str, env: Mapping[str, str], cwd: Path = EXAMPLES) -> Program:
    """A program that has ended."""
    with running(*arguments, env=env, cwd=cwd) as program:
        program.end()
    return program


def output(*arguments: str, env: Mapping[str, str]) -> list[str]:
    """What a program prints that has to end well."""
    program = run(*arguments, env=env)
    assert program.process.returncode == 0, program.error_lines
    return program.lines


def until_payment(order_id: str) -> list[str]:
    """What the worker prints of an order up to the first wait."""
    return [
        f"📦 Starting order fulfillment for order: {order_id}",
        f"✓ Inventory reserved: {RESERVED}",
        f"⏳ Waiting for payment confirmation: payment.confirmed:{order_id}",
    ]


def until_delivery(order_id: str, payment: object) -> list[str]:
    """What it prints from the payment to the second wait."""
    return [
        f"✓ Payment confirmed: {payment!r}",
        f"✓ Order shipped: {{'tracking_number': '1Z999{order_id}', 'carrier': 'UPS', 'shipped_at': '2025-01-01T12:00:00Z'}}",
        f"⏳ Waiting for delivery: shipment.delivered:{order_id}",
    ]


def until_end(order_id: str, delivery: object) -> list[str]:
    """What it prints from the delivery on."""
    return [f"✓ Delivery confirmed: {delivery!r}", f"🎉 Order {order_id} completed successfully!"]
