"""What application code holds: ``Absurd`` and ``AsyncAbsurd``."""

from __future__ import annotations

from absurd.client.async_client import AsyncAbsurd
from absurd.client.handles import AsyncTaskHandle, TaskHandle
from absurd.client.sync_client import Absurd

__all__ = ["Absurd", "AsyncAbsurd", "AsyncTaskHandle", "TaskHandle"]
