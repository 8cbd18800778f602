"""Schedules: when slots come, what an application declares, and the loop that fires them."""

from __future__ import annotations

from absurd.schedules.declared import Reconciliation, declared_schedules
from absurd.schedules.loop import ScheduleLoop

__all__ = ["Reconciliation", "ScheduleLoop", "declared_schedules"]
