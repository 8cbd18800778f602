"""Looks at a database and says what is wrong with it, why that matters, and what to do."""

from __future__ import annotations

from absurd.doctor.examination import examine
from absurd.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
