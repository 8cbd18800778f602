"""The benchmark: this library side by side with other task libraries on PostgreSQL. ``python -m bench --help``."""

from __future__ import annotations
