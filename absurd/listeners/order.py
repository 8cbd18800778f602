"""What a message asks for: ``{"workflow_id": …, "params"?: …, "idempotency_key"?: …}``, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from absurd.errors import InvalidOptionError
from absurd.registry import check_name


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
        raise MalformedMessageError(f'it must be a JSON object with a "workflow_id", not {_kind(found)}')
    if "workflow_id" not in found:
        raise MalformedMessageError(f'it has no "workflow_id", but {len(found)} other keys')
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
        raise MalformedMessageError(f"it is no JSON in UTF-8 ({_reason(error)})") from None


def _name(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise MalformedMessageError(f"its {what} must be a text, not {_kind(value)}")
    try:
        return check_name(what, value)
    except InvalidOptionError as error:
        raise MalformedMessageError(str(error)) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _kind(value: object) -> str:
    """What a JSON value is, without what it says: complaints are logged, and a message is its sender's secret."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"{error.reason} at byte {error.start}"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)
