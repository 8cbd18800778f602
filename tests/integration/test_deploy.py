"""The files in deploy/ and docker-compose.yml: they are valid, what they call exists, and what they start runs and stops."""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import psycopg
import pytest
import typer.main
import yaml

from absurd import Absurd
from absurd.cli.app import app as program
from absurd.context.durations import parse_duration
from tests.cli import ROOT, absurdctl, environment, invoke, refused
from tests.sql.calls import rows, value
from tests.support import wait_until
from tests.support_roles import logins

Conn = psycopg.Connection[Any]
DEPLOY = ROOT / "deploy"
COMMAND: Any = typer.main.get_command(program)
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd").iterdir())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each pod of the manifests with its container."""
    for path in KUBERNETES:
        for document in documents(path):
            if pod := document["spec"].get("template", {}).get("spec"):
                yield pod, pod["containers"][0]


def check_command(words: list[str]) -> None:
    """A command line of absurdctl that would be understood."""
    assert words[0] == "absurdctl", words
    with COMMAND.commands[words[1]].make_context(words[1], list(words[2:])):
        pass


def in_shell(words: list[str]) -> list[list[str]]:
    """The commands of `sh -c "one && other"`."""
    assert words[:2] == ["sh", "-c"], words
    return [shlex.split(part) for part in words[2].split("&&")]


def commands() -> list[list[str]]:
    """Every call of absurdctl in all the files."""
    found = [service["command"] for service in COMPOSE["services"].values() if service["command"][0] == "absurdctl"]
    found += in_shell(COMPOSE["services"]["migrate"]["command"])
    found += [s["healthcheck"]["test"][1:] for s in COMPOSE["services"].values() if "ping-worker" in str(s.get("healthcheck"))]
    found.append(json.loads(re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[0]))
    for _, container in containers():
        words = container.get("args") or container["command"]
        found += in_shell(words) if words[0] == "sh" else [words]
        found += [probe["exec"]["command"] for name, probe in container.items() if name.endswith("Probe") and "exec" in probe]
    for unit in UNITS:
        for line in re.findall(r"^ExecStart=.*?/(absurdctl [^|'\n]*)", unit.read_text(), re.MULTILINE):
            found.append(shlex.split(line.replace("%i", "1")))
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_understood(words: list[str]) -> None:
    check_command(words)


def test_there_are_as_many_commands_as_meant() -> None:
    assert len(commands()) == 5 + 1 + 1 + 6 + 4


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_the_manifests_fit_the_schemas_of_kubernetes(path: Path) -> None:
    for document in documents(path):
        if document["apiVersion"].startswith("keda.sh/"):
            continue  # its own test is below
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_a_namespace_that_is_restricted_takes_every_pod() -> None:
    """What the "restricted" level of Kubernetes' Pod Security Standards asks for."""
    for pod, container in containers():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_pods_get_longer_to_stop_than_their_workers_take(tmp_path: Path) -> None:
    for pod, container in containers():
        words = container.get("args", [])
        if "worker" in words:
            assert parse_duration(words[words.index("--grace") + 1]) < pod["terminationGracePeriodSeconds"]
    worker = COMPOSE["services"]["worker"]
    assert parse_duration(worker["command"][worker["command"].index("--grace") + 1]) < parse_duration(worker["stop_grace_period"])
    unit = (DEPLOY / "systemd" / "absurd-worker@.service").read_text()
    grace, stop = re.search(r"--grace (\w+)", unit), re.search(r"^TimeoutStopSec=(\d+)", unit, re.MULTILINE)
    assert grace is not None
    assert stop is not None
    assert parse_duration(grace[1]) < int(stop[1])


