"""Named points between two commits, at which a test has the process die, wait or raise.

In production there is no hook, and a point costs one look at a global. A point is written

    if failpoints.hook is not None:
        failpoints.hook("writer.committed", self)

and named ``part.what-has-just-happened``. ``tests/faults`` finds all points by reading the sources, and goes through every one.
"""

from __future__ import annotations

from collections.abc import Callable

Hook = Callable[[str, object], None]
"""Called with the name of the point and the object it is reached in, on whatever thread or event loop reaches it."""

hook: Hook | None = None
