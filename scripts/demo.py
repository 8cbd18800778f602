"""``make demo``: the order workflow of examples/event_demo.py as seen in three terminals, on the embedded PostgreSQL."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from absurd import AbsurdError, devdb

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# Seconds for the whole walk, the first start of the database aside. It takes about three; more means that something is broken.
TIME_LIMIT = 50.0
STOP_SECONDS = 10.0
WIDTH = 78
PAYMENT = '{"amount": 99.99, "transaction_id": "txn_abc123"}'
DELIVERY = '{"delivered_at": "2025-01-03T14:30:00Z", "signature": "J. Doe"}'


class DemoError(Exception):
    """What went wrong, for the person who runs the demo."""


class Terminal:
    """A program that runs as in a terminal of its own."""

    def __init__(self, title: str, *arguments: str) -> None:
        self.title = title
        self.command = shlex.join(["python", *arguments])
        print(f"\n── {title} ".ljust(WIDTH, "─"))
        print(f"$ {self.command}", flush=True)
        self.process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            cwd=EXAMPLES,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def show_until(self, last: str, deadline: float) -> None:
        """Shows what the program prints, up to a line."""
        while True:
            line = self._next(deadline, f'the line "{last}"')
            if line is None:
                raise DemoError(f"`{self.command}` ended (exit code {self.process.wait()}) before it printed: {last}")
            print(line, flush=True)
            if line == last:
                return

    def show_all(self, deadline: float) -> None:
        """Shows what the program prints until it ends, and requires that it ends well."""
        while (line := self._next(deadline, "its end")) is not None:
            print(line, flush=True)
        if code := self.process.wait():
            raise DemoError(f"`{self.command}` failed with exit code {code}")

    def _next(self, deadline: float, what: str) -> str | None:
        try:
            return self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise DemoError(
                f"waited in vain for {what} of `{self.command}`; the whole demo may take {TIME_LIMIT:.0f} s"
            ) from None

    def close(self) -> None:
        """Stops the program as Ctrl-C does; one that does not hear is killed. Raises if it did not end well."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if code := self.process.wait():
            raise DemoError(f"`{self.command}` ended with exit code {code} when it was stopped")


def environment() -> dict[str, str]:
    """The programs find the embedded PostgreSQL by themselves, as nothing else is named."""
    named = {name: value for name, value in os.environ.items() if name not in ("ABSURD_DATABASE_URL", "PGDATABASE")}
    return {**named, "PYTHONUTF8": "1"}


def walk(order_id: str) -> None:
    """Spawn, payment, delivery."""
    deadline = time.monotonic() + TIME_LIMIT
    Terminal("Terminal 1: spawn an order", "event_demo.py", "spawn", order_id).show_all(deadline)
    worker = Terminal("Terminal 2: the worker", "event_demo.py")
    with contextlib.closing(worker):
        worker.show_until(f"⏳ Waiting for payment confirmation: payment.confirmed:{order_id}", deadline)
        send(f"payment.confirmed:{order_id}", PAYMENT, deadline)
        go_on(worker, f"⏳ Waiting for delivery: shipment.delivered:{order_id}", deadline)
        send(f"shipment.delivered:{order_id}", DELIVERY, deadline)
        go_on(worker, f"🎉 Order {order_id} completed successfully!", deadline)


def send(event: str, payload: str, deadline: float) -> None:
    """Emits an event from a third terminal."""
    Terminal("Terminal 3: send an event", "send_event.py", event, "--payload", payload).show_all(deadline)


def go_on(worker: Terminal, last: str, deadline: float) -> None:
    """Shows what the worker printed since."""
    print("\n── Terminal 2: the worker goes on ".ljust(WIDTH, "─"))
    worker.show_until(last, deadline)


def main() -> int:
    """Runs the demo; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without emoji
    started = time.monotonic()
    # Another order each time: an event that was emitted is kept, so that an old order's payment would not be waited for.
    order_id = str(10_000_000 + secrets.randbelow(90_000_000))
    try:
        devdb.ensure()
        print(f"The embedded PostgreSQL runs; its data are in {devdb.home()}")
        walk(order_id)
    except (DemoError, AbsurdError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("─" * (WIDTH - 1))
    print(f"Done in {time.monotonic() - started:.1f} s. The PostgreSQL goes on; stop it with: {absurdctl()} dev --stop")
    return 0


def absurdctl() -> str:
    """How the user calls absurdctl: beside the Python that runs this."""
    found = Path(sys.executable).parent / "absurdctl"
    try:
        return str(found.relative_to(Path.cwd()))
    except ValueError:
        return str(found)


if __name__ == "__main__":
    sys.exit(main())
