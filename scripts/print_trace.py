"""Prints one trace of a real run: a request, two workers of which the second goes on where the first stopped, a child, an event.

``python scripts/print_trace.py`` prints it, ``--docs`` writes it into docs/observability.md, ``--json`` prints the spans.
``--database URL`` uses another database than the embedded one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from absurd import Absurd, telemetry

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "observability.md"
BEGIN, END = "<!-- trace: scripts/print_trace.py --docs -->\n", "<!-- end of trace -->"
SECONDS = 60.0
QUEUE = "trace-demo"

APP = """
import time
from absurd import Absurd

app = Absurd(queue_name="trace-demo")


@app.register_task("order")
def order(params, ctx):
    ctx.step("charge card", time.sleep, 0.05)
    parcel = ctx.spawn("pack", params)
    ctx.await_event(f"confirmed:{params['id']}")
    ctx.await_task(parcel)
    ctx.step("send receipt", time.sleep, 0.02)
    ctx.emit_event("order.done", params)


@app.register_task("pack")
def pack(params, ctx):
    ctx.step("print label", time.sleep, 0.03)
"""

Span = dict[str, Any]


def main() -> None:
    """Runs it and shows what was traced."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--database")
    arguments = parser.parse_args()
    spans = run(arguments.database)
    if arguments.json:
        print(json.dumps(spans))
    elif arguments.docs:
        text = PAGE.read_text()
        head, tail = text.index(BEGIN) + len(BEGIN), text.index(END)
        PAGE.write_text(f"{text[:head]}\n```text\n{show(spans)}\n```\n\n{text[tail:]}")
    else:
        print(show(spans))


def run(database: str | None) -> list[Span]:
    """The spans of all processes."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.instrument(provider)
    tracer = provider.get_tracer("web")
    spans: list[Span] = []
    with tempfile.TemporaryDirectory() as name, Absurd(database, queue_name=QUEUE) as app:
        directory = Path(name)
        (directory / "shop.py").write_text(APP)
        app.create_queue()
        with tracer.start_as_current_span("POST /orders"):
            task = app.spawn("order", {"id": 17})
        with worker(directory, app.database_url, "worker 1", spans):
            wait(lambda: first_half_done(app.database_url, task.task_id))
        with tracer.start_as_current_span("POST /confirmations"):
            app.emit_event("confirmed:17", {"by": "phone"})
        with worker(directory, app.database_url, "worker 2", spans):
            task.result(timeout=SECONDS)
        app.drop_queue(QUEUE)
    own = [json.loads(span.to_json()) | {"process": "web"} for span in exporter.get_finished_spans()]
    return sorted(own + spans, key=lambda span: str(span["start_time"]))


def first_half_done(url: str, task_id: UUID) -> bool:
    """Whether the order waits for its event and its child has ended."""
    with psycopg.connect(url) as conn:
        found = conn.execute(
            """select (select state = 'sleeping' from absurd.runs where task_id = %s),
                 exists (select from absurd.tasks where parent_task_id = %s and outcome = 'completed')""",
            (task_id, task_id),
        ).fetchone()
    return found is not None and all(found)


@contextmanager
def worker(directory: Path, url: str, name: str, spans: list[Span]) -> Iterator[None]:
    """A worker process that prints its spans when it ends; they are added to the others then."""
    variables = {"ABSURD_OTEL": "1", "OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": name, "PYTHONPATH": str(ROOT)}
    with (directory / "spans").open("w+") as out:
        command = [sys.executable, "-m", "absurd", "-d", url, "worker", "--app", "shop:app", "--log-level", "warning"]
        process = subprocess.Popen(command, cwd=directory, stdout=out, env={**os.environ, **variables})
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)
        out.seek(0)
        spans += [span | {"process": name} for span in documents(out.read())]


def documents(text: str) -> Iterator[Span]:
    """JSON documents, one behind the other."""
    decoder, place = json.JSONDecoder(), 0
    while (start := text.find("{", place)) >= 0:
        span, place = decoder.raw_decode(text, start)
        yield span


def wait(condition: Callable[[], bool]) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the workers did not get that far")
        time.sleep(0.05)


# -- for people ---------------------------------------------------------------------------------------------------------------


def show(spans: list[Span]) -> str:
    """The traces as trees: name, process, when it began, how long it took, how it ended, links."""
    by_id = {span["context"]["span_id"]: span for span in spans}
    first = moment(spans[0], "start_time")
    lines: list[str] = []
    for span in spans:
        if span["parent_id"] not in by_id:
            lines.append(f"trace {span['context']['trace_id']}")
            lines += tree(span, spans, by_id, first, "")
    return "\n".join(lines)


def tree(span: Span, spans: list[Span], by_id: dict[str, Span], first: datetime, indent: str) -> list[str]:
    """A span and those below it."""
    began, ended = moment(span, "start_time"), moment(span, "end_time")
    attributes = span["attributes"]
    facts = [f"{(began - first).total_seconds():7.3f} s", f"{(ended - began).total_seconds() * 1000:6.1f} ms"]
    title = f"{indent}{span['name']}"
    notes = [str(attributes[key]) for key in ("absurd.event.name", "absurd.run.outcome") if key in attributes]
    notes += [f"waits for {event['attributes']['absurd.waits_for']}" for event in span["events"] if "suspended" in event["name"]]
    for link in span["links"]:
        target = by_id.get(link["context"]["span_id"])
        where = "another trace" if target is None else f"{target['name']} of trace {link['context']['trace_id'][2:10]}…"
        notes.append(f"link: {where}")
    found = [f"{title:<28} {span['process']:<9} {'  '.join(facts)}  {'; '.join(notes)}".rstrip()]
    for child in spans:
        if child["parent_id"] == span["context"]["span_id"]:
            found += tree(child, spans, by_id, first, indent + "  ")
    return found


def moment(span: Span, key: str) -> datetime:
    """A moment of a span."""
    return datetime.fromisoformat(span[key])


if __name__ == "__main__":
    main()
