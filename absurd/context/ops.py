"""What the core of a context asks its shell to do.

The core is made of generators that yield these; a shell performs them, blocking or awaiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from absurd.codec import Codec
from absurd.db.translate import is_read_only, is_repeatable
from absurd.queries.query import Query
from absurd.writes import Write


class Settle:
    """Wait until every checkpoint sent so far is durable."""


class Send(NamedTuple):
    """Send a write and go on; the next ``Settle`` waits for it."""

    write: Write


class Ask(NamedTuple):
    """Send a write and wait for its ``WriteResult``."""

    write: Write


class Call(NamedTuple):
    """Run a function of the user's and take its value."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]


class Pause(NamedTuple):
    """Wait within the run, for ``seconds``."""

    seconds: float


class Transact(NamedTuple):
    """Run a function of the user's in a transaction that also records the checkpoint; answers with the JSON text of its value.

    Raises ``NotCommitted`` when it is certain that nothing of it took place and that another try may succeed.
    """

    step_name: str
    position: int
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    codec: Codec


class LoadMore(NamedTuple):
    """Fetch the next piece of the history, after this place; answers with JSON text or ``None``."""

    after_position: int
    after_step: str


class Look(NamedTuple):
    """Run a read of the library's own; answers with what it found."""

    query: Query[Any]


class NotCommitted(Exception):
    """A transaction that was rolled back for no fault of its own: its connection broke, or it gave way to another one."""

    def __init__(self, error: Exception, *, unreachable: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.unreachable = unreachable

    @staticmethod
    def follows(error: Exception) -> bool:
        """Whether a transaction that met this error may succeed now: a deadlock, a serialization failure, a demoted server."""
        return is_repeatable(error) or is_repeatable(error.__cause__) or is_read_only(error)


Op = Settle | Send | Ask | Call | Pause | Transact | LoadMore | Look
SETTLE = Settle()
# What can be neither awaitable nor a coroutine.
PLAIN_VALUES = frozenset({dict, list, str, int, float, bool, type(None)})
# The failpoint that is reached when an operation has been performed.
REACHED: dict[type[Op], str] = {
    Settle: "context.settled",
    Send: "context.sent",
    Ask: "context.answered",
    Call: "context.called",
    Pause: "context.paused",
    Transact: "context.transacted",
    LoadMore: "context.loaded",
    Look: "context.looked",
}
