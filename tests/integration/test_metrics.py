"""Metrics: what is counted, where it is read, from one process and from several; names in docs/grafana exist."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from absurd import Absurd, telemetry
from absurd.metrics import Exposition, MetricsServer, ProcessesCollector, QueueCollector
from absurd.telemetry.prometheus import OTHER, Names
from absurd.web import create_app
from tests.cli import ROOT, refused, working, write_app
from tests.support import wait_until

GRAFANA = ROOT / "docs" / "grafana"


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    made = CollectorRegistry()
    telemetry.instrument_metrics(made)
    yield made
    telemetry.uninstrument()


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:
        yield made


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"absurd_{name}", labels) or 0.0


def samples(text: str) -> dict[str, dict[str, float]]:
    """Values by name, then by labels as ``a=1,b=2``."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={sample.labels[key]}" for key in sorted(sample.labels))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def declare(app: Absurd) -> None:
    @app.register_task("good")
    def good(params: Any, ctx: Any) -> None:
        ctx.step("one", lambda: 1)
        ctx.step("two", lambda: 2)

    @app.register_task("bad", max_attempts=2, retry={"kind": "fixed", "base_seconds": 0})
    def bad(params: Any, ctx: Any) -> None:
        ctx.step("fails", lambda: 1 / 0)

    @app.register_task("waits")
    def waits(params: Any, ctx: Any) -> None:
        ctx.step("once", lambda: 1)
        ctx.await_event("go")


def test_a_worker_counts_what_it_does(app: Absurd, registry: CollectorRegistry) -> None:
    declare(app)
    app.spawn_many("good", [1, 2, 3])
    app.spawn("bad")
    app.spawn("waits")
    app.run_worker_once()
    app.emit_event("go")
    app.run_worker_once()
    assert value(registry, "tasks_spawned_total", queue="default", task="good") == 3
    assert value(registry, "events_emitted_total", queue="default") == 1
    ended = {
        (task, outcome): value(registry, "runs_ended_total", queue="default", task=task, outcome=outcome)
        for task in ("good", "bad", "waits")
        for outcome in ("completed", "failed", "suspended")
    }
    assert {key: count for key, count in ended.items() if count} == {
        ("good", "completed"): 3,
        ("bad", "failed"): 2,
        ("waits", "suspended"): 1,
        ("waits", "completed"): 1,
    }
    assert value(registry, "attempts_failed_total", queue="default", task="bad") == 2
    assert value(registry, "attempts_retried_total", queue="default", task="bad") == 1
    assert value(registry, "run_duration_seconds_count", queue="default", task="good") == 3
    # Replayed steps do not count.
    assert value(registry, "step_duration_seconds_count", queue="default", task="waits", kind="step") == 1
    assert value(registry, "step_duration_seconds_count", queue="default", task="good", kind="step") == 6
    assert value(registry, "steps_failed_total", queue="default", task="bad", kind="step") == 2
    assert value(registry, "run_ready_seconds_count", queue="default") == 7
    assert value(registry, "claims_total", queue="default", found="partial") >= 1
    assert value(registry, "claims_total", queue="default", found="empty") >= 1
    assert value(registry, "writer_batch_items_sum") >= 3 + 6 + 1
    assert value(registry, "writer_batch_seconds_count") == value(registry, "writer_batch_items_count") > 0
    assert value(registry, "worker_slots") == value(registry, "worker_runs") == 0


def test_the_time_from_ready_to_claimed_is_that_of_the_database(
    app: Absurd, registry: CollectorRegistry, conn: psycopg.Connection[Any]
) -> None:
    declare(app)
    app.spawn("good")
    conn.execute("update absurd.runs set available_at = available_at - interval '100 seconds'")
    app.run_worker_once()
    assert 100 <= value(registry, "run_ready_seconds_sum", queue="default") < 160


@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
def test_a_moment_that_was_written_by_hand_stops_nobody(
    app: Absurd, registry: CollectorRegistry, conn: psycopg.Connection[Any], database_url: str, moment: str
) -> None:
    declare(app)
    task = app.spawn("good")
    conn.execute("update absurd.runs set available_at = %s", (moment,))
    queues = CollectorRegistry()
    queues.register(QueueCollector(database_url))
    assert value(queues, "queue_tasks", queue="default", state="pending") == 1
    app.run_worker_once()
    assert task.result(timeout=5) is None
    assert value(registry, "run_ready_seconds_sum", queue="default") < float("inf")


def test_a_lost_lease_and_a_cancelled_run_are_told_apart(
    app: Absurd, registry: CollectorRegistry, conn: psycopg.Connection[Any]
) -> None:
    @app.register_task("stolen")
    def stolen(params: Any, ctx: Any) -> None:
        if params == "cancel":
            app.cancel_task(ctx.task_id)
        else:
            conn.execute("update absurd.runs set epoch = epoch + 1 where task_id = %s", (ctx.task_id,))
        ctx.heartbeat()

    app.spawn("stolen", "cancel")
    app.spawn("stolen", "steal")
    app.run_worker_once()
    assert value(registry, "runs_ended_total", queue="default", task="stolen", outcome="cancelled") == 1
    assert value(registry, "runs_ended_total", queue="default", task="stolen", outcome="lost") == 1
    assert value(registry, "leases_lost_total", queue="default") == 1
    assert value(registry, "worker_runs") == 0


