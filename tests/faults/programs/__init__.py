"""Random programs: what they are made of, who makes them, who plays them, and what must come of them.

A program is a tree of plain JSON, so that it can be the params of a task, a line of the corpus and a message to a person.

A **task** is ``{"key", "task", "queue", "nodes", "options"}`` (the options are those of its spawn) and, if need be, ``"racing"``
(somebody cancels it at some moment) and ``"exhausts"`` (its attempts are limited, and all of them fail). One key, one task.

A **node** is ``{"op", "id", …}``. ``interpreter.Player`` has a method for each op, which does it; ``oracle`` knows what must come
of it. ``id`` is unique within the task, and names its step.

A **root** is a task with ``"outside"``: what clients do meanwhile, ``{"act", "at", …}``, so many seconds after its spawn (before
it, if that is negative).
"""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]
Task = dict[str, Any]

QUEUES = ("alpha", "beta")
SYNC, ASYNC = "play-sync", "play-async"
SUBSCRIBED = "subscribed:"
"""Events whose names begin so start a task, whose program is their payload."""
