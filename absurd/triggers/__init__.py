"""Polled triggers: conditions that workers ask again and again, and that start tasks."""

from __future__ import annotations

from absurd.triggers.files import FileTrigger
from absurd.triggers.health_check import HealthCheckTrigger
from absurd.triggers.queue_depth import QueueDepthTrigger
from absurd.triggers.trigger import Fire, FunctionTrigger, Skip, Trigger

__all__ = ["FileTrigger", "Fire", "FunctionTrigger", "HealthCheckTrigger", "QueueDepthTrigger", "Skip", "Trigger"]
