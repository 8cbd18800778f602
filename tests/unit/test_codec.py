"""JSON in and out: equal, or refused by the place at which something cannot be stored."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, NotRequired, Required, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from absurd.codec import PLAIN, codec_for, copy_through_json, decode, encode, first_parameter_codec, return_codec
from absurd.errors import SerializationError, ValidationError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


class Item(TypedDict):
    sku: str


class Basket(TypedDict, total=False):
    owner: Required[str]
    items: list[Item]
    best: Item | None


@dataclass
class Point:
    x: int
    y: int = 0


@given(VALUES)
def test_every_json_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    text = encode(value, "value")
    assert json.loads(text) == value
    assert repr(decode(text)) == repr(value)
    assert repr(copy_through_json(value, text)) == repr(value)


@given(st.recursive(VALUES, lambda inner: st.lists(inner) | st.tuples(inner, inner), max_leaves=8))
def test_what_was_encoded_once_is_encoded_again_to_the_same_text(value: Any) -> None:
    text = encode(value, "value")
    assert encode(decode(text), "value") == text


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (math.nan, "nan at $"),
        ([1, math.inf], "inf at $[1]"),
        ({"a": {"b": -math.inf}}, "-inf at $.a.b"),
        ("a\x00", "(\\u0000) at $"),
        ({"k\x00": 1}, "(\\u0000) at $"),
        ({"a": ["\ud800"]}, "'\\ud800' at $.a[0]"),
        ({"\udc00": 1}, "'\\udc00' at $"),
        ({1: "x"}, "the key 1 (int) at $"),
        ({None: "x"}, "the key None (NoneType) at $"),
        ({1, 2}, "type set at $"),
        ([object()], "type object at $[0]"),
        (Point(1), "declare the type, as annotation of the function or, of a step, with result_type=Point"),
        (1j, "type complex at $"),
        (b"x", "type bytes at $"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode(value, "the thing")
    assert str(caught.value).startswith("the thing ")
    assert place in str(caught.value)


def test_a_forgotten_await_is_called_so() -> None:
    forgotten = asyncio.sleep(0)
    with pytest.raises(SerializationError, match=r"type coroutine at .*put an await before"):
        encode(forgotten, "the thing")
    forgotten.close()


def test_nan_beside_a_null_is_not_mistaken_for_one() -> None:
    assert encode([None, {"a": None}], "v") == '[null,{"a":null}]'
    with pytest.raises(SerializationError):
        encode([None, math.nan], "v")


def test_text_that_only_looks_like_a_nul_is_kept() -> None:
    assert decode(encode("\\u0000", "v")) == "\\u0000"


def test_a_value_that_contains_itself_or_is_nested_too_deep_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = None
    for _ in range(300):
        deep = [deep]
    for value in (endless, deep):
        with pytest.raises(SerializationError, match="contains itself"):
            encode(value, "v")


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**100])
def test_integers_of_any_size_survive(number: int) -> None:
    assert decode(encode({"n": [number]}, "v")) == {"n": [number]}


@pytest.mark.parametrize("text", ["[" * 3000 + "]" * 3000, "9" * 4301, '{"a": [1, -' + "9" * 4301 + "]}", "[1, 2", ""])
def test_what_others_have_stored_and_python_cannot_read_is_an_error_of_its_own(text: str) -> None:
    with pytest.raises(SerializationError, match="params cannot be read: "):
        decode(text, "params")


@pytest.mark.parametrize("declared", [Any, dict, list, dict[str, Any], list[int] | None, None, "Unknown", str | int])
def test_json_types_need_no_validation(declared: Any) -> None:
    assert codec_for(declared) is PLAIN


def test_typed_dicts_of_the_standard_library_work_nested_and_with_optional_keys() -> None:
    codec = codec_for(Basket)
    basket = {"owner": "Ada", "items": [{"sku": "a"}], "best": None}
    assert codec.decode(codec.encode(basket, "v"), "v") == basket
    assert codec.decode('{"owner": "Ada"}', "v") == {"owner": "Ada"}
    for wrong in ({}, {"owner": "Ada", "items": [{}]}, {"owner": 1}):
        with pytest.raises(ValidationError, match="does not fit Basket"):
            codec.encode(wrong, "v")


def test_a_key_that_is_not_required_may_be_missing() -> None:
    class Local(TypedDict):
        a: int
        b: NotRequired[int]

    Local.__annotations__ = {"a": int, "b": NotRequired[int]}
    assert codec_for(Local).decode('{"a": 1}', "v") == {"a": 1}


def test_constraints_of_annotated_types_hold() -> None:
    codec = codec_for(Annotated[int, Field(gt=0)])
    assert codec.decode("1", "v") == 1
    with pytest.raises(ValidationError, match="v does not fit"):
        codec.decode("0", "v")


def test_a_type_that_cannot_be_stored_is_refused_when_it_is_declared() -> None:
    class Opaque:
        pass

    with pytest.raises(SerializationError, match="cannot be stored: declare a dataclass, TypedDict, pydantic model"):
        codec_for(Opaque)


def test_codecs_come_from_annotations_and_unreadable_ones_count_as_none() -> None:
    def typed(params: Point, ctx: Any) -> Point:
        return params

    def unreadable(params: Nowhere, ctx: Any) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        return params

    assert first_parameter_codec(typed).decode('{"x": 1}', "v") == Point(1)
    assert return_codec(typed).encode(Point(2), "v") == '{"x":2,"y":0}'
    assert first_parameter_codec(unreadable) is PLAIN
    assert return_codec(lambda: 1) is PLAIN


def test_the_type_of_a_function_is_found_once_and_belongs_to_its_annotation() -> None:
    def make(declared: Any) -> Any:
        def step() -> Any: ...

        step.__annotations__["return"] = declared
        return step

    assert return_codec(make(datetime)) is return_codec(make(datetime))
    assert return_codec(make(datetime)) is not return_codec(make(date))
    assert return_codec(make(int)) is return_codec(lambda: 1)


@given(st.text("0123456789ab ", max_size=60), st.integers(10**17, 10**22), st.text("0123456789ab ", max_size=60))
def test_integers_of_any_size_are_found_wherever_they_stand(before: str, number: int, after: str) -> None:
    text = json.dumps([before, number, -number, after])
    assert decode(text) == [before, number, -number, after]


def test_a_dict_as_type_is_refused_by_its_value() -> None:
    with pytest.raises(SerializationError, match=r"type \{\} cannot be stored: it is a value, and no type"):
        codec_for({})
