"""The form that follows from a type, and the answer that follows from the form."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator

from absurd.codec import typed_codec
from absurd.errors import ValidationError
from absurd.web.token_form import make_form


class Size(enum.Enum):
    """One of two."""

    SMALL = 1
    LARGE = 2


@dataclass
class Approval:
    """One choice, and texts."""

    approved: bool
    comment: str = ""
    amount: int | None = None
    by: date | None = None


@dataclass
class Order:
    """Two choices."""

    size: Size
    colour: Literal["red", "blue"]
    gift: bool | None = None


@dataclass
class Basket:
    """More than a form can hold."""

    items: list[str] = field(default_factory=list)


def _schema(declared: Any) -> Any:
    return typed_codec(declared).json_schema()


@pytest.mark.parametrize(
    ("declared", "kinds", "buttons"),
    [
        (bool, ["choice"], "answer"),
        (Literal["ship", "refund"], ["choice"], "answer"),
        (Size, ["choice"], "answer"),
        (Literal[1, 2, 3, 4, 5, 6, 7], ["choice"], None),
        (str, ["text"], None),
        (float, ["number"], None),
        (datetime, ["line"], None),
        (Decimal, ["text"], None),
        (Approval, ["choice", "text", "number", "date"], "approved"),
        (Order, ["choice", "choice", "choice"], None),
        (Basket, ["json"], None),
        (dict[str, int], ["json"], None),
        (int | str, ["json"], None),
        (Approval | None, ["json"], None),
    ],
)
def test_form_of_a_type(declared: Any, kinds: list[str], buttons: str | None) -> None:
    form = make_form(_schema(declared))
    assert [field.kind for field in form.fields] == kinds
    assert (form.buttons.name if form.buttons else None) == buttons


@pytest.mark.parametrize(
    "schema", [None, True, [], 7, "x", {"$ref": "#"}, {"$ref": "#/nowhere"}, {"anyOf": 3}, {"type": "object"}]
)
def test_a_schema_of_any_shape_gives_a_form(schema: Any) -> None:
    assert [field.kind for field in make_form(schema).fields] == ["json"]


@pytest.mark.parametrize(
    ("declared", "given", "answer"),
    [
        (bool, {"answer": "true"}, True),
        (bool, {"answer": "false"}, False),
        (Size, {"answer": "2"}, Size.LARGE),
        (Literal["ship", "refund"], {"answer": "ship"}, "ship"),
        (str, {"answer": ""}, ""),
        (str, {"answer": "two\r\nlines"}, "two\nlines"),
        (float, {"answer": " 1.5 "}, 1.5),
        (str | None, {"answer": ""}, None),
        (Decimal, {"answer": "0.10"}, Decimal("0.10")),
        (Basket, {"answer": '{"items": ["a"]}'}, Basket(["a"])),
        (Approval, {"approved": "true", "comment": "", "amount": "", "by": ""}, Approval(True)),
        (Approval, {"approved": "false", "amount": "7", "by": "2030-01-31"}, Approval(False, "", 7, date(2030, 1, 31))),
        (Order, {"size": "1", "colour": "red", "gift": ""}, Order(Size.SMALL, "red")),
    ],
)
def test_what_is_filled_in_becomes_a_value_of_the_type(declared: Any, given: dict[str, str], answer: Any) -> None:
    value = make_form(_schema(declared)).read(given)
    Draft202012Validator(_schema(declared)).validate(value)
    assert typed_codec(declared).load(value, "answer") == answer


@pytest.mark.parametrize(
    ("declared", "given"),
    [
        (bool, {}),
        (bool, {"answer": "maybe"}),
        (float, {"answer": "much"}),
        (float, {"answer": "true"}),
        (Size, {"answer": "3"}),
        (Approval, {"comment": "forgot the rest"}),
        (Approval, {"approved": "true", "amount": "1.5"}),
    ],
)
def test_what_does_not_fit_is_left_for_the_schema_to_refuse(declared: Any, given: dict[str, str]) -> None:
    assert not Draft202012Validator(_schema(declared)).is_valid(make_form(_schema(declared)).read(given))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"answer": "{"}, "is no JSON"),
        ({"answer": "NaN"}, "is no JSON"),
        ({"answer": "[" * 100_000}, "is no JSON"),
        ({"answers": "1"}, "there is no field 'answers'"),
    ],
)
def test_text_that_is_no_json_and_foreign_fields_are_refused(given: dict[str, str], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        make_form(None).read(given)
