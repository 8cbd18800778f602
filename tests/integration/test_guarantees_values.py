"""The first run and its replays see equal values of equal types."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, NotRequired, TypedDict
from uuid import UUID

import psycopg
import pytest
from pydantic import BaseModel

from absurd import TaskFailedError
from tests.support_tasks import Play


class Colour(Enum):
    RED = "red"


@dataclass
class Address:
    street: str
    zip: int | None = None


class Line(TypedDict):
    sku: str
    count: NotRequired[int]


class Order(BaseModel):
    lines: list[dict[str, Any]]
    address: Address
    at: datetime
    price: Decimal


ORDER = Order(lines=[{"sku": "a"}], address=Address("Main"), at=datetime(2025, 1, 1, tzinfo=UTC), price=Decimal("1.10"))
ID = UUID("01890000-0000-7000-8000-000000000001")

PLAIN: list[tuple[Any, Any]] = [
    (value, value)
    for value in (
        None,
        True,
        0,
        -1,
        2**53 + 1,
        2**63,
        -(2**64),
        10**40,
        0.1,
        -0.0,
        1e300,
        5e-324,
        1.0,
        "",
        "ünï✓𝄞",
        'quote " backslash \\ newline \n tab \t',
        "null",
        "\\u0000",
        "\x01\x1f\x7f\u2028",
        [],
        {},
        [[], {}, None, ""],
        {"z": 1, "a": {"y": 2, "b": [1, 2.0, "3"]}, "m": None},
        {"": 1, " ": 2, "ключ": 3, "a.b": 4},
        [{"id": 12345678901234567890123, "f": 1.5, "n": None}],
        "1" * 25,
        "x" * 100_000,
        list(range(2000)),
    )
]
CONVERTED: list[tuple[Any, Any]] = [
    ((1, 2), [1, 2]),
    ({"t": (1, (2,))}, {"t": [1, [2]]}),
    (ID, str(ID)),
    (Colour.RED, "red"),
    ({"a": float("1e16")}, {"a": 1e16}),
]
TYPED: list[tuple[Any, Any]] = [
    (Address, Address("Main", 1)),
    (Line, {"sku": "a", "count": 2}),
    (list[Line], [{"sku": "a"}]),
    (Order, ORDER),
    (list[Order], [ORDER]),
    (Order | None, None),
    (dict[str, Address], {"home": Address("Main")}),
    (datetime, datetime(2025, 1, 1, 12, tzinfo=UTC)),
    (date, date(2025, 1, 1)),
    (timedelta, timedelta(days=1, microseconds=5)),
    (Decimal, Decimal("1.10")),
    (UUID, ID),
    (Colour, Colour.RED),
    (bytes, b"plain"),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2, 3}),
    (PurePosixPath, PurePosixPath("/a/b")),
]


def same(left: Any, right: Any) -> bool:
    """Equal, of equal types all the way down, with keys in equal order."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right) and (not isinstance(left, float) or repr(left) == repr(right))


def _see_twice(play: Play, returned: list[Any], declared: list[Any]) -> tuple[list[Any], list[Any]]:
    """What the steps gave to the first run and to its replay."""

    @play.task()
    async def task(params: Any, ctx: Any) -> None:
        found = []
        for n, (value, kind) in enumerate(zip(returned, declared, strict=True)):
            found.append(await ctx.step(f"step {n}", lambda value=value: value, result_type=kind))
            found.append(await ctx.transaction(f"transaction {n}", lambda conn, value=value: value, result_type=kind))
        play.seen.append(found)
        await ctx.sleep_for(0)

    play.run()
    first, second = play.seen
    return first, second


