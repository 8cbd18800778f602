"""Embedded PostgreSQL: one development server per user, found or started when no database URL is given.

``ensure()`` is all that most callers need: it returns the URL of a database with the schema installed, and starts the server
first if it does not run. The server outlives the process that started it and is shared by all processes of the user, until
``stop()``. Its data live under ``home()`` and survive restarts, crashes and ``kill -9``.

``Server`` starts a private server in a directory of the caller's choice, for tests and benchmarks.
"""

from __future__ import annotations

from absurd.devdb.binaries import Binaries, find_binaries
from absurd.devdb.paths import home
from absurd.devdb.server import Server
from absurd.devdb.shared import Status, ensure, status, stop

__all__ = ["Binaries", "Server", "Status", "ensure", "find_binaries", "home", "status", "stop"]
