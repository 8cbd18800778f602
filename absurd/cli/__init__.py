"""The command line: ``absurdctl``, which is the same program as ``python -m absurd``."""

from __future__ import annotations

from absurd.cli.app import app, main

__all__ = ["app", "main"]
