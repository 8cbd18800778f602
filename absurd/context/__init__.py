"""What a handler holds: one core as generators, a sync and an async shell, and the methods that people call."""

from __future__ import annotations

from absurd.context.aio import AsyncContext
from absurd.context.base import BaseContext, Port, get_current_context, set_current_context
from absurd.context.children import ChildTask
from absurd.context.core import Core
from absurd.context.sync import Context
from absurd.context.tokens import Token

__all__ = [
    "AsyncContext",
    "BaseContext",
    "ChildTask",
    "Context",
    "Core",
    "Port",
    "Token",
    "get_current_context",
    "set_current_context",
]
