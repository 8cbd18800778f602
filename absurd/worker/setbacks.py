"""What a refused write says: that it is bad itself, or that the server could not take it just now."""

from __future__ import annotations

# A deadlock or a serialization failure: the whole batch is repeated.
TRANSIENT = ("40001", "40P01")
# The session writes to a server that only reads: a primary of before, which was demoted, or a standby that is being promoted.
READ_ONLY = "25006"
# Somebody holds a lock for longer than the writer waits for it.
LOCKED = "55P03"
# A statement timeout, or somebody's pg_cancel_backend.
CANCELED = "57014"
# The server has no room (53: disk full, out of memory, out of locks), or its system failed it (58: input or output).
EXHAUSTED = ("53", "58")
# Cancellations after which an item that was sent alone each time is itself to blame, and refused: about half a minute.
MAX_CANCELS = 30


def sqlstate(error: BaseException | None) -> str:
    """The SQLSTATE of an error of the driver; empty for any other."""
    return getattr(error, "sqlstate", None) or ""


def passes(error: BaseException, cancels: int) -> bool:
    """Whether an item that was refused when it was sent alone may be taken later, after so many cancellations before."""
    state = sqlstate(error)
    if state == CANCELED:
        return cancels < MAX_CANCELS
    return state == LOCKED or state.startswith(EXHAUSTED)
