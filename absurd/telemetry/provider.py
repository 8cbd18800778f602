"""A tracer provider by OpenTelemetry's own variables, for a command whose application has set up none."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import trace

from absurd.errors import ConfigurationError

EXPORTERS_VARIABLE = "OTEL_TRACES_EXPORTER"
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# By the specification; the exporters are found by these names, whichever package brings them.
PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


def ensure_provider() -> None:
    """Makes the global tracer provider unless there is one.

    Raises:
        ConfigurationError: OpenTelemetry's SDK, or an exporter that was asked for, is not installed.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            "ABSURD_OTEL=1 needs OpenTelemetry's SDK, or an application that sets up a tracer provider: "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp"
        ) from error
    # Resource and sampler come from OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER.
    provider = TracerProvider()
    for name in _names():
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    trace.set_tracer_provider(provider)


def _names() -> list[str]:
    given = os.environ.get(EXPORTERS_VARIABLE, "").strip() or "otlp"
    return [name for name in (part.strip() for part in given.split(",")) if name and name != "none"]


def _exporter(name: str) -> Any:
    wanted = name
    if name == "otlp":
        protocol = next((os.environ[v] for v in PROTOCOL_VARIABLES if os.environ.get(v)), "http/protobuf")
        if protocol not in PROTOCOLS:
            raise ConfigurationError(f"{PROTOCOL_VARIABLES[1]} must be one of {', '.join(PROTOCOLS)}, not {protocol!r}")
        wanted = PROTOCOLS[protocol]
    found = list(entry_points(group="opentelemetry_traces_exporter", name=wanted))
    if not found:
        raise ConfigurationError(
            f'there is no exporter of traces "{wanted}" ({EXPORTERS_VARIABLE}={name}); for OTLP: pip install '
            f"opentelemetry-exporter-otlp. {EXPORTERS_VARIABLE}=console prints them, none sends them nowhere"
        )
    return found[0].load()()
