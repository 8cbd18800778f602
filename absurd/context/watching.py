"""Spans and metrics around effects of a task, as generators like those of the core. Replayed effects are not seen."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from typing import Any

from absurd import telemetry
from absurd.context.ops import Look, Op
from absurd.queries.events import event_sources
from absurd.types import ClaimedRun

Steps = Generator[Op, Any, Any]


def watched(run: ClaimedRun, kind: str, name: str, steps: Steps) -> Steps:
    """The same steps, with a span and the time they took, if anybody wants these."""
    return steps if telemetry.tracing is None and telemetry.metrics is None else _watch(run, kind, name, steps)


def _watch(run: ClaimedRun, kind: str, name: str, steps: Steps) -> Steps:
    with telemetry.step(run, kind, name):
        return (yield from steps)


def linked(seqs: Iterable[int | None]) -> Generator[Op, Any, None]:
    """Links the span of the run to the emits of the events that it has waited for. A trace is never worth a task."""
    events = [seq for seq in seqs if seq is not None]
    with contextlib.suppress(Exception):
        if events and telemetry.tracing is not None:
            telemetry.tracing.woken_by((yield Look(event_sources(events))))
