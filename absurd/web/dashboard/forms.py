"""What comes in forms and goes into links."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from absurd.errors import ValidationError


def choose(**parameters: Any) -> dict[str, Any]:
    """The parameters of a link that are set."""
    return {name: value for name, value in parameters.items() if value is not None}


def require(fields: Mapping[str, str], name: str, what: str) -> str:
    """A field that must be filled in.

    Raises:
        ValidationError: it is not.
    """
    value = fields.get(name, "").strip()
    if not value:
        raise ValidationError(f"give {what}")
    return value


def read_json(text: str, what: str) -> Any:
    """The value of a field of JSON; ``None`` for an empty one.

    Raises:
        ValidationError: it is no JSON.
    """
    if not text.strip():
        return None
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValidationError(f'{what} is no JSON: {error}. Texts stand in double quotes, as in "paid"') from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
