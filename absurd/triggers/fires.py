"""From what a poll returned to fires that can be stored, with the hash that says which of them are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import uuid6

from absurd.codec import decode, encode
from absurd.errors import SerializationError
from absurd.queries.triggers import PreparedFire
from absurd.triggers.trigger import Fire, Skip

ADDED_KEYS = ("trigger_name", "triggered_at")
# Fires of one poll: they become tasks in one transaction.
MAX_FIRES = 10_000


def read_fires(name: str, polled: object) -> list[Fire]:
    """The fires of a poll.

    Raises:
        TypeError: it returned something that a poll cannot return.
        ValueError: it returned too many.
    """
    if polled is None or polled is False or polled is Skip or isinstance(polled, Skip):
        return []
    if polled is True or polled is Fire:
        return [Fire()]
    if isinstance(polled, Fire):
        return [polled]
    if isinstance(polled, Sequence) and all(isinstance(one, Fire) for one in polled) and not isinstance(polled, str):
        if len(polled) > MAX_FIRES:
            raise ValueError(
                f'a poll of trigger "{name}" may return {MAX_FIRES} fires, not {len(polled)}; leave the rest to the next one'
            )
        return list(polled)
    raise TypeError(f'the poll of trigger "{name}" must return Fire(…), Skip, a bool or a list of Fire, not {_kind(polled)}')


def _kind(value: object) -> str:
    """What a value is, without what it says unless it is a number: a trigger's errors are logged and shown."""
    if isinstance(value, (int, float)):
        return repr(value)
    return f"the class {value.__name__}" if isinstance(value, type) else f"a value of type {type(value).__name__}"


def prepare(name: str, fire: Fire) -> PreparedFire:
    """A fire with its hash and ids.

    Raises:
        SerializationError: the context is no JSON object, or has a key that is added to it.
    """
    context, text = fire.context, None
    if context is not None:
        if not isinstance(context, Mapping):
            raise SerializationError(f'the context of trigger "{name}" must be an object (a dict), not {_kind(context)}')
        taken = [key for key in ADDED_KEYS if key in context]
        if taken:
            raise SerializationError(f'the context of trigger "{name}" holds {taken[0]!r}, which is added to it; use another key')
        text = encode(dict(context), f'context of trigger "{name}"')
    return PreparedFire(text, context_hash(None if text is None else decode(text)), uuid6.uuid7(), uuid6.uuid7())


def context_hash(context: Any) -> str:
    """SHA-256, as hex digits, of a context as canonical JSON: keys sorted, no blanks, 1.0 written as 1. ``None`` has one, too."""
    text = json.dumps(_canonical(context), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return value
