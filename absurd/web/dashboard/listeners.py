"""Processes that turn messages, files and notifications into tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absurd.queries.listeners import list_listeners
from absurd.web.dashboard.page import Page, Visit

MOST = 500


async def show(visit: Visit) -> Mapping[str, Any]:
    """All listeners, the oldest first."""
    found = await visit.run(list_listeners())
    return {"listeners": found[:MOST], "left_out": max(len(found) - MOST, 0)}


PAGE = Page("listeners", "/listeners", "Listeners", show)
