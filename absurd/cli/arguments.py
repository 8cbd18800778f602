"""Values on the command line: ``key=value``, ``key:=json``, JSON text, ``@file`` and ``-``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer


def read_json(text: str, option: str) -> Any:
    """The JSON value of an option: the text itself, ``@file`` for the content of a file, ``-`` for standard input."""
    try:
        if text == "-":
            return parse_json(sys.stdin.read(), option)
        if text.startswith("@"):
            return parse_json(Path(text[1:]).read_text(encoding="utf-8"), option)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {text}: {error}", param_hint=option) from None
    return parse_json(text, option)


def parse_json(text: str, option: str) -> Any:
    """The value of JSON text; ``NaN`` and ``Infinity`` are no JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"Invalid JSON: {error} in {_short(text)}", param_hint=option) from None


def read_pairs(items: Sequence[str], option: str) -> dict[str, Any]:
    """``key=value`` (a string) and ``key:=json`` as an object, in the order given."""
    found: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        is_json = key.endswith(":")
        key = key[:-1] if is_json else key
        if not equals or not key:
            raise typer.BadParameter(f"{_short(item)} must be key=value or key:=json", param_hint=option)
        if key in found:
            raise typer.BadParameter(f"{_short(key)} is given twice", param_hint=option)
        found[key] = read_json(value, f"{option} {key}") if is_json else value
    return found


def read_params(params: str | None, pairs: Sequence[str]) -> Any:
    """The params of a task: ``--params`` as a whole, single ones by ``-P`` over it."""
    whole = None if params is None else read_json(params, "--params")
    single = read_pairs(pairs, "-P")
    if not single:
        return whole
    if params is not None and whole is not None and not isinstance(whole, dict):
        raise typer.BadParameter(f"-P adds to an object, but --params is {_short(params)}", param_hint="-P")
    return {**(whole or {}), **single}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
