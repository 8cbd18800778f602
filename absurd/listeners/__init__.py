"""Sources outside that start tasks: message brokers, files, notifications, webhooks, and what users write themselves."""

from __future__ import annotations

from absurd.listeners.base import AsyncEventListener, EventListener, Result
from absurd.listeners.principal import Principal

__all__ = ["AsyncEventListener", "EventListener", "Principal", "Result"]
