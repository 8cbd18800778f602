"""A worker whose wall clock is wrong: ``python -m tests.faults.support_shifted_clock URL SECONDS QUEUE``."""

from __future__ import annotations

import datetime
import sys
import time

URL, OFFSET, QUEUE = sys.argv[1], float(sys.argv[2]), sys.argv[3]
_Datetime = datetime.datetime
_time = time.time


class _Meta(type(_Datetime)):  # type: ignore[misc]
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _Datetime)


class Shifted(_Datetime, metaclass=_Meta):
    """A datetime whose ``now`` is wrong."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return _Datetime.now(tz) + datetime.timedelta(seconds=OFFSET)


# Before anything of the library is imported.
datetime.datetime = Shifted  # type: ignore[misc]
time.time = lambda: _time() + OFFSET

from absurd import Absurd, Context  # noqa: E402
from absurd.errors import TimeoutError as WaitTimeoutError  # noqa: E402

app = Absurd(URL, QUEUE)


@app.register_task("time")
def tell_time(params: object, ctx: Context) -> str:
    """The only place where the clock of a worker shows."""
    return ctx.now().isoformat()


@app.register_task("naps", max_attempts=1)
def naps(params: object, ctx: Context) -> str:
    """Sleeps, waits in vain, and then works for longer than its lease."""
    ctx.sleep_for(0.5)
    try:
        ctx.await_event("never", timeout=0.5)
    except WaitTimeoutError:
        ctx.step("longer than a lease", lambda: time.sleep(2))
        return "timed out"
    return "an event"


@app.register_task("until", max_attempts=1)
def until(moment: str, ctx: Context) -> str:
    """Sleeps until a moment of the database's clock."""
    ctx.sleep_until(_Datetime.fromisoformat(moment))
    return "slept"


@app.register_task("again", max_attempts=2, retry={"kind": "fixed", "base_seconds": 1})
def again(params: object, ctx: Context) -> int:
    """Fails once, and comes again a second later."""
    if ctx.attempt == 1:
        raise ValueError("once")
    return ctx.attempt


if __name__ == "__main__":
    app.start_worker(lease_seconds=1, poll_interval=0.2, grace_seconds=1)
