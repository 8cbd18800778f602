"""docs/performance.md"""

from __future__ import annotations

from pathlib import Path

from bench.results import Results


def write(results: Results, docs: Path) -> None:
    """To come."""
    raise NotImplementedError
