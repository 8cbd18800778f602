"""The systems, one file each."""

from __future__ import annotations

import importlib

from bench.adapter import Adapter

# In the order in which they are run and shown.
NAMES = ("absurd", "absurd-sdk", "dbos", "procrastinate", "pgqueuer", "awa", "bare")


def load(name: str) -> type[Adapter]:
    """The adapter of a system."""
    module = importlib.import_module(f"bench.systems.{name.replace('-', '_')}_adapter")
    adapter: type[Adapter] = module.System
    return adapter
