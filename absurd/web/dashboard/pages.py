"""The pages, in the order of the navigation."""

from __future__ import annotations

from collections.abc import Sequence

from absurd.web.dashboard import (
    events,
    listeners,
    overview,
    queues,
    schedules,
    subscriptions,
    task,
    tasks,
    triggers,
    waits,
    workers,
)
from absurd.web.dashboard.page import Page

PAGES: Sequence[Page] = (
    overview.PAGE,
    tasks.PAGE,
    task.PAGE,
    task.VALUE_PAGE,
    events.PAGE,
    events.EVENT_PAGE,
    waits.PAGE,
    schedules.PAGE,
    schedules.SCHEDULE_PAGE,
    triggers.PAGE,
    triggers.TRIGGER_PAGE,
    subscriptions.PAGE,
    listeners.PAGE,
    workers.PAGE,
    queues.PAGE,
)
