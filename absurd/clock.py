"""The clock of this process, for what user code is told: ``ctx.now()``. Whatever is durable goes by the database's clock.

Tests with a virtual clock put their own in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime


def _real_now() -> datetime:
    return datetime.now(UTC)


now: Callable[[], datetime] = _real_now
"""Returns the present moment, in UTC."""
