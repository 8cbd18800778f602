"""What started a task: a header that every source writes, so that people and programs can follow a task back to its origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOURCE_HEADER = "absurd-source"
"""``{"kind": "schedule", "name": "nightly-report", …}``; kinds: subscription, schedule, trigger, listener, webhook, http, fork.

The source of a copy made by ``fork_task`` is that of the task with ``forked_from`` added: ``{"task_id", "step"}``.
"""


def with_source(headers: Mapping[str, Any] | None, kind: str, name: str, **details: Any) -> dict[str, Any]:
    """The headers with the source added; one that is there already stays, for it is nearer to the origin.

    Args:
        headers: of the task to be spawned.
        kind: what kind of source it is, such as ``listener``.
        name: which one.
        details: more that helps to find it, such as a message id; JSON values.
    """
    source = {"kind": kind, "name": name, **details}
    return {SOURCE_HEADER: source, **(headers or {})}
