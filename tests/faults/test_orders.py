# ruff: noqa: E501  (SQL and tables are read better in long lines)
"""Operations of the library beside each other, over real connections, in all orders that their statements can take.

After each order no rule of the schema is broken, nobody has met a deadlock, and what came of it (each answer, and the state of every
task, event and key) could have come of the same operations one after the other. Whoever passes over what is locked, or is told to begin again,
may have come to nothing.

A failure prints the operations and the order; ``test_one_order`` goes through it again:
``ORDER="complete | cancel T: 0110" pytest tests/faults/test_orders.py -k one_order`` (with "(gates)" behind it if it was printed so,
and with "any" for all orders with one change).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from tests.faults.orders.check import Checker
from tests.faults.orders.gates import install
from tests.faults.orders.operations import OPERATIONS, TRIPLES, pairs, undone
from tests.faults.orders.scene import Scene
from tests.faults.orders.scheduler import Scheduler
from tests.faults.report import Promise, record
from tests.sql.calls import Connection

FAULT = "operations in all orders"
PROMISES: tuple[Promise, ...] = ("one end", "events once", "fence", "recovery")
TASKS = 9  # of the scene

# Those in which one side changes what the other is just deciding on.
CLOSE_PAIRS = (
    ("wait", "emit"), ("wait", "emit in repeatable read"), ("await_event", "emit with key"), ("look", "emit"), ("emit", "promote"),
    ("emit", "cancel W"), ("emit", "subscribe"), ("emit", "unsubscribe"), ("emit with key", "purge"), ("emit in task", "promote"),
    ("complete", "cancel T"), ("complete", "cancel P"), ("complete", "expire lease"), ("complete", "watch T"), ("fail", "cancel T"),
    ("fail for good", "cancel P"), ("extend", "expire lease"), ("release", "forget"), ("verify", "checkpoint"),
    ("use token of V", "use token of V again"), ("use token of V", "promote"), ("wait for token", "use token of T"),
    ("spawn with key", "spawn batch with keys"), ("spawn with old key", "clean up tasks"), ("retry F", "clean up tasks"),
    ("spawn in task", "drop queue"), ("cancel T", "drop queue"), ("complete", "drop queue"), ("watch T", "drop queue"),
    ("spawn in repeatable read", "drop queue"), ("emit in repeatable read", "drop queue"), ("batch", "cancel P"),
    ("fire", "fire"), ("fire", "change schedule"), ("fire", "drop queue"),
)  # fmt: skip
# Of these all orders in which one stands between two statements of its function, in the short form.
INSIDE_PAIRS = (
    ("wait", "emit"), ("emit", "promote"), ("complete", "cancel T"), ("use token of V", "promote"),
)  # fmt: skip


@pytest.fixture
def checker(database_url: str, conn: Connection) -> Iterator[Checker]:
    """The scene, and three connections whose orders are decided."""
    install(conn)
    scene = Scene(conn)
    scheduler = Scheduler(database_url)
    yield Checker(scene, scheduler)
    scheduler.close()


def _check(checker: Checker, groups: Sequence[Sequence[str]], *, changes: int | None = None, gates: bool = False) -> None:
    for names in groups:
        checker.check([OPERATIONS[name] for name in names], changes=changes, gates=gates)
    orders = checker.tally.orders
    record(FAULT, PROMISES, runs=orders, injected=orders, tasks=orders * TASKS)


def _some(groups: Sequence[Sequence[str]], parts: int) -> Sequence[Sequence[str]]:
    """One in so many, for the time; with ``ORDERS=all`` all of them."""
    return groups if os.environ.get("ORDERS") == "all" else groups[::parts]


def test_close_pairs_come_to_the_same_in_every_order_as_one_after_the_other(checker: Checker) -> None:
    _check(checker, CLOSE_PAIRS)


@pytest.mark.short
def test_close_pairs_do_so_between_the_statements_of_their_functions(checker: Checker) -> None:
    _check(checker, INSIDE_PAIRS, changes=1, gates=True)


@pytest.mark.parametrize(
    "names",
    [
        ("wait", "emit"),
        ("complete", "cancel T"),
        ("spawn with key", "spawn batch with keys"),
        ("use token of V", "use token of V again"),
    ],
)
def test_what_is_rolled_back_has_not_happened(checker: Checker, names: tuple[str, str]) -> None:
    first, second = (OPERATIONS[name] for name in names)
    for group in ([undone(first), second], [first, undone(second)]):
        checker.check(group)


@pytest.mark.short
def test_three_at_once_come_to_what_a_sequence_comes_to(checker: Checker) -> None:
    _check(checker, TRIPLES[:1], changes=1)


@pytest.mark.full
def test_pairs_come_to_the_same_in_every_order(checker: Checker) -> None:
    chosen = [
        names
        for names in pairs()
        if not all(OPERATIONS[name].holder for name in names) and names not in CLOSE_PAIRS and names[::-1] not in CLOSE_PAIRS
    ]
    _check(checker, _some(chosen, 8))


@pytest.mark.full
def test_triples_come_to_what_a_sequence_comes_to(checker: Checker) -> None:
    _check(checker, _some(TRIPLES, 2), changes=2)


@pytest.mark.full
def test_many_close_pairs_do_so_between_the_statements_of_their_functions(checker: Checker) -> None:
    others = [names for names in CLOSE_PAIRS if names not in INSIDE_PAIRS]
    _check(checker, [*INSIDE_PAIRS, *_some(others, 2)], changes=1, gates=True)


@pytest.mark.skipif("'ORDER' not in os.environ", reason="ORDER names the order of a failure to go through again")
def test_one_order(checker: Checker) -> None:
    names, _, order = os.environ["ORDER"].partition(": ")
    digits, gates = order.split()[0], "(gates)" in order
    operations = [OPERATIONS[name] for name in names.split(" | ")]
    if digits == "any":
        checker.check(operations, changes=1, gates=gates)
    else:
        checker.replay(operations, list(map(int, digits)), gates=gates)
