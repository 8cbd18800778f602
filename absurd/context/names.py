"""Names of steps, as handlers give them."""

from __future__ import annotations

from absurd.errors import InvalidOptionError
from absurd.registry import check_name

# Names that begin with this belong to the library: waits, sleeps, spawns, emits.
RESERVED = "$"


def user_step(name: str) -> str:
    """A name of the user's for a step."""
    check_name("step name", name)
    if name.startswith(RESERVED):
        raise InvalidOptionError(f"step name {name!r} begins with {RESERVED!r}, which is kept for the library's own steps")
    return name
