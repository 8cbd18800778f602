"""The pytest plugin, in test runs of their own: fixtures, what a failure looks like, pytest-xdist, and no cost for others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from absurd.testing.server import SERVER_VARIABLE

pytest_plugins = ["pytester"]

TASKS = """
from absurd import Absurd

app = Absurd("postgresql://nobody@127.0.0.1:1/production", "shop")

@app.register_task("order", max_attempts=1)
def order(params, ctx):
    ctx.step("reserve", lambda: None)
    return charge(params["amount"])

def charge(amount):
    if amount < 0:
        raise ValueError("a negative amount")
    return amount
"""


@pytest.fixture
def project(pytester: pytest.Pytester, server_url: str, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with tasks, whose tests use the server of the suite."""
    monkeypatch.setenv(SERVER_VARIABLE, server_url)
    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
    pytester.makepyfile(shop=TASKS)
    pytester.makeini("[pytest]\npythonpath = .\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio", *arguments)


def test_fixtures_are_there_without_an_import(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import psycopg
        from shop import app, order

        def test_url_is_of_a_clean_database(absurd_database_url):
            with psycopg.connect(absurd_database_url) as conn:
                assert conn.execute("select count(*) from absurd.tasks").fetchone() == (0,)

        def test_application_is_bound(absurd_test):
            t = absurd_test(app)
            task = app.spawn(order, {"amount": 5})
            t.drain()
            assert task.result() == 5

        def test_nothing_is_left_of_the_test_before(absurd_test):
            t = absurd_test(app)
            assert t.tasks() == []
        """
    )
    run(project).assert_outcomes(passed=3)


def test_failures_show_the_line_of_the_test_and_that_of_the_handler(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from shop import app, order

        def test_raises(absurd_test):
            t = absurd_test(app)
            app.spawn(order, {"amount": -1})
            t.drain()

        def test_asserts(absurd_test):
            t = absurd_test(app)
            app.spawn(order, {"amount": 5})
            t.assert_spawned("order", {"amount": 6})
        """
    )
    result = run(project)
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    assert re.search(r">\s+t\.drain\(\)", text)
    assert re.search(r'>\s+raise ValueError\("a negative amount"\)', text)
    assert re.search(r"E +absurd\.testing\.failures\.TaskErrors: a task has raised an error:", text)
    assert re.search(r'>\s+t\.assert_spawned\("order", \{"amount": 6\}\)', text)
    assert re.search(r"E +- \{'amount': 6\}\nE +\+ \{'amount': 5\}", text)
    # The library's own lines are of no use to the reader of an assertion.
    assert not re.search(r"absurd/(testing|worker)/\w+\.py:", text)


def test_several_processes_share_a_server_and_have_databases_of_their_own(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from shop import app, order

        @pytest.mark.parametrize("number", range(12))
        def test_alone(number, absurd_test):
            t = absurd_test(app)
            task = app.spawn(order, {"amount": number})
            t.drain()
            t.assert_spawned(order, count=1)
            t.assert_completed(task, number)
        """
    )
    run(project, "-n", "2").assert_outcomes(passed=12)


def test_databases_hold_what_the_application_adds(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import psycopg, pytest

        @pytest.fixture(scope="session")
        def absurd_prepare_database():
            def prepare(url):
                with psycopg.connect(url) as conn:
                    conn.execute("create table orders (id integer)")
            return prepare
        """
    )
    project.makepyfile(
        """
        import psycopg, pytest

        @pytest.mark.parametrize("number", range(3))
        def test_own_table(number, absurd_database_url):
            with psycopg.connect(absurd_database_url) as conn:
                assert conn.execute("select count(*) from orders").fetchone() == (0,)
                conn.execute("insert into orders values (1)")
        """
    )
    run(project).assert_outcomes(passed=3)


def test_throw_away_server_is_gone_after_the_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
    pytester.makepyfile(
        """
        import re

        def test_server_is_a_private_one(absurd_database_url):
            directory = re.search(r"(/tmp/absurd-testing-\\w+)/", absurd_database_url)[1]
            open("directory", "a").write(directory + "\\n")

        def test_and_the_same_for_all_processes(absurd_database_url):
            test_server_is_a_private_one(absurd_database_url)
        """
    )
    run(pytester, "-n", "2").assert_outcomes(passed=2)
    directories = {Path(line) for line in (pytester.path / "directory").read_text().splitlines()}
    assert len(directories) == 1
    assert not any(directory.exists() for directory in directories)


def test_unittest_needs_no_plugin(project: pytest.Pytester) -> None:
    project.makepyfile(
        unit="""
        import unittest
        from absurd import testing
        from shop import app, order

        class OrderTest(unittest.TestCase):
            def setUp(self):
                self.t = self.enterContext(testing.run(app))

            def test_order(self):
                task = app.spawn(order, {"amount": 1})
                self.t.drain()
                self.t.assert_completed(task, 1)

        unittest.main()
        """
    )
    result = project.runpython("unit.py")
    assert result.ret == 0, result.stderr.str()


def test_plugin_imports_nothing_before_it_is_used() -> None:
    program = (
        "import pytest, sys, absurd.testing.plugin; print(*sorted(m for m in sys.modules if m.partition('.')[0] in {heavy}))"
    )
    heavy = {"absurd", "psycopg", "pydantic", "orjson", "asyncio"}
    done = subprocess.run(
        [sys.executable, "-c", program.format(heavy=heavy - {"asyncio"})], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["absurd", "absurd.testing", "absurd.testing.plugin"]
