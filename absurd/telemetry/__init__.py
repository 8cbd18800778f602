"""Hooks for spans and metrics. Off they are two names that hold ``None``, and nothing else is loaded.

``instrument()`` turns on traces (OpenTelemetry, ``pip install 'absurd[otel]'``), ``instrument_metrics()`` metrics (Prometheus,
``pip install 'absurd[metrics]'``). Only ``absurd.telemetry.tracing`` and ``absurd.telemetry.prometheus`` import those libraries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from absurd.errors import ConfigurationError

if TYPE_CHECKING:
    from absurd.telemetry.prometheus import Metrics
    from absurd.telemetry.tracing import Tracing

# Set to 1, it turns on traces in the worker and the server of the command line.
VARIABLE = "ABSURD_OTEL"

tracing: Tracing | None = None
metrics: Metrics | None = None

_OFF: AbstractContextManager[None] = nullcontext()


def instrument(tracer_provider: Any = None) -> None:
    """Turns on traces for this process: its clients and its workers.

    Args:
        tracer_provider: of OpenTelemetry; without one, the global one.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    global tracing
    try:
        from absurd.telemetry.tracing import Tracing
    except ImportError as error:
        raise ConfigurationError("traces need OpenTelemetry: pip install 'absurd[otel]'") from error
    tracing = Tracing(tracer_provider)


def instrument_metrics(registry: Any = None) -> None:
    """Turns on metrics for this process. Said twice, it goes on with those that are there.

    Args:
        registry: of prometheus_client; without one, its ``REGISTRY``.

    Raises:
        ConfigurationError: prometheus_client is not installed.
    """
    global metrics
    try:
        from absurd.telemetry.prometheus import Metrics
    except ImportError as error:
        raise ConfigurationError("metrics need prometheus_client: pip install 'absurd[metrics]'") from error
    metrics = Metrics.of(registry)


def uninstrument() -> None:
    """Turns both off."""
    global tracing, metrics
    tracing = metrics = None


def instrument_from_environment() -> bool:
    """Turns on traces if ``ABSURD_OTEL`` says so. Whether it did.

    If the application has set up no tracer provider, one is made by OpenTelemetry's own variables: ``OTEL_TRACES_EXPORTER``,
    ``OTEL_SERVICE_NAME`` and so on.
    """
    value = os.environ.get(VARIABLE, "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value not in ("1", "true", "yes", "on"):
        raise ConfigurationError(f"{VARIABLE} must be 1 or 0, not {value!r}")
    instrument()
    from absurd.telemetry.provider import ensure_provider

    ensure_provider()
    return True


# -- what clients and contexts call; cheap when all is off -------------------------------------------------------------------


def spawning(queue_name: str, task_name: str, count: int = 1) -> AbstractContextManager[None]:
    """Around a spawn: what is made inside carries its trace."""
    if tracing is None and metrics is None:
        return _OFF
    return _spawning(queue_name, task_name, count)


@contextmanager
def _spawning(queue_name: str, task_name: str, count: int) -> Iterator[None]:
    with tracing.spawn(queue_name, task_name, count) if tracing is not None else _OFF:
        yield
    if metrics is not None:
        metrics.spawned(queue_name, task_name, count)


def emitting(queue_name: str, event_name: str) -> AbstractContextManager[None]:
    """Around an emit: what is made inside carries its trace."""
    if tracing is None and metrics is None:
        return _OFF
    return _emitting(queue_name, event_name)


@contextmanager
def _emitting(queue_name: str, event_name: str) -> Iterator[None]:
    with tracing.emit(queue_name, event_name) if tracing is not None else _OFF:
        yield
    if metrics is not None:
        metrics.emitted(queue_name)


def with_trace(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The headers, and beside them those that carry the present trace, unless they name one themselves. For ``tracing`` only."""
    own = dict(headers or {})
    if tracing is None or "traceparent" in own:
        return own
    return {**tracing.carrier(), **own}


@contextmanager
def step(run: Any, kind: str, name: str) -> Iterator[None]:
    """Around a step that is executed, not replayed; ``run`` is a ``ClaimedRun``."""
    with (
        tracing.step(run, kind, name) if tracing is not None else _OFF,
        metrics.step(run, kind) if metrics is not None else _OFF,
    ):
        yield