def test_the_scaler_asks_for_a_deployment_that_is_there_and_a_query_that_a_reader_may_run(conn: Conn) -> None:
    secret, scaled = documents(DEPLOY / "kubernetes" / "keda.yaml")
    names = [d["metadata"]["name"] for path in KUBERNETES for d in documents(path) if d["kind"] == "Deployment"]
    assert scaled["spec"]["scaleTargetRef"]["name"] in names
    assert scaled["spec"]["minReplicaCount"] >= 1
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == secret["metadata"]["name"]
    assert trigger["type"] == "postgresql"
    query = trigger["metadata"]["query"]
    assert re.search(r"'(\w+)'", query)[1] in container_of("absurd-worker")["args"]  # type: ignore[index]
    value(conn, "select absurd.create_queue('orders')")
    with logins(conn) as urls, psycopg.connect(urls["reader"]) as reader:
        assert reader.execute(query.encode()).fetchone() == (0.0,)


def container_of(name: str) -> dict[str, Any]:
    for path in KUBERNETES:
        for document in documents(path):
            if document["kind"] == "Deployment" and document["metadata"]["name"] == name:
                found: dict[str, Any] = document["spec"]["template"]["spec"]["containers"][0]
                return found
    raise AssertionError(name)


def test_the_age_of_a_queue_is_that_of_the_task_that_waits_longest_whatever_its_priority(conn: Conn) -> None:
    age = "select absurd.queue_age('default')"
    assert value(conn, age) == 0
    for priority, seconds in ((5, 10), (0, 300), (-3, 20), (7, 5)):
        rows(conn, "select absurd.spawn_task('default', 'a', '1', %s)", {"priority": priority})
        rows(
            conn, "update absurd.runs set available_at = now() - make_interval(secs => %s) where priority = %s", seconds, priority
        )
    rows(
        conn,
        "select absurd.spawn_task('default', 'a', '1', %s)",
        {"available_at": (datetime.now(UTC) + timedelta(days=1)).isoformat()},
    )
    assert 300 <= value(conn, age) < 330
    rows(conn, "select absurd.pause_queue('default')")
    assert value(conn, age) == 0
    with pytest.raises(psycopg.Error, match="does not exist"):
        rows(conn, "select absurd.queue_age('nowhere')")


def test_the_age_of_a_queue_is_found_without_reading_the_queue(conn: Conn) -> None:
    many = (
        "select absurd.spawn_task('default', 'a', '1', jsonb_build_object('priority', mod(n, 3))) from generate_series(1, 3000) n"
    )
    rows(conn, many)
    reads = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_all_tables where relid = 'absurd.runs'::regclass"
    with conn.transaction():
        before = value(conn, reads)
        assert value(conn, "select absurd.queue_age('default')") > 0
        assert value(conn, reads) - before <= 20


def test_compose_names_files_and_services_that_are_there() -> None:
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
        if build := service.get("build"):
            assert (ROOT / build["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    ports = [port for service in COMPOSE["services"].values() if "profiles" in service for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_is_made_of_files_that_are_there_and_not_left_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for sources in re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert source.partition("/")[0] not in ignored, source
    assert all(re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE) for extra in extras())


def extras() -> list[str]:
    """What the image installs beside the library."""
    [found] = re.findall(r"'\.\[([\w,]+)\]'", (DEPLOY / "Dockerfile").read_text())
    return str(found).split(",")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_image_has_what_each_command_needs(words: list[str]) -> None:
    needed = {"web"} if words[1] in ("serve", "dashboard") else set()
    needed |= {"metrics"} if "--metrics-port" in words else set()
    assert needed <= set(extras())


def test_the_image_has_what_the_variables_ask_for() -> None:
    named = [variable["name"] for _, container in containers() for variable in container.get("env", [])]
    named += [name for service in COMPOSE["services"].values() for name in service.get("environment", {})]
    assert "otel" in extras() or not [name for name in named if name.startswith("OTEL_")]


def test_compose_passes_the_secret_of_the_webhooks_on() -> None:
    assert COMPOSE["services"]["server"]["environment"]["WEBHOOK_SECRET"] == "${WEBHOOK_SECRET:-}"


def test_a_worker_of_systemd_starts_where_its_directory_of_files_is_not_there() -> None:
    paths = re.findall(r"^ReadWritePaths=(.+)$", (DEPLOY / "systemd" / "absurd-worker@.service").read_text(), re.MULTILINE)
    assert paths
    assert all(path.startswith("-") for line in paths for path in line.split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    found = tmp_path / "absurdctl"
    found.write_text("#!/bin/sh\n")
    found.chmod(0o755)
    for unit in UNITS:
        text = (
            unit.read_text()
            .replace("/srv/myproject/.venv/bin/absurdctl", str(found))
            .replace("User=absurd", f"User={getpass.getuser()}")
        )
        (tmp_path / unit.name.replace("@.", "@1.")).write_text(text)
    written = [str(path) for path in tmp_path.iterdir() if path.suffix in (".service", ".timer")]
    assert len(written) == len(UNITS)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *written], capture_output=True, text=True, timeout=120)
    ours = [line for line in done.stderr.splitlines() if "absurd" in line and "/lib/systemd" not in line]
    assert ours == [], done.stderr


