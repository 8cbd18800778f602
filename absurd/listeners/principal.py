"""The system that a listener talks to."""

from __future__ import annotations

from typing import Any

from absurd.db import mask

# Parts of names whose values no log and no traceback may show.
_SECRET = ("password", "passwd", "secret", "token", "credential", "api_key", "apikey", "private")


class Principal:
    """The system that a listener talks to: a name for it, and whatever is needed to reach it, as attributes.

    It connects to nothing. Its ``repr`` hides passwords, so it may be logged.

    Example:

        self.principal = Principal("rabbitmq", host="broker.example", port=5672, password=password)
        connect(self.principal.host, self.principal.port)
    """

    def __init__(self, *arguments: Any, **details: Any) -> None:
        """Makes a principal; everything is optional.

        Args:
            arguments: the first is its ``name``; all of them are kept as ``arguments``.
            details: kept as attributes of these names.
        """
        self.arguments = arguments
        self.name: Any = arguments[0] if arguments else None
        self.__dict__.update(details)

    def __repr__(self) -> str:
        shown = [_shown("", value) for value in self.arguments]
        shown += [f"{key}={_shown(key, value)}" for key, value in vars(self).items() if key not in self._own()]
        return f"Principal({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Principal) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]

    def _own(self) -> set[str]:
        """What the repr does not show twice."""
        named = bool(self.arguments) and self.name is self.arguments[0]
        return {"arguments", "name"} if named or self.name is None else {"arguments"}


def _shown(key: str, value: object) -> str:
    if any(part in key.lower() for part in _SECRET):
        return "***"
    return mask(repr(value))