@pytest.mark.parametrize("group", ["plain", "converted", "typed"])
def test_a_step_returns_the_same_on_the_first_run_and_on_replay(play: Play, group: str) -> None:
    pairs = {"plain": PLAIN, "converted": CONVERTED, "typed": TYPED}[group]
    returned = [value for _, value in pairs] if group == "typed" else [value for value, _ in pairs]
    expected = [value for _, value in pairs]
    first, second = _see_twice(play, returned, [kind if group == "typed" else None for kind, _ in pairs])
    assert repr(first) == repr(second)
    for n, value in enumerate(expected):
        for found in (first, second):
            assert same(found[2 * n], value), (found[2 * n], value)
            assert same(found[2 * n + 1], value), (found[2 * n + 1], value)


def test_the_first_run_gets_a_copy_and_not_the_object_that_the_step_made(play: Play) -> None:
    made: list[int] = [1]

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        found = await ctx.step("list", lambda: made)
        made.append(2)
        await ctx.sleep_for(0)
        return found

    assert play.run() == [1]


def test_params_payloads_and_results_come_back_as_they_were(play: Play) -> None:
    values = [value for value, _ in PLAIN]

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        await ctx.emit_event("values", params)
        payload = await ctx.await_event("values")
        assert same(params, values)
        assert same(payload, values)
        return payload

    assert same(play.run("task", values), values)


def test_keys_keep_their_order_through_params_headers_steps_and_events(play: Play) -> None:
    ordered = {"z": 1, "aa": 2, "b": {"y": 1, "x": 2}}

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        step = await ctx.step("step", lambda: ordered)
        await ctx.emit_event("e", ordered)
        event = await ctx.await_event("e")
        await ctx.sleep_for(0)
        return [params, step, event, dict(ctx.headers)]

    with play.worker():
        found = play.spawn("task", ordered, headers=ordered).result(20)
    assert all(list(value) == ["z", "aa", "b"] and list(value["b"]) == ["y", "x"] for value in found)


def test_typed_handlers_get_and_return_their_types(play: Play) -> None:
    @play.task()
    async def task(params: Order, ctx: Any) -> Order:
        assert isinstance(params, Order)
        assert isinstance(params.address, Address)
        play.seen.append(params)
        await ctx.sleep_for(0)
        return params

    found = play.run("task", ORDER)
    assert same(found, ORDER)
    assert play.seen == [ORDER, ORDER]


def test_annotations_of_step_functions_are_their_types(play: Play) -> None:
    def make() -> Address:
        return Address("Main", 5)

    @play.task()
    async def task(params: Any, ctx: Any) -> str:
        address = await ctx.step("address", make)
        await ctx.sleep_for(0)
        return f"{type(address).__name__} {address.zip}"

    assert play.run() == "Address 5"


def test_a_result_that_does_not_fit_its_declared_type_fails_at_the_step(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> None:
        await ctx.step("wrong", lambda: {"street": 5, "zip": "x"}, result_type=Address)

    with pytest.raises(TaskFailedError, match='ValidationError: result of step "wrong" does not fit Address'):
        play.run()


def test_children_return_their_declared_types(play: Play) -> None:
    @play.task("child")
    async def child(params: Any, ctx: Any) -> Address:
        return Address("Main", params)

    @play.task()
    async def task(params: Any, ctx: Any) -> list[Any]:
        one = await ctx.await_task(await ctx.spawn("child", 1))
        both = await ctx.gather(*(await ctx.spawn_many("child", [2, 3])))
        return [type(one).__name__, one.zip, *(found.zip for found in both)]

    assert play.run() == ["Address", 1, 2, 3]


def test_deterministic_helpers_give_the_same_on_every_replay(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> None:
        values = [await ctx.now(), await ctx.random(), await ctx.uuid4(), await ctx.now(), await ctx.random(), await ctx.uuid4()]
        play.seen.append(values)
        await ctx.sleep_for(0)

    play.run()
    first, second = play.seen
    assert same(first, second)
    assert [type(value) for value in first[:3]] == [datetime, float, UUID]
    assert first[0].tzinfo is not None
    assert first[1] != first[4]
    assert first[2] != first[5]
