"""Sources outside that start tasks: message brokers, files, notifications, webhooks, and what users write themselves."""

from __future__ import annotations

from absurd.listeners.base import AsyncEventListener, EventListener, Result
from absurd.listeners.files import FileListener
from absurd.listeners.notify import NotifyListener
from absurd.listeners.principal import Principal
from absurd.listeners.rabbitmq import RabbitMQListener
from absurd.listeners.run import run_listener
from absurd.listeners.scheduler import Scheduler
from absurd.listeners.webhook import WebhookListener

__all__ = [
    "AsyncEventListener",
    "EventListener",
    "FileListener",
    "NotifyListener",
    "Principal",
    "RabbitMQListener",
    "Result",
    "Scheduler",
    "WebhookListener",
    "run_listener",
]
