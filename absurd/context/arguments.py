"""Arguments of a context's methods, checked before anything else happens: what is wrong is said by name, and nothing was sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from absurd.errors import InvalidOptionError
from absurd.registry import check_name

# Events that one wait may have. Each is a lock while the wait is decided (see MAX_WAITS of absurd.worker.batch), and each arrival
# changes the row of the sleeping run.
MAX_EVENTS = 1000
# What a `seq` can be.
MAX_SEQ = 2**63 - 1
# Names of a list that a message repeats.
SHOWN = 5


def check_event_names(names: object) -> list[str]:
    """The names of an ``await_any`` or ``await_all``, in the order given.

    Raises:
        InvalidOptionError: it is no list, empty, too long, or a name cannot be one or is given twice.
    """
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence):
        raise InvalidOptionError(f"names must be a list of event names, not {names!r}")
    if not 1 <= len(names) <= MAX_EVENTS:
        raise InvalidOptionError(f"names must hold 1 to {MAX_EVENTS} event names, not {len(names)}")
    found: dict[str, None] = {}
    for name in names:
        if check_name("event name", name) in found:
            raise InvalidOptionError(f"each event name may be given once in names, but {name!r} is there twice")
        found[name] = None
    return list(found)


def shown(names: Sequence[object]) -> str:
    """A list for a message: its beginning, and how long it is."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{[*names[:SHOWN]]!r}{more}"


def check_since(since: object) -> int | None:
    """The ``seq`` of an event, or ``None``."""
    if since is not None and (isinstance(since, bool) or not isinstance(since, int) or not 0 <= since <= MAX_SEQ):
        raise InvalidOptionError(f"since must be the seq of an event, not {since!r}")
    return since


def check_function(what: str, fn: object) -> Callable[..., Any]:
    """The function of a step."""
    if not callable(fn):
        raise InvalidOptionError(f"{what} takes a function, fn, not {fn!r}")
    return fn


def check_backoff(value: object) -> float:
    """By how much each delay is longer than the one before it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1000 or math.isnan(value):
        raise InvalidOptionError(f"backoff must be a number between 0 and 1000, not {value!r}")
    return value
