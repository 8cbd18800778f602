"""The answer to a write, as threads of a sync handler wait for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from absurd.context.sync_shell import Answer
from absurd.errors import RunLost
from absurd.writes import OK, WriteResult


def test_every_thread_that_waits_gets_the_answer() -> None:
    answer = Answer()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(answer.result) for _ in range(4)]
        assert not answer.done()
        answer.set_result(OK)
        assert [future.result(timeout=5) for future in waiting] == [OK] * 4
    assert answer.done()


def test_an_answer_that_is_there_is_returned_at_once_and_again() -> None:
    answer = Answer()
    answer.set_result(WriteResult("cancelled"))
    assert answer.result() == answer.result() == WriteResult("cancelled")


def test_an_error_raises_in_every_thread_that_waits() -> None:
    answer = Answer()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(answer.result) for _ in range(2)]
        answer.set_exception(RunLost("the worker has stopped"))
        for future in waiting:
            with pytest.raises(RunLost, match="has stopped"):
                future.result(timeout=5)
    assert answer.done()
