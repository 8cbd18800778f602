"""Answers to tokens, checked before they are given: what does not fit leaves the token open for another try."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from absurd.codec import encode, typed_codec
from absurd.errors import InvalidOptionError, ValidationError
from absurd.queries.tokens import TokenInfo, refusal

if TYPE_CHECKING:
    from jsonschema import FormatChecker

# Characters of a reason that is given; some repeat the whole answer.
MAX_MESSAGE = 300

_SECRET = re.compile(r"[0-9A-Za-z_-]{1,200}")
# What the task's type will read from such a text; jsonschema itself knows none of these without further packages.
_FORMATS: Mapping[str, type] = {"date-time": datetime, "date": date, "time": time, "duration": timedelta, "uuid": UUID}


def read_secret(token: object) -> str:
    """The secret of a token, given as such or as the link that ends with it.

    Raises:
        InvalidOptionError: it is no string.
        TokenError: it cannot be one.
    """
    if not isinstance(token, str):
        raise InvalidOptionError(f"a token is the text of token.secret or token.url, not {token!r}")
    # Mail programs put a query behind a link, browsers a slash or a fragment.
    secret = token.strip().partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2]
    if not _SECRET.fullmatch(secret):
        raise refusal("unknown")
    return secret


def answer_text(info: TokenInfo, payload: Any) -> str:
    """JSON text of an answer to a token.

    Raises:
        TokenError: the token is not open any more.
        ValidationError: the answer is not of the type that the task declared.
        SerializationError: it is no JSON.
    """
    if info.status != "open":
        raise refusal(info.status)
    text = encode(payload, f'the answer to token "{info.name}"')
    if info.json_schema is not None:
        _check(info, payload)
    return text


def _check(info: TokenInfo, payload: Any) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry

    # A registry of its own, empty: a schema that names another one must not make us fetch it.
    validator = Draft202012Validator(info.json_schema, registry=Registry(), format_checker=_format_checker())
    try:
        problem = best_match(validator.iter_errors(payload))
    except Exception as error:  # a schema that did not come from a type of ours may be anything
        raise ValidationError(
            f'the JSON Schema of token "{info.name}" cannot be used, so that no answer fits: {error}'
        ) from error
    if problem is not None:
        message = problem.message if len(problem.message) <= MAX_MESSAGE else f"{problem.message[:MAX_MESSAGE]}…"
        raise ValidationError(f'the answer to token "{info.name}" does not fit: {problem.json_path}: {message}')


def _format_checker() -> FormatChecker:
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=())
    for name, declared in _FORMATS.items():
        checker.checkers[name] = (_reader(declared), ValidationError)
    return checker


def _reader(declared: type) -> Any:
    def fits(value: object) -> bool:
        if isinstance(value, str):
            typed_codec(declared).load(value, "it")
        return True

    return fits
