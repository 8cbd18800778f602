"""What a message asks for: ``{"workflow_id": …, "params"?: …, "idempotency_key"?: …}``, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from absurd.errors import InvalidOptionError
from absurd.registry import check_name

# Characters of a message that a complaint about it repeats.
SHOWN = 100


class MalformedMessageError(ValueError):
    """A message that can never become a task; says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """A task that a message asks for."""

    workflow_id: str
    params: Any = None
    idempotency_key: str | None = None


def read_order(body: bytes | str) -> Order:
    """The order in a message that is a JSON object; keys other than the three are left alone.

    Raises:
        MalformedMessageError: it is no such object.
    """
    found = read_json(body)
    if not isinstance(found, dict):
        raise MalformedMessageError(f'it must be a JSON object with a "workflow_id", not {_short(found)}')
    if "workflow_id" not in found:
        raise MalformedMessageError(f'it has no "workflow_id"; its keys are {_short(list(found))}')
    key = found.get("idempotency_key")
    return Order(
        _name("workflow_id", found["workflow_id"]), found.get("params"), None if key is None else _name("idempotency_key", key)
    )


def read_json(body: bytes | str) -> Any:
    """The JSON value of a message in UTF-8.

    Raises:
        MalformedMessageError: it is no JSON.
    """
    try:
        return json.loads(body.decode() if isinstance(body, bytes) else body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"it is no JSON in UTF-8 ({error}): {_short(body)}") from None


def _name(what: str, value: object) -> str:
    try:
        return check_name(what, value)
    except InvalidOptionError as error:
        raise MalformedMessageError(str(error)) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _short(value: object) -> str:
    text = repr(value[: SHOWN + 1] if isinstance(value, (bytes, str)) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
