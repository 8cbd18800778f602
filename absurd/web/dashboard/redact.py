"""Values that must not be shown: those of keys such as ``password``, at any depth of a JSON document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from absurd.errors import ConfigurationError

DEFAULT_KEYS = ("password", "secret", "token", "authorization", "api_key", "cookie")
HIDDEN = "••••••"
# Characters of a document that are shown; the rest of a larger one is left to the command line.
SHOWN_CHARACTERS = 20_000
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")


def _words(key: str) -> tuple[str, ...]:
    """The words of a key, whichever way it joins them: api_key, api-key, apiKey, APIKey."""
    return tuple(word.lower() for word in _WORDS.findall(key))


@dataclass(frozen=True, slots=True)
class Shown:
    """A JSON document fit to be shown: its text, and whether something of it is missing at the end."""

    text: str
    cut: bool = False


class Redaction:
    """Hides the values of some keys."""

    def __init__(self, keys: Iterable[str] = DEFAULT_KEYS) -> None:
        """``keys``: a key is hidden when it holds the words of one of them (``token`` hides accessToken, not max_tokens)."""
        if isinstance(keys, str):
            raise ConfigurationError(f"redact takes a list of keys, not the text {keys!r}")
        self._keys = [words for words in map(_words, keys) if words]
        self._joined = {"".join(words) for words in self._keys}

    def hides(self, key: str) -> bool:
        """Whether the value of a key is hidden."""
        words = _words(key)
        return "".join(words) in self._joined or any(_holds(words, part) for part in self._keys)

    def value(self, value: Any) -> Any:
        """A copy of a value without what is hidden."""
        if isinstance(value, dict):
            return {key: HIDDEN if self.hides(str(key)) else self.value(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.value(part) for part in value]
        return value

    def parsed(self, text: str | None) -> Any:
        """The value of a JSON text without what is hidden; ``None`` also for one that cannot be read."""
        try:
            return None if text is None else self.value(json.loads(text))
        except (ValueError, RecursionError):
            return None

    def shown(self, document: Any, *, indent: int | None = 2, limit: int = SHOWN_CHARACTERS) -> Shown:
        """A value or JSON text (``str``) as text; what cannot be read is not shown, for nobody knows what it holds."""
        try:
            value = json.loads(document) if isinstance(document, str) else document
            text = json.dumps(self.value(value), ensure_ascii=False, indent=indent, default=str)
        except (ValueError, RecursionError):
            return Shown("(cannot be shown: nested too deeply, or no JSON that Python reads)")
        text = text.encode("utf-8", "backslashreplace").decode()
        return Shown(text[:limit], True) if len(text) > limit else Shown(text)


def _holds(words: tuple[str, ...], part: tuple[str, ...]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))
