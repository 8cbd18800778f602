"""Traces with OpenTelemetry: one trace from the request that spawned a task to its last step, across processes and resumes.

A spawn and an emit are PRODUCER spans; what they make carries their context, in the headers of the task or in the source of the
event. Each time that a worker takes a run into its hands is a CONSUMER span, a child of the spawn. Attributes follow the semantic
conventions for messaging where these have a word, and begin with ``absurd.`` elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from absurd.telemetry.harmless import harmless, harmless_context

# Links of one span at most: OpenTelemetry drops those beyond 128, and nobody follows that many.
MAX_LINKS = 64
# Characters of a message or name in an attribute.
MAX_TEXT = 500
SAMPLED, NOT_SAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


class Tracing:
    """Makes the spans of this process."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer("absurd", tracer_provider=provider)
        self._runs: dict[UUID, Context] = {}

    # -- those who begin something ------------------------------------------------------------------------------------------

    @harmless_context
    @contextmanager
    def spawn(self, queue_name: str, task_name: str, count: int) -> Iterator[None]:
        """A spawn of one task, or of several that differ in their params only."""
        attributes = _messaging("spawn", "send", queue_name) | {"absurd.task.name": task_name}
        if count != 1:
            attributes["messaging.batch.message_count"] = count
        with self._span(f"spawn {task_name}", SpanKind.PRODUCER, attributes):
            yield

    @harmless_context
    @contextmanager
    def emit(self, queue_name: str, event_name: str) -> Iterator[None]:
        """An emit. The event's name is no part of the span's: names like ``delivered:42`` are many."""
        attributes = _messaging("emit", "send", queue_name) | {"absurd.event.name": event_name}
        with self._span(f"emit {queue_name}", SpanKind.PRODUCER, attributes):
            yield

    def carrier(self) -> dict[str, str]:
        """The present context as headers: ``traceparent``, and what else the propagators that are set up write."""
        found: dict[str, str] = {}
        self._inject(found)
        return found

    @harmless
    def _inject(self, carrier: dict[str, str]) -> None:
        propagate.inject(carrier)

    # -- a worker -----------------------------------------------------------------------------------------------------------

    @harmless_context
    @contextmanager
    def run(self, run: Any) -> Iterator[None]:
        """A run in the hands of a worker, from the first line of its handler to the last that it gets to; a ``ClaimedRun``."""
        attributes = _messaging("run", "process", run.queue_name) | {
            "messaging.message.id": str(run.task_id),
            "absurd.task.name": run.task_name,
            "absurd.task.id": str(run.task_id),
            "absurd.run.id": str(run.run_id),
            "absurd.run.attempt": run.attempt,
            "absurd.run.claim": run.epoch,
            "absurd.run.replayed": run.checkpoint_count,
            "absurd.run.waited": round(run.waited_seconds, 6),
        }
        with self._span(f"run {run.task_name}", SpanKind.CONSUMER, attributes, self._parent(run)):
            self._runs[run.run_id] = get_current()
            try:
                yield
            finally:
                self._runs.pop(run.run_id, None)

    @harmless
    def ended(self, outcome: str, detail: str | None, error: BaseException | None) -> None:
        """How the run whose span this is has left the worker's hands."""
        span = trace.get_current_span()
        span.set_attribute("absurd.run.outcome", outcome)
        if outcome == "suspended" and detail:
            span.add_event("absurd.suspended", {"absurd.waits_for": detail.removeprefix("wait for ")[:MAX_TEXT]})
        if error is not None:
            _note_error(span, error)

    @harmless_context
    @contextmanager
    def step(self, run: Any, kind: str, name: str) -> Iterator[None]:
        """A step that is executed. Its span is named without the number of a step that is used again."""
        attributes = {"absurd.step.name": name, "absurd.step.kind": kind, "absurd.task.id": str(run.task_id)}
        # A thread that the handler has started knows no context.
        alone = not trace.get_current_span().get_span_context().is_valid
        parent = self._runs.get(run.run_id) if alone else None
        with self._span(f"{kind} {name.partition('#')[0]}"[:MAX_TEXT], SpanKind.INTERNAL, attributes, parent):
            yield

    @harmless
    def woken_by(self, events: Iterable[tuple[int, str, str | None]]) -> None:
        """Links the present span to the emits of events that it has waited for: seq, name, source as JSON text."""
        span = trace.get_current_span()
        for seq, name, source in list(events)[:MAX_LINKS]:
            emit = _context_of(_strings(source))
            attributes: dict[str, Any] = {"absurd.link": "event", "absurd.event.name": name[:MAX_TEXT], "absurd.event.seq": seq}
            if emit.is_valid:
                span.add_link(emit, attributes)
            else:
                span.add_event("absurd.event", attributes)

    # -- a server -----------------------------------------------------------------------------------------------------------

    @harmless_context
    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """A request to ``absurdctl serve``."""
        attributes = {"http.request.method": method, "url.path": path[:MAX_TEXT], "url.scheme": "http"}
        with self._span(method, SpanKind.SERVER, attributes, propagate.extract(headers)) as span:
            yield span

    # -- below --------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _span(self, name: str, kind: SpanKind, attributes: Mapping[str, Any], context: Context | None = None) -> Iterator[Span]:
        """A span that is the current one, marked by an error that passes; not by the signals that end a run."""
        # The whole context of the parent: its baggage too reaches whom the handler calls.
        token = None if context is None else attach(context)
        try:
            with self._tracer.start_as_current_span(
                name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
            ) as span:
                try:
                    yield span
                except Exception as error:
                    _note_error(span, error)
                    raise
        finally:
            if token is not None:
                detach(token)

    def _parent(self, run: Any) -> Context:
        """The context that the task carries; else one that is made of its id, the same for all its runs.

        The headers of a task that a subscription started hold the source of the event: its emit is the parent then.
        """
        headers = _object(run.headers)
        strings = _only_strings(headers)
        if not _context_of(strings).is_valid:
            source = headers.get("absurd-source")
            origin = source.get("event_source") if isinstance(source, dict) else None
            strings = _only_strings(origin) if isinstance(origin, dict) else {}
        found = propagate.extract(strings, context=Context())
        if trace.get_current_span(found).get_span_context().is_valid:
            return found
        return trace.set_span_in_context(trace.NonRecordingSpan(self._made_of(run)), Context())

    def _made_of(self, run: Any) -> SpanContext:
        digest = hashlib.blake2b(run.task_id.bytes, digest_size=24).digest()
        trace_id, span_id = int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:]) or 1
        provider = self._provider or trace.get_tracer_provider()
        sampler = getattr(provider, "sampler", None)
        sampled = True
        if sampler is not None:
            # As for a root: the sampler would take a parent's word for it otherwise.
            name = f"run {run.task_name}"
            sampled = sampler.should_sample(None, trace_id, name, SpanKind.CONSUMER, {}, ()).decision.is_sampled()
        return SpanContext(trace_id, span_id, is_remote=True, trace_flags=SAMPLED if sampled else NOT_SAMPLED)


def _messaging(name: str, kind: str, queue_name: str) -> dict[str, Any]:
    return {
        "messaging.system": "absurd",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue_name,
    }


def _note_error(span: Span, error: BaseException) -> None:
    try:
        span.record_exception(error)
        text = str(error)
    except Exception:  # user code: __str__ may raise anything
        text = "(its message cannot be read)"
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {text}"[:MAX_TEXT]))


def _context_of(carrier: Mapping[str, str]) -> SpanContext:
    return trace.get_current_span(propagate.extract(carrier, context=Context())).get_span_context()


def _strings(text: str | None) -> dict[str, str]:
    return _only_strings(_object(text))


def _object(text: str | None) -> dict[str, Any]:
    """An object from JSON text; whatever else somebody stored there says nothing."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _only_strings(found: Mapping[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in found.items() if isinstance(value, str)}
