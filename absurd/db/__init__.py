"""Connections to PostgreSQL: making them, pooling them, running a query on them, and telling what went wrong."""

from __future__ import annotations

from absurd.db.async_pool import AsyncPool
from absurd.db.connect import connect, connect_async
from absurd.db.execution import run, run_async, send
from absurd.db.notices import Notices
from absurd.db.pool import Pool
from absurd.db.translate import mask, translate, where

__all__ = ["AsyncPool", "Notices", "Pool", "connect", "connect_async", "mask", "run", "run_async", "send", "translate", "where"]
