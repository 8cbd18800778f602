"""export-task and check-replay: what a person does before new code is deployed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from absurd import Absurd, Context
from absurd.testing.history import export_task, load_history
from absurd.testing.replaying import assert_replays, replay
from tests.cli import absurdctl, invoke, refused, write_app
from tests.support_roles import logins

NEW_CODE = """
    from __future__ import annotations

    from absurd import Absurd

    app = Absurd()


    def never():
        raise AssertionError("a step was run")


    @app.register_task("order")
    def order(params, ctx):
        print("noise of the application")
        ctx.step("reserve", never)
        ctx.step("%s", never)
        return ctx.await_event("paid", timeout=3600)


    @app.register_task("add")
    def add(params, ctx):
        return ctx.step("adding", never)
"""


def order(params: Any, ctx: Context) -> Any:
    ctx.step("reserve", lambda: {"z": 12345678901234567890, "card": "visa-4111", "a": [{"card": {"number": 1}}, 0.1]})
    ctx.step("charge", lambda: "done")
    return ctx.await_event("paid", timeout=3600)


@pytest.fixture
def app(database_url: str) -> Any:
    """An app with tasks that sleep, have ended, and have failed."""
    app = Absurd(database_url)
    app.register_task("order")(order)

    @app.register_task("add")
    def add(params: Any, ctx: Context) -> Any:
        return ctx.step("adding", lambda: 3)

    yield app
    app.close()


@pytest.fixture
def asleep(app: Absurd) -> UUID:
    """An order that waits for its payment, beside a task that has ended."""
    task = app.spawn("order", {"id": 1, "card": "visa-4111"}, headers={"who": "me"})
    app.spawn("add", {})
    app.run_worker_once()
    return task.task_id


def test_an_exported_task_is_one_document_with_all_that_it_has_done(app: Absurd, asleep: UUID, database_url: str) -> None:
    found = invoke("export-task", str(asleep), database=database_url).json()
    assert (found["format"], found["version"]) == ("absurd-history", 1)
    assert (found["task_name"], found["queue_name"], found["state"]) == ("order", "default", "sleeping")
    assert found["params"] == {"id": 1, "card": "visa-4111"}
    assert found["headers"]["who"] == "me"
    assert [(p["step_name"], p["position"], p["kind"]) for p in found["checkpoints"]] == [
        ("reserve", 0, "step"),
        ("charge", 1, "step"),
    ]
    # Large integers exactly, keys in their order.
    assert json.dumps(found["checkpoints"][0]["state"]) == (
        '{"z": 12345678901234567890, "card": "visa-4111", "a": [{"card": {"number": 1}}, 0.1]}'
    )
    assert found["waits"][0]["step_name"] == "$await:paid"
    assert {"schema_version", "library_version", "exported_at", "options", "attempts", "result"} <= set(found)
    assert_replays(app, found)


def test_values_of_redacted_keys_are_nowhere_in_the_document(asleep: UUID, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    done = invoke("export-task", str(asleep), "--output", str(file), "--redact", "card,who", database=database_url)
    assert str(file) in done.out
    assert "visa-4111" not in file.read_text()
    found = load_history(file)
    assert found.params == {"id": 1, "card": "***"}
    assert found.headers["who"] == "***"
    assert found.checkpoints[0].state == {"z": 12345678901234567890, "card": "***", "a": [{"card": "***"}, 0.1]}


def test_a_list_of_redacted_keys_that_is_empty_is_refused(asleep: UUID, database_url: str) -> None:
    assert "names no key" in invoke("export-task", str(asleep), "--redact", "", database=database_url, code=2).err


def test_a_place_where_nothing_can_be_written_is_told(asleep: UUID, database_url: str) -> None:
    told = invoke("export-task", str(asleep), "--output-dir", "/proc/nope", database=database_url, code=1).err
    assert "cannot write /proc/nope" in told
    assert "--output-dir" in told
    told = invoke("export-task", str(asleep), "--output", "/proc/nope", database=database_url, code=1).err
    assert "cannot write /proc/nope" in told


@pytest.mark.parametrize(
    "option", ["--name=order", "--state=sleeping", "--queue=default", "--limit=5", "--older-than=1h", "--newer-than=1h"]
)
def test_what_chooses_among_tasks_of_the_database_is_refused_beside_files(option: str, database_url: str, tmp_path: Path) -> None:
    told = invoke("check-replay", str(tmp_path), option, "--app", "nowhere:app", database=database_url, code=2).err
    assert option.partition("=")[0] in told
    assert "tasks of the database" in told


def test_a_history_of_more_than_a_thousand_steps_is_exported_whole(app: Absurd, database_url: str) -> None:
    @app.register_task("long")
    def long(params: Any, ctx: Context) -> None:
        raise AssertionError("only spawned here")

    def replayed(params: Any, ctx: Context) -> int:
        return sum(ctx.step("small", lambda: -1) for _ in range(2500))

    task_id = app.spawn("long").task_id
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            """insert into absurd.checkpoints (task_id, step_name, position, state, completed_at)
            select %s, case n when 0 then 'small' else 'small#' || n + 1 end, n, to_json(n), now()
            from generate_series(0, 2499) n""",
            [task_id],
        )
        document = export_task(conn, task_id)
    assert len(document["checkpoints"]) == 2500
    assert replay(replayed, {**document, "state": "completed", "result": sum(range(2500))}).ok


def test_exporting_changes_nothing_and_the_role_of_a_reader_is_enough(
    asleep: UUID, database_url: str, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    # More than show_task gives: the rest of a long history is read by another function.
    conn.execute(
        "insert into absurd.checkpoints (task_id, step_name, position, state, completed_at) "
        "select %s, 'more' || n, n, 'null', now() from generate_series(2, 1500) n",
        [asleep],
    )
    with logins(conn) as urls:
        with psycopg.connect(urls["reader"]) as reader:
            reader.read_only = True
            assert len(export_task(reader, asleep)["checkpoints"]) == 1501
        done = invoke("export-task", "--output-dir", str(tmp_path), database=urls["reader"])
        assert "Exported 1 task(s)" in done.out


def test_many_tasks_are_exported_into_a_directory(asleep: UUID, app: Absurd, database_url: str, tmp_path: Path) -> None:
    for number in range(3):
        app.spawn("add", {"n": number})
    target = tmp_path / "histories"
    invoke("export-task", "--output-dir", str(target), "--limit", "2", database=database_url)
    names = sorted(load_history(file).task_name for file in target.iterdir())
    assert names == ["add", "add", "order"]
    one = tmp_path / "one"
    invoke("export-task", "--name", "add", "--state", "completed", "--output-dir", str(one), database=database_url)
    assert [load_history(file).state for file in one.iterdir()] == ["completed"]


def test_the_same_code_passes_and_changed_code_is_told_from_it(asleep: UUID, database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path, NEW_CODE % "charge")
    invoke("export-task", "--output-dir", str(tmp_path / "histories"), database=database_url)
    good = absurdctl("check-replay", "--app", "shop:app", "histories", cwd=tmp_path)
    assert "1 checked, all go on" in good.out
    assert "noise" not in good.out
    write_app(tmp_path, NEW_CODE % "bill", "newer")
    bad = absurdctl("check-replay", "--app", "newer:app", "histories", cwd=tmp_path, code=1)
    assert 'step "bill" is new where step "charge" was recorded, as if that had been renamed' in bad.out
    assert '1 step "charge" ' in bad.out
    assert "Keep the old name" in bad.out
    assert "Traceback" not in bad.err
    (row,) = absurdctl("check-replay", "--app", "newer:app", "histories", "--json", cwd=tmp_path, code=1).json()
    assert (row["ok"], row["kind"], row["step_name"], row["task_id"]) == (False, "renamed", "bill", str(asleep))


def test_unfinished_tasks_of_the_database_are_checked_directly(asleep: UUID, database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path, NEW_CODE % "charge")
    checked = absurdctl("check-replay", "--app", "shop:app", "--from-database", "--json", database=database_url, cwd=tmp_path)
    assert [(row["task_name"], row["state"], row["ok"]) for row in checked.json()] == [("order", "sleeping", True)]
    options = ("--from-database", "--name", "add", "--state", "completed")
    checked = absurdctl("check-replay", "--app", "shop:app", *options, database=database_url, cwd=tmp_path)
    assert "1 checked, all go on" in checked.out
    none = absurdctl("check-replay", "--app", "shop:app", *options[:3], database=database_url, cwd=tmp_path)
    assert none.out.strip() == "No tasks to check."
    mistyped = ("check-replay", "--app", "shop:app", "--from-database", "--name", "ordre")
    assert "neither the application nor the database has a task 'ordre'" in refused(
        *mistyped, database=database_url, code=2, cwd=tmp_path
    )


def test_misuse_has_a_status_of_its_own(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path, NEW_CODE % "charge")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    check = ("check-replay", "--app", "shop:app")
    assert "--from-database" in refused(*check, code=2, cwd=tmp_path)
    assert "holds no histories" in refused(*check, "empty", code=2, cwd=tmp_path)
    assert "is no JSON" in refused(*check, "broken.json", code=2, cwd=tmp_path)
    assert "No such file" in refused(*check, "missing.json", code=2, cwd=tmp_path)
    assert "no module" in refused("check-replay", "--app", "nowhere:app", "broken.json", code=2, cwd=tmp_path)
    assert "several tasks need a directory" in refused("export-task", database=database_url, code=2)
    assert "there is no task" in refused("export-task", str(uuid4()), database=database_url)
