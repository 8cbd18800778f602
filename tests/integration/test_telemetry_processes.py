"""Traces across processes: scripts/print_trace.py makes the one in docs/observability.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from absurd import telemetry
from absurd.telemetry.asgi import traced
from tests.cli import PROGRAM, ROOT, TIMEOUT, absurdctl, environment, refused, write_app
from tests.support import wait_until

SCRIPT = ROOT / "scripts" / "print_trace.py"
Span = dict[str, Any]


@pytest.mark.slow
def test_a_trace_goes_from_the_request_through_two_workers(database_url: str) -> None:
    command = [sys.executable, str(SCRIPT), "--json", "--database", database_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment(None))
    assert done.returncode == 0, done.stderr
    spans: list[Span] = json.loads(done.stdout)
    by_id = {span["context"]["span_id"]: span for span in spans}

    def path(span: Span) -> list[str]:
        parent = by_id.get(span["parent_id"])
        return [*(path(parent) if parent is not None else []), f"{span['process']}: {span['name']}"]

    assert sorted(" > ".join(path(span)) for span in spans if span["name"].startswith(("step", "emit"))) == [
        "web: POST /confirmations > web: emit trace-demo",
        "web: POST /orders > web: spawn order > worker 1: run order > worker 1: spawn pack > worker 1: run pack > "
        "worker 1: step print label",
        "web: POST /orders > web: spawn order > worker 1: run order > worker 1: step charge card",
        "web: POST /orders > web: spawn order > worker 2: run order > worker 2: emit trace-demo",
        "web: POST /orders > web: spawn order > worker 2: run order > worker 2: step send receipt",
    ]
    assert len({span["context"]["trace_id"] for span in spans}) == 2
    (resumed,) = [span for span in spans if span["process"] == "worker 2" and span["name"] == "run order"]
    assert [path(by_id[link["context"]["span_id"]])[-1] for link in resumed["links"]] == ["web: emit trace-demo"]


def spans_in(text: str) -> list[Span]:
    decoder, place, found = json.JSONDecoder(), 0, []
    while (start := text.find("{", place)) >= 0:
        span, place = decoder.raw_decode(text, start)
        found.append(span)
    return found


def test_the_server_goes_on_with_the_trace_of_a_request(database_url: str, tmp_path: Path) -> None:
    write_app(tmp_path)
    extra = {"ABSURD_OTEL": "1", "OTEL_TRACES_EXPORTER": "console"}
    log, out = tmp_path / "serve.log", tmp_path / "spans"
    with log.open("w") as errors, out.open("w") as printed:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--app", "shop:app", "--port", "0"],
            cwd=tmp_path,
            env=environment(database_url, extra),
            stdout=printed,
            stderr=errors,
        )
        try:
            wait_until(lambda: "serving on" in log.read_text(), timeout=TIMEOUT, what="the server")
            base = "http://" + log.read_text().partition("serving on http://")[2].split()[0]
            request = urllib.request.Request(
                f"{base}/api/tasks/add",
                data=json.dumps({"params": {"a": 1, "b": 2}}).encode(),
                headers={"Content-Type": "application/json", "traceparent": f"00-{'d' * 32}-{'d' * 16}-01"},
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert answer.status in (200, 201)
        finally:
            process.terminate()
            assert process.wait(TIMEOUT) == 0
    spans = {span["name"]: span for span in spans_in(out.read_text())}
    by_id = {span["context"]["span_id"]: span for span in spans.values()}
    (server,) = [span for span in spans.values() if span["kind"] == "SpanKind.SERVER"]
    assert server["name"].startswith("POST /api/tasks/{name")
    assert server["context"]["trace_id"] == "0x" + "d" * 32
    assert server["parent_id"] == "0x" + "d" * 16
    span = spans["spawn add"]
    while span is not server:
        span = by_id[span["parent_id"]]
    with psycopg.connect(database_url) as conn:
        (row,) = conn.execute("select headers ->> 'traceparent' from absurd.tasks").fetchall()
    assert row[0].split("-")[1:3] == ["d" * 32, spans["spawn add"]["context"]["span_id"].removeprefix("0x")]


async def test_a_request_to_any_asgi_application_has_a_span_while_traces_are_on() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = SimpleNamespace(path="/orders/{id}")
        await send({"type": "http.response.start", "status": 418})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"traceparent", f"00-{'e' * 32}-{'e' * 16}-01".encode())]
    scope = {"type": "http", "method": "GET", "path": "/orders/17", "headers": headers}
    await traced(application)(scope, None, send)  # type: ignore[arg-type]
    telemetry.instrument(provider)
    try:
        await traced(application)(scope, None, send)  # type: ignore[arg-type]
    finally:
        telemetry.uninstrument()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.context.trace_id, len(sent)) == ("GET /orders/{id}", int("e" * 32, 16), 2)
    assert (span.attributes or {})["http.response.status_code"] == 418


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ABSURD_OTEL": "perhaps"}, "ABSURD_OTEL must be 1 or 0"),
        ({"ABSURD_OTEL": "1", "OTEL_TRACES_EXPORTER": "nowhere"}, "nowhere"),
        ({"ABSURD_OTEL": "1", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}, "smoke"),
    ],
)
def test_what_cannot_be_set_up_is_said_before_the_worker_starts(
    database_url: str, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    write_app(tmp_path)
    assert said in refused("worker", "--app", "shop:app", database=database_url, cwd=tmp_path, env=variables)


def test_without_the_library_it_is_said_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not here')")
    code = "from absurd import telemetry; telemetry.instrument()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    )
    assert "pip install 'absurd[otel]'" in done.stderr


def test_the_trace_in_the_docs_is_one_of_the_script() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    shown = page.partition("<!-- trace: scripts/print_trace.py --docs -->")[2].partition("<!-- end of trace -->")[0]
    for part in ("POST /orders", "worker 1", "worker 2", "run pack", "link: emit trace-demo of trace"):
        assert part in shown
    assert absurdctl("worker", "--help").out.count("--metrics-port") >= 1
