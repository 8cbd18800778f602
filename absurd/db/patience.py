"""How often and how long a query is sent again: the part of the pools that does no I/O."""

from __future__ import annotations

import time

from absurd.db.translate import is_read_only, is_repeatable
from absurd.errors import AbsurdError, DatabaseUnavailableError

# Seconds: long enough for a PostgreSQL that restarts, short enough for a caller to learn of one that does not come back.
LIMIT = 30.0
# The first repetition is at once: most often a single connection was cut, and the server is there.
_DELAYS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
_LAST_DELAY = 2.0


class Patience:
    """Decides, for one query, whether and when it is sent again after an error."""

    def __init__(self, *, repeatable: bool, limit: float = LIMIT) -> None:
        self._repeatable = repeatable
        self._until = time.monotonic() + limit
        self._tries = 0
        self.sent = False
        self.may_have_happened = False

    def delay_after(self, error: AbsurdError) -> float:
        """Seconds until the next try. Raises when there must not be one, or the time is over."""
        if isinstance(error, DatabaseUnavailableError) and error.__cause__ is not None:
            if self.sent and not self._repeatable:
                raise DatabaseUnavailableError(
                    f"the connection broke while a statement was on its way: it is unknown whether it took effect. "
                    f"Look at the state of things before you repeat it. ({error})"
                ) from error
        elif is_read_only(error) and self._tries == 0:
            pass  # once more, on another connection: this one may have been made before its server was demoted
        elif not is_repeatable(error.__cause__):
            # Also a pool that is full or closed: there is no connection whose fate could change.
            raise error
        delay = self.next_delay()
        if delay is None:
            raise error
        self.may_have_happened |= self.sent
        self.sent = False
        return delay

    def next_delay(self) -> float | None:
        """Seconds until the next try, whatever the error was; ``None`` when the time is over."""
        delay = _DELAYS[self._tries] if self._tries < len(_DELAYS) else _LAST_DELAY
        if time.monotonic() + delay > self._until:
            return None
        self._tries += 1
        return delay