def test_metrics_that_break_cost_no_task(app: Absurd, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    declare(app)
    for kind in (Counter, Gauge):
        monkeypatch.setattr(kind, "inc", full)
    monkeypatch.setattr(Histogram, "observe", full)
    good, bad = app.spawn("good"), app.spawn("bad")
    app.run_worker_once()
    assert good.result(timeout=5) is None
    assert app.get_result(bad.task_id).failure["name"] == "ZeroDivisionError"


def test_a_worker_that_stops_counts_each_run_once(app: Absurd, registry: CollectorRegistry) -> None:
    @app.register_task("long")
    async def long(params: Any, ctx: Any) -> None:
        await asyncio.sleep(60)

    app.spawn("long")
    with app.worker(grace_seconds=0):
        wait_until(lambda: value(registry, "worker_runs") == 1, what="the run")
    assert value(registry, "runs_ended_total", queue="default", task="long", outcome="released") == 1
    assert value(registry, "worker_runs") == value(registry, "worker_slots") == 0


def test_names_are_labels_of_their_own_up_to_a_number() -> None:
    names = Names(2)
    assert [names(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]


def test_instrumented_twice_it_counts_once(app: Absurd, registry: CollectorRegistry) -> None:
    telemetry.instrument_metrics(registry)
    app.emit_event("x")
    assert value(registry, "events_emitted_total", queue="default") == 1


def test_the_depth_and_age_of_queues_are_read_from_the_database(
    app: Absurd, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    declare(app)
    app.spawn("waits")
    app.run_worker_once()
    app.spawn_many("good", [1, 2])
    app.spawn("good", delay=3600)
    conn.execute("update absurd.runs set available_at = now() - interval '50 seconds' where state = 'pending'")
    registry = CollectorRegistry()
    collector = QueueCollector(database_url)
    registry.register(collector)
    try:
        assert value(registry, "queue_tasks", queue="default", state="pending") == 2
        assert value(registry, "queue_tasks", queue="default", state="sleeping") == 2
        assert 50 <= value(registry, "queue_oldest_seconds", queue="default", state="pending") < 110
        assert value(registry, "queue_oldest_seconds", queue="default", state="sleeping") == 0
        assert value(registry, "queue_paused", queue="default") == 0
        assert value(registry, "database_up") == 1
        collector._fresh_until = math.inf
        app.spawn("good")  # what was read serves for some seconds
        assert value(registry, "queue_tasks", queue="default", state="pending") == 2
        collector._fresh_until = 0
        conn.execute("update absurd.runs set available_at = now() - interval '9 seconds' where available_at > now()")
        conn.execute("update absurd.queues set paused_at = now()")
        assert value(registry, "queue_tasks", queue="default", state="pending") == 3
        collector._fresh_until = 0
        assert value(registry, "queue_oldest_seconds", queue="default", state="sleeping") >= 9
        assert value(registry, "queue_paused", queue="default") == 1
    finally:
        collector.close()


def test_a_database_that_is_away_is_a_metric_and_no_error(database_url: str) -> None:
    registry = CollectorRegistry()
    collector = QueueCollector("postgresql://127.0.0.1:1/nowhere")
    registry.register(collector)
    assert registry.get_sample_value("absurd_database_up") == 0
    collector._url, collector._fresh_until = database_url, 0
    assert registry.get_sample_value("absurd_database_up") == 1
    collector.close()


# -- where it is read ---------------------------------------------------------------------------------------------------------


def metrics_url(directory: Path) -> str:
    found = re.search(r"http://\S+/metrics", (directory / "worker.log").read_text())
    return "" if found is None else found.group()


def scrape(url: str) -> dict[str, dict[str, float]]:
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return samples(answer.read().decode())


COMPLETED = "outcome=completed,queue=default,task=add"


def test_metrics_are_served_on_an_address_of_ip_6(database_url: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = MetricsServer(Exposition(database_url), "::1", 0)
    server.start()
    try:
        assert scrape(f"http://[::1]:{server.port}/metrics")["absurd_database_up"] == {"": 1}
    finally:
        server.stop()
        telemetry.uninstrument()


def test_a_worker_serves_its_metrics(app: Absurd, database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    with working(tmp_path, database_url, "--app", "shop:app", "--metrics-port", "0", "--concurrency", "7") as process:
        url = wait_until(lambda: metrics_url(tmp_path), what="the address of the metrics")
        handle = app.spawn("add", {"a": 1, "b": 2})
        handle.result(timeout=30)
        wait_until(lambda: scrape(url).get("absurd_runs_ended_total", {}).get(COMPLETED) == 1, what="the run in the metrics")
        found = scrape(url)
        assert found["absurd_worker_slots"] == {"": 7}
        assert found["absurd_queue_workers"] == {"queue=default": 1}
        assert "process_cpu_seconds_total" in found
        with pytest.raises(urllib.error.HTTPError, match="404"):
            scrape(url.replace("/metrics", "/elsewhere"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
def test_the_processes_of_a_worker_are_read_together(
    app: Absurd, database_url: str, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    write_app(tmp_path)
    arguments = ("--app", "shop:app", "--metrics-port", "0", "--processes", "2", "--concurrency", "3")
    with working(tmp_path, database_url, *arguments) as process:
        url = wait_until(lambda: metrics_url(tmp_path), what="the address of the metrics")
        wait_until(lambda: scrape(url).get("absurd_worker_slots") == {"": 6}, timeout=60, what="two processes")
        for handle in app.spawn_many("add", [{"a": 1, "b": i} for i in range(40)]):
            handle.result(timeout=60)
        wait_until(lambda: scrape(url).get("absurd_runs_ended_total", {}).get(COMPLETED) == 40, what="all runs, whoever ran them")
        # One of them dies: what it did still counts, what it had is gone, and another one takes its place.
        (row,) = conn.execute("select pid from absurd.workers limit 1").fetchall()
        os.kill(row[0], signal.SIGKILL)
        wait_until(lambda: f"worker process {row[0]} ended" in (tmp_path / "worker.log").read_text(), what="its end")
        wait_until(lambda: scrape(url)["absurd_worker_slots"] == {"": 6}, timeout=60, what="another process")
        assert scrape(url)["absurd_runs_ended_total"][COMPLETED] == 40
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_files_that_are_being_made_or_removed_spoil_no_scrape(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").touch()
    (tmp_path / "gauge_livesum_1.db").symlink_to(tmp_path / "gone")
    code = "from prometheus_client import Counter; Counter('absurd_something', 'x').inc(3)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}, check=True)
    registry = CollectorRegistry()
    registry.register(ProcessesCollector(str(tmp_path)))
    assert value(registry, "something_total") == 3


def test_a_port_that_is_taken_is_said_plainly(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    with working(tmp_path, database_url, "--app", "shop:app", "--metrics-port", "0"):
        url = wait_until(lambda: metrics_url(tmp_path))
        port = url.rpartition(":")[2].partition("/")[0]
        error = refused("worker", "--app", "shop:app", "--metrics-port", port, database=database_url, cwd=tmp_path)
        assert f"port {port}" in error
        assert "--metrics-port" in error


def test_the_server_has_them_behind_its_key(app: Absurd) -> None:
    with TestClient(create_app(app, api_key="k3y", metrics=True)) as client:
        assert client.get("/metrics").status_code == 401
        answer = client.get("/metrics", headers={"Authorization": "Bearer k3y"})
    telemetry.uninstrument()
    assert answer.status_code == 200
    assert 'absurd_queue_tasks{queue="default",state="pending"} 0.0' in answer.text
    with TestClient(create_app(app, api_key="k3y")) as client:
        assert client.get("/metrics", headers={"Authorization": "Bearer k3y"}).status_code == 404


def test_without_the_library_it_is_said_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not here')")
    code = "from absurd import telemetry; telemetry.instrument_metrics()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    )
    assert "pip install 'absurd[metrics]'" in done.stderr


# -- docs/grafana -------------------------------------------------------------------------------------------------------------


def names_used() -> dict[str, set[str]]:
    """The names of metrics in each file."""
    found: dict[str, set[str]] = {}
    for path in GRAFANA.iterdir():
        text = path.read_text()
        texts = [text]
        if path.suffix == ".json":
            texts = [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", [])]
            texts += [variable["query"] for variable in json.loads(text)["templating"]["list"] if variable["type"] == "query"]
        found[path.name] = set(re.findall(r"\babsurd_[a-z_]+", "\n".join(map(str, texts))))
    return found


def test_every_metric_named_in_docs_grafana_exists(app: Absurd, database_url: str) -> None:
    declare(app)
    exposition = Exposition(database_url)
    try:
        text = exposition.text()[0].decode()
    finally:
        exposition.close()
        telemetry.uninstrument()
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    known = set()
    for name, kind in families.items():
        known |= {
            name + suffix for suffix in {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(kind, ("",))
        }
    used = names_used()
    assert {"dashboard.json", "alerts.yml"} <= set(used)
    assert all(len(used[name]) >= 5 for name in ("dashboard.json", "alerts.yml"))
    assert {name: sorted(names - known) for name, names in used.items()} == {name: [] for name in used}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_the_alert_rules_fire_when_they_should() -> None:
    done = subprocess.run(["promtool", "test", "rules", "alerts_test.yml"], cwd=GRAFANA, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    source = (ROOT / "absurd" / "telemetry" / "prometheus.py").read_text() + (ROOT / "absurd" / "metrics.py").read_text()
    names = {f"absurd_{name}" for name in re.findall(r'(?:counter|histogram|gauge)\(\s*"([a-z_]+)"', source)}
    names |= set(re.findall(r'GaugeMetricFamily\(\s*"(absurd_[a-z_]+)"', source))
    assert len(names) >= 20
    assert sorted(name for name in names if f"`{name}" not in text) == []
