"""The search of tasks: right for every filter and all of them together, page by page, and bounded."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest

from tests.sql.calls import (
    NOON,
    QUEUE,
    Connection,
    Row,
    await_event,
    claim,
    claim_all,
    complete,
    emit,
    fail,
    row,
    rows,
    set_checkpoint,
    set_clock,
    spawn,
    spawn_and_claim,
    sqlstate,
    value,
)
from tests.sql.test_inspect import STATES, one_of_each

Page = dict[str, Any]


def find(conn: Connection, **filters: Any) -> Page:
    arguments = ", ".join(f"p_{name} => %s" for name in filters)
    found: Page = value(conn, f"select absurd.find_tasks({arguments})", *filters.values())
    return found


def ids(page: Page) -> list[UUID]:
    return [UUID(task["task_id"]) for task in page["tasks"]]


def found(conn: Connection, **filters: Any) -> list[UUID]:
    """All that a search finds, by pages of two, which must be what one page holds."""
    whole = find(conn, **filters)
    assert whole["next"] is None
    paged: list[UUID] = []
    place = None
    while True:
        page = find(conn, **filters, after=place, limit=2)
        paged += ids(page)
        assert len(page["tasks"]) == 2 or page["next"] is None
        place = page["next"]
        if place is None:
            break
    assert paged == ids(whole)
    return paged


@pytest.fixture
def large_runs(conn: Connection) -> None:
    """Every look at the living goes by indexes, as in a large table."""
    text = value(conn, "select pg_get_functiondef('absurd.live_ids'::regproc)")
    assert "33554432" in text
    conn.execute(text.replace("33554432", "0").encode())


@pytest.mark.parametrize("large", [False, True])
def test_every_combination_of_queue_name_and_state_finds_its_tasks(
    conn: Connection, large: bool, request: pytest.FixtureRequest
) -> None:
    if large:
        request.getfixturevalue("large_runs")
    value(conn, "select absurd.create_queue('other')")
    every = [(queue, name, task) for queue in (QUEUE, "other", QUEUE) for name, task in one_of_each(conn, queue).items()]
    # claim_task() of another client may hold a run without a lease, which no index knows.
    conn.execute("update absurd.runs set lease_expires_at = now() + interval '1 day' where state = 'running'")
    for queue in (None, QUEUE, "other", "nowhere"):
        for state in (None, *STATES):
            for name in (None, "failed task", "no task"):
                wanted = {
                    task
                    for of, its_state, task in every
                    if queue in (None, of) and state in (None, its_state) and name in (None, f"{its_state} task")
                }
                got = found(conn, queue_name=queue, state=state, task_name=name)
                assert set(got) == wanted, (queue, state, name)
                if state not in ("failed", "cancelled"):
                    assert got == sorted(got, reverse=True)
    assert found(conn, state="failed") == [task for _, name, task in reversed(every) if name == "failed"]


def test_a_sleeper_without_a_time_is_found_in_a_large_table(conn: Connection, large_runs: None) -> None:
    task = spawn_and_claim(conn)
    await_event(conn, task, "paid")
    spawn(conn)
    assert found(conn, state="sleeping") == [task["task_id"]]
    assert find(conn, state="sleeping")["tasks"][0]["waits_for"] == 'event "paid"'


def test_a_name_may_be_given_by_its_beginning(conn: Connection) -> None:
    value(conn, "select absurd.create_queue('other')")
    made = [spawn(conn, name)["task_id"] for name in ("mail", "mail.send", "mail%", "MAIL", "ship")]
    made.append(spawn(conn, "mail.send", queue="other")["task_id"])
    assert found(conn, task_name="mail", prefix=True) == [made[5], made[2], made[1], made[0]]
    assert found(conn, task_name="mail", prefix=True, queue_name=QUEUE) == [made[2], made[1], made[0]]
    assert found(conn, task_name="mail") == [made[0]]
    assert found(conn, task_name="mail%", prefix=True) == [made[2]]
    assert found(conn, task_name="mail", prefix=True, state="pending") == [made[5], made[2], made[1], made[0]]


def test_more_names_than_are_merged_are_searched_all_the_same(conn: Connection) -> None:
    for number in range(1005):
        spawn(conn, f"name {number}")
    assert len(find(conn, queue_name=QUEUE, limit=1000)["tasks"]) == 1000
    assert len(found_by_pages(conn, queue_name=QUEUE)) == 1005
    assert len(find(conn, task_name="name 100", prefix=True)["tasks"]) == 6


def found_by_pages(conn: Connection, **filters: Any) -> list[UUID]:
    page = find(conn, **filters)
    tasks = ids(page)
    while page["next"] is not None:
        page = find(conn, **filters, after=page["next"])
        tasks += ids(page)
    assert len(set(tasks)) == len(tasks)
    return tasks


def test_an_id_is_found_by_its_beginning(conn: Connection) -> None:
    made = sorted((spawn(conn)["task_id"] for _ in range(3)), reverse=True)
    one = str(made[1])
    assert found(conn, task_id=one) == found(conn, task_id=one.upper()) == found(conn, task_id=one.replace("-", "")) == [made[1]]
    assert found(conn, task_id=one[:-1]) == [made[1]]
    assert found(conn, task_id=one[:8]) == [task for task in made if str(task).startswith(one[:8])]
    assert found(conn, task_id="ffff") == []
    assert found(conn, task_id=one, state="failed") == []
    for wrong in ("xyz", "", one + "0"):
        code, message = sqlstate(conn, "select absurd.find_tasks(p_task_id => %s)", wrong)
        assert (code, "task_id" in message) == ("AB012", True)


def test_a_task_is_found_by_its_idempotency_key(conn: Connection) -> None:
    value(conn, "select absurd.create_queue('other')")
    made = [spawn(conn, options={"idempotency_key": "order-7"}, queue=queue)["task_id"] for queue in (QUEUE, "other")]
    spawn(conn, options={"idempotency_key": "order-77"})
    assert found(conn, idempotency_key="order-7") == made[::-1]
    assert found(conn, idempotency_key="order-7", queue_name="other") == [made[1]]
    assert found(conn, idempotency_key="order-7", state="completed") == []
    assert find(conn, idempotency_key="order-7")["tasks"][0]["idempotency_key"] == "order-7"


def test_tasks_are_found_by_the_time_of_their_spawn(conn: Connection) -> None:
    first, second = spawn(conn)["task_id"], spawn(conn, "other")["task_id"]
    at = value(conn, "select spawned_at from absurd.tasks where task_id = %s", second)
    for state in (None, "pending"):
        assert found(conn, spawned_from=at, state=state) == [second]
        assert found(conn, spawned_to=at, state=state) == [first]
        assert found(conn, spawned_from=at - timedelta(hours=2), spawned_to=at - timedelta(hours=1), state=state) == []
        assert found(conn, spawned_from=at - timedelta(days=1), state=state, queue_name=QUEUE) == [second, first]
    for moment in ("4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59+00"):
        for state in ("pending", "failed"):
            value(
                conn, "select absurd.find_tasks(p_spawned_from => %s, p_spawned_to => %s, p_state => %s)", moment, moment, state
            )
            value(conn, "select absurd.find_tasks(p_spawned_from => %s, p_state => %s)", moment, state)
    far = datetime(9999, 12, 31, tzinfo=UTC)
    assert found(conn, spawned_to=far) == [second, first]
    assert found(conn, spawned_from=far) == []
    assert ids(value(conn, "select absurd.find_tasks(p_spawned_from => '-infinity', p_spawned_to => 'infinity')")) == [
        second,
        first,
    ]


def test_text_is_found_in_params_and_failures(conn: Connection) -> None:
    mailed = spawn(conn, params={"to": "Ann@Example.com", "name": 'the "big" one\n'})["task_id"]
    run = claim(conn)
    fail(conn, run, {"name": "ValueError", "message": "no such Köln"})
    other = spawn(conn, params={"to": "bob@example.org"})["task_id"]
    assert found(conn, text="EXAMPLE") == [other, mailed]
    assert found(conn, text="ann@example.com") == [mailed]
    assert found(conn, text="ValueError") == found(conn, text="no such Köln") == [mailed]
    assert found(conn, text='the "big" one\n') == [mailed]
    assert found(conn, text="example", task_name="work", queue_name=QUEUE) == [other, mailed]
    assert found(conn, text="%") == []
    assert found(conn, text="ValueError", state="completed") == []


def test_a_search_ends_in_time_says_how_far_it_looked_and_goes_on(conn: Connection) -> None:
    wanted = spawn(conn, params={"needle": 1})["task_id"]
    for _ in range(40):
        spawn(conn, params={})
    page = find(conn, text="needle", limit=1, search_limit=10)
    assert (page["tasks"], page["searched"] >= 10, page["next"] is not None) == ([], True, True)
    assert page["searched"] < 41
    looked = page["searched"]
    while page["next"] is not None:
        page = find(conn, text="needle", limit=1, search_limit=10, after=page["next"])
        looked += page["searched"]
    assert (ids(page), looked) == ([wanted], 41)


def test_what_was_spawned_between_two_pages_is_on_neither(conn: Connection) -> None:
    made = [spawn(conn)["task_id"] for _ in range(4)]
    page = find(conn, limit=2)
    spawn(conn)
    assert [*ids(page), *ids(find(conn, limit=2, after=page["next"]))] == made[::-1]


def test_a_place_outlives_the_retry_of_its_task(conn: Connection) -> None:
    made = []
    for _ in range(5):
        run = spawn_and_claim(conn, {"max_attempts": 1})
        fail(conn, run)
        made.append(run["task_id"])
    page = find(conn, state="failed", limit=2)
    rows(conn, "select absurd.retry_task(%s, %s)", QUEUE, made[3])
    assert ids(find(conn, state="failed", limit=3, after=page["next"])) == made[2::-1]


def test_tasks_that_ended_at_the_same_moment_are_each_on_one_page(conn: Connection) -> None:
    set_clock(conn, NOON)
    made = []
    for _ in range(5):
        run = spawn_and_claim(conn, {"max_attempts": 1})
        fail(conn, run)
        made.append(run["task_id"])
    assert found(conn, state="failed") == sorted(made, reverse=True)


@pytest.mark.parametrize("place", ["x", "0/0", "ffffffff-ffff-ffff-ffff-fffffffffffff", "1/ffffffff-ffff-ffff-ffff-------------"])
@pytest.mark.parametrize("state", ["pending", "failed"])
def test_a_place_that_is_none_is_refused(conn: Connection, state: str, place: str) -> None:
    code, message = sqlstate(conn, "select absurd.find_tasks(p_state => %s, p_after => %s)", state, place)
    assert (code, "after" in message) == ("AB012", True)


def test_an_unknown_state_is_refused_by_name(conn: Connection) -> None:
    code, message = sqlstate(conn, "select absurd.find_tasks(p_state => 'done')")
    assert (code, '"done"' in message) == ("AB012", True)


def test_a_row_says_what_failed_and_keeps_what_text_cannot_hold(conn: Connection) -> None:
    run = spawn_and_claim(conn, {"max_attempts": 1})
    fail(conn, run, {"name": "ValueError", "message": "broken"})
    (task,) = find(conn)["tasks"]
    failure = {"name": "ValueError", "message": "broken"}
    assert (task["state"], task["attempt"], json.loads(task["failure"])) == ("failed", 1, failure)
    conn.execute("""update absurd.attempts set failure = '{"message": "\\u0000"}'""")
    conn.execute("""update absurd.tasks set params = '"\\u0000"'""")
    assert find(conn, text="work")["tasks"] == []
    assert json.loads(find(conn)["tasks"][0]["failure"]) == {"message": "\0"}


def test_names_are_offered_unless_they_are_too_many(conn: Connection) -> None:
    value(conn, "select absurd.create_queue('other')")
    for name, queue in (("b", QUEUE), ("a", QUEUE), ("b", "other"), ("c", "other")):
        spawn(conn, name, queue=queue)
    assert value(conn, "select absurd.known_task_names()") == ["a", "b", "c"]
    assert value(conn, "select absurd.known_task_names('other')") == ["b", "c"]
    rows(conn, "select absurd.spawn_task('other', n::text, '{}') from generate_series(1, 1000) as n")
    assert value(conn, "select absurd.known_task_names()") == []


def test_all_filters_together_agree_with_each_alone(conn: Connection) -> None:
    """Pairs of filters find what both find."""
    value(conn, "select absurd.create_queue('other')")
    for queue in (QUEUE, "other"):
        one_of_each(conn, queue)
        spawn(conn, "mail", params={"to": "ann"}, options={"idempotency_key": "k"}, queue=queue)
    middle = find(conn)["tasks"][6]
    filters: dict[str, Any] = {
        "queue_name": "other",
        "task_name": "mail",
        "state": "pending",
        "spawned_to": middle["spawned_at"],
        "idempotency_key": "k",
        "task_id": middle["task_id"][:8],
        "text": "ann",
    }
    alone = {name: set(found(conn, **{name: given})) for name, given in filters.items()}
    for one, other in combinations(filters, 2):
        both = found(conn, **{one: filters[one], other: filters[other]})
        assert set(both) == alone[one] & alone[other], (one, other)


CHEAP: tuple[dict[str, Any], ...] = (
    {},
    {"queue_name": QUEUE},
    {"task_name": "task 7"},
    {"task_name": "task 1", "prefix": True},
    {"queue_name": QUEUE, "task_name": "task 7"},
    *({"state": state} for state in STATES),
    {"state": "failed", "queue_name": QUEUE},
    {"idempotency_key": "key 700"},
    {"spawned_from": datetime(2020, 1, 1, tzinfo=UTC)},
    {"spawned_to": datetime(2020, 1, 1, tzinfo=UTC)},
)
END_SOME = """
    with ended as (
      delete from absurd.runs where run_id in (select run_id from absurd.runs order by task_id desc limit 40) returning *),
    history as (
      insert into absurd.attempts (run_id, task_id, queue_name, attempt, epoch, ended_at, cause, failure, final)
      select run_id, task_id, queue_name, 1, 1, now(), case %(end)s when 'failed' then 'error' else 'cancel' end, '1', true
      from ended where %(end)s <> 'completed')
    update absurd.tasks t set outcome = %(end)s, run_id = e.run_id, finished_at = now()
    from ended e where t.task_id = e.task_id"""


def test_a_page_reads_about_as_many_rows_as_it_shows(conn: Connection, large_runs: None) -> None:
    rows(
        conn,
        "select absurd.spawn_task('default', 'task ' || n % 20, '{}', jsonb_build_object('idempotency_key', 'key ' || n))"
        " from generate_series(1, 1200) as n",
    )
    for end in ("completed", "failed", "cancelled"):
        conn.execute(END_SOME.encode(), {"end": end})
    conn.execute("vacuum analyze")
    # What this session has read and not yet reported.
    counts = (
        "select coalesce(sum(seq_scan), 0) as scans, coalesce(sum(seq_tup_read + idx_tup_fetch), 0) as rows"
        " from pg_stat_xact_user_tables where relname in ('tasks', 'attempts', 'idempotency_keys')"
    )
    for filters in CHEAP:
        with conn.transaction():
            before = row(conn, counts)
            find(conn, **filters, limit=10)
            after = row(conn, counts)
        assert after["scans"] == before["scans"], filters
        # 20 names are merged; each task that is shown is read for the choice, for the filters and for its row.
        assert after["rows"] - before["rows"] <= 400, filters


# -- one task in pieces ----------------------------------------------------------------------------------------------------------


def details(conn: Connection, task_id: UUID, **options: Any) -> Row:
    arguments = "".join(f", p_{name} => %s" for name in options)
    shown: Row = value(conn, f"select absurd.task_details(%s{arguments})", task_id, *options.values())
    return shown


def test_details_come_in_pages_and_large_values_on_demand(conn: Connection) -> None:
    parent = spawn(conn, "parent")["task_id"]
    task = spawn(conn, params={"long": "x" * 9000}, options={"parent_task_id": str(parent), "max_attempts": 9, "priority": 1})[
        "task_id"
    ]
    for number in range(3):
        run = claim(conn)
        assert run["task_id"] == task
        set_checkpoint(conn, run, f"step {number}", {"n": number})
        fail(conn, run, {"message": str(number)})
    for _ in range(3):
        spawn(conn, "child", options={"parent_task_id": str(task)})
    shown = details(conn, task, limit=2)
    assert shown["params"] == {"bytes": 9012}
    assert shown["headers"] is None
    assert (shown["state"], shown["attempt"], shown["max_attempts"]) == ("pending", 4, 9)
    assert ([a["attempt"] for a in shown["attempts"]], shown["attempt_count"]) == ([4, 3], 4)
    assert shown["attempts"][1]["failure"] == {"text": '{"message": "2"}'}
    assert [a["attempt"] for a in details(conn, task, limit=2, before_attempt=3)["attempts"]] == [2, 1]
    assert ([c["step_name"] for c in shown["checkpoints"]], shown["checkpoint_count"]) == (["step 0", "step 1"], 3)
    last = shown["checkpoints"][-1]
    rest = details(conn, task, limit=2, after_position=last["position"], after_step=last["step_name"])
    assert [c["state"] for c in rest["checkpoints"]] == [{"text": '{"n": 2}'}]
    assert [m["step_name"] for m in shown["marks"]] == ["step 0", "step 1", "step 2"]
    assert (len(shown["children"]), shown["child_count"]) == (2, 3)
    after = shown["children"][-1]["task_id"]
    assert len(details(conn, task, limit=2, after_child=after)["children"]) == 1
    assert [p["task_id"] for p in shown["parents"]] == [str(parent)]
    assert details(conn, parent)["children"][0]["has_children"] is True
    assert value(conn, "select absurd.task_value(%s, 'params')", task) == {"long": "x" * 9000}
    assert value(conn, "select absurd.task_value(%s, 'checkpoint', 'step 1')", task) == {"n": 1}
    assert value(conn, "select absurd.task_value(%s, 'failure', null, 2)", task) == {"message": "1"}
    assert sqlstate(conn, "select absurd.task_value(%s, 'secret')", task)[0] == "AB012"
    assert sqlstate(conn, "select absurd.task_value(%s, 'params', p_max_bytes => 9011)", task)[0] == "AB013"
    assert details(conn, UUID(int=0)) is None


def test_a_page_about_a_task_says_what_it_waits_for(conn: Connection) -> None:
    run = spawn_and_claim(conn)
    await_event(conn, run, "paid", step="payment", timeout=60)
    waits = details(conn, run["task_id"])["waits"]
    assert [(w["kind"], w["event_name"], w["step_name"], w["queue_name"]) for w in waits if w["kind"] == "event"] == [
        ("event", "paid", "payment", QUEUE)
    ]
    assert all(w["waiting_since"] and w["until"] for w in waits)
    emit(conn, "paid", {})
    assert details(conn, run["task_id"])["waits"] == []


def test_the_secret_of_a_token_is_not_shown(conn: Connection) -> None:
    run = spawn_and_claim(conn)
    token = row(conn, "select state from absurd.create_token(%s, %s, null, '$token:ok', 0, 'ok')", run["task_id"], run["run_id"])[
        "state"
    ]
    for text in (
        value(conn, "select absurd.task_details(%s)::text", run["task_id"]),
        value(conn, "select absurd.task_value(%s, 'checkpoint', '$token:ok')::text", run["task_id"]),
    ):
        assert token["id"] in text
        assert token["secret"] not in text


def test_a_task_that_ended_keeps_its_last_attempt(conn: Connection) -> None:
    done = spawn_and_claim(conn)
    complete(conn, done, {"ok": 1})
    shown = details(conn, done["task_id"])
    assert ([a["state"] for a in shown["attempts"]], shown["attempt_count"]) == (["completed"], 1)
    assert shown["result"] == {"text": '{"ok": 1}'}
    failed = spawn_and_claim(conn, {"max_attempts": 1})
    fail(conn, failed)
    shown = details(conn, failed["task_id"])
    assert ([a["state"] for a in shown["attempts"]], shown["attempt_count"]) == (["failed"], 1)
    assert claim_all(conn) == []