def test_systemd_starts_again_however_often_what_finds_no_database() -> None:
    restarted = [text for unit in UNITS if "\nRestart=" in (text := unit.read_text())]
    assert len(restarted) == 3
    for text in restarted:
        assert re.search(r"^Restart=always$", text, re.MULTILINE)
        # It belongs to [Unit]; elsewhere systemd ignores it.
        assert re.search(r"^StartLimitIntervalSec=0$", text.partition("[Service]")[0], re.MULTILINE)


def test_the_worker_of_the_manifest_runs_is_well_and_stops(database_url: str, conn: Conn, tmp_path: Path) -> None:
    worker = container_of("absurd-worker")
    check = worker["livenessProbe"]["exec"]["command"]
    health = str(tmp_path / "health")
    replaced = {"/run/absurd/health": health, "9090": "0"}
    value(conn, "select absurd.create_queue('orders')")
    words = [replaced.get(word, word) for word in worker["args"]]
    env = environment(database_url, {"ABSURD_APP": "tasks:app"})
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "absurd", *words[1:]], cwd=DEPLOY / "app", env=env, stdout=log, stderr=log
        )
        try:
            wait_until(
                lambda: process.poll() is not None or os.path.exists(f"{health}.{process.pid}"), 60, "the worker's health file"
            )
            assert process.poll() is None, (tmp_path / "log").read_text()
            absurdctl(*[replaced.get(word, word) for word in check[1:]])
            with Absurd(database_url, "orders") as app:
                handle = app.spawn("ship", {"order": 7})
                app.emit_event("picked-up 7", {"name": "Ada"})
                assert handle.result(30) == "order 7 went with Ada"
            process.send_signal(signal.SIGSTOP)
            os.utime(f"{health}.{process.pid}", (0, 0))
            assert "has not gone round" in refused(*[replaced.get(word, word) for word in check[1:]])
            process.send_signal(signal.SIGCONT)
        finally:
            process.terminate()
            assert process.wait(40) == 0, (tmp_path / "log").read_text()
    assert "no worker" in refused("ping-worker", health)


def test_the_commands_of_the_compose_file_prepare_the_database(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute((ROOT / "sql" / "absurd.sql").read_bytes().replace(b"\\set ON_ERROR_STOP on", b""))
    for words in in_shell(COMPOSE["services"]["migrate"]["command"]):
        absurdctl(*words[1:], database=empty_database_url)
    shown = absurdctl("set-queue", "orders", "--json", database=empty_database_url).json()
    assert (shown["keep_completed"], shown["keep_failed"]) == (7 * 86_400, 90 * 86_400)


def test_the_job_of_the_manifest_prepares_an_empty_database_and_may_be_repeated(empty_database_url: str) -> None:
    [job] = documents(DEPLOY / "kubernetes" / "migrate.yaml")
    for _ in range(2):
        for words in in_shell(job["spec"]["template"]["spec"]["containers"][0]["command"]):
            invoke(*words[1:], database=empty_database_url)
    assert invoke("schema-version", "--json", database=empty_database_url).json()["fits"]
