"""Worker processes: whether they live, what each runs, and until when it holds that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absurd.queries import dashboard
from absurd.web.dashboard.page import Page, Visit

# Runs that are shown of each worker, and workers.
RUNS, WORKERS = 5, 100


async def show(visit: Visit) -> Mapping[str, Any]:
    """Workers, the oldest first."""
    found = await visit.run(dashboard.page_of_workers(RUNS, WORKERS))
    versions = sorted({worker.version for worker in found})
    return {"workers": found, "most": WORKERS, "mixed": versions if len(versions) > 1 else None}


PAGE = Page("workers", "/workers", "Workers", show)
