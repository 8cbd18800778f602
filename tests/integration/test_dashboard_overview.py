"""The first page of the dashboard: counts, plots, and how exact they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd import Absurd
from tests.support_dashboard import Visitor, greeting, register_worker, row_ids, text_of, visiting


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with greeting(database_url) as made:
        yield made


@pytest.fixture
def visitor(app: Absurd) -> Iterator[Visitor]:
    with visiting(app) as made:
        yield made


def test_overview_counts_what_lives_and_plots_what_ended(app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]) -> None:
    app.create_queue("mail")
    for _ in range(3):
        app.spawn("greet", {})
    app.spawn("greet", {"fail": "the mailbox is full"})
    app.spawn("greet", {"event": "never"})
    app.spawn("greet", {"sleep": 3600})
    app.cancel_task(app.spawn("greet", {}).task_id)
    app.run_worker_once()
    app.spawn("greet", {}, queue="mail")
    app.spawn("greet", {}, queue="mail", delay=60)
    app.pause_queue("mail")
    register_worker(conn, "web-1", "default", "mail")
    app.create_schedule("hourly", task="greet", every="1h", run_immediately=False)
    page = visitor.get()
    rows = dict(re.findall(r'<tr id="queue-(\w+)">(.*?)</tr>', page.text, re.DOTALL))

    def cells(queue: str) -> list[str]:
        return [" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in re.findall(r"<td.*?</td>", rows[queue], re.DOTALL)]

    # ready, running, sleeping, failed, oldest ready, workers
    assert cells("default")[1:7] == ["0", "0", "2", "1", "–", "1"]
    assert cells("mail")[0] == "mail paused"
    assert cells("mail")[1:5] == ["1", "0", "1", "0"]
    assert re.fullmatch(r"\d+ s", cells("mail")[5])
    text = text_of(page)
    assert "3 completed 1 failed 1 cancelled" in text
    assert "25% in the last hour" in text
    assert "ValueError the mailbox is full" in text
    assert "1 alive" in text
    assert re.search(r'<rect class="bar-completed".*<rect class="bar-failed"', page.text, re.DOTALL)
    assert "hourly" in text
    for span, words in (("6h", "last 6 hours"), ("7d", "last 7 days"), ("x", "last hour")):
        assert words in visitor.get(f"?span={span}").text


def test_overview_counts_up_to_a_bound_and_goes_on_page_by_page(
    app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        app.create_queue(f"queue {number:02}")
    first = visitor.get()
    assert "queue 48" in text_of(first)
    assert "queue 49" not in text_of(first)
    more = re.search(r'href="([^"]*)" rel="next"', first.text)
    assert more is not None
    second = visitor.text(more[1].replace("&amp;", "&"))
    assert "queue 49" in second
    assert "queue 59" in second
    assert "queue 48" not in second
    conn.execute("create or replace function absurd.count_bound() returns integer language sql immutable as 'select 3'")
    for _ in range(9):
        app.spawn("greet", {"event": "never"})
    app.run_worker_once()
    row = conn.execute("select sleeping, sleeping_more from absurd.page_of_queues() where queue_name = 'default'").fetchone()
    assert row == (2, True)


def test_overview_shows_what_no_worker_can_run(app: Absurd, visitor: Visitor) -> None:
    assert 'id="stuck" data-live hidden' in visitor.get().text
    task = app.spawn("nobody-knows-me")
    app.run_worker_once()
    page = visitor.get()
    assert 'id="stuck" data-live hidden' not in page.text
    assert re.search(r"nobody-knows-me no worker", text_of(page))
    assert row_ids(page.text, "stuck-") == [str(task.task_id)]


def test_plots_are_exact_while_there_are_few_and_estimates_when_there_are_many(
    app: Absurd, visitor: Visitor, conn: psycopg.Connection[Any]
) -> None:
    # 30 tasks a second for half an hour, evenly; the last one ended a moment ago.
    conn.execute("create or replace function absurd.search_bound() returns integer language sql immutable as 'select 5000'")
    made = """
        with t as (
          select absurd.id_floor(now() - i * interval '33.333 ms') as floor, now() - i * interval '33.333 ms' as at, i
          from generate_series(31, 30 + %s) i)
        insert into absurd.tasks (task_id, queue_name, task_name, params, spawned_at, outcome, finished_at)
        select (substr(t.floor::text, 1, 15) || substr(gen_random_uuid()::text, 16))::uuid, 'default', 'x', 'null', t.at,
          'completed', t.at + interval '0.1 s' from t"""
    conn.execute(made, (4000,))
    counted = "select sum(completed)::int, bool_or(estimated) from absurd.throughput(3600)"
    assert conn.execute(counted).fetchone() == (4000, False)
    conn.execute("truncate absurd.tasks")
    assert "about" not in visitor.text()
    conn.execute(made, (54_000,))
    row = conn.execute(counted).fetchone()
    assert row is not None
    assert row[1] is True
    assert 0.8 * 54_000 < row[0] < 1.25 * 54_000
    with visiting(app) as other:
        assert re.search(r"about [\d.,k]+ completed .* completed ones are estimated, .* about 0% in the last hour", other.text())
    # A burst is not taken for what goes on all the time.
    conn.execute("truncate absurd.tasks")
    conn.execute(made.replace("now() - i * interval '33.333 ms'", "now() - interval '20 min' - i * interval '0.1 ms'"), (8000,))
    row = conn.execute(counted).fetchone()
    assert row is not None
    assert 1000 < row[0] < 16_000
