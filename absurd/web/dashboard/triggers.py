"""Polled triggers: who asks them, how it went, and what they fired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from absurd.queries import triggers
from absurd.web.dashboard.forms import require
from absurd.web.dashboard.page import PAGE_ROWS, Done, NotFound, Page, Visit

# Triggers are declared in code: more than this are not shown.
MOST = 500


async def show(visit: Visit) -> Mapping[str, Any]:
    """All triggers, in order of name."""
    found = await visit.run(triggers.list_triggers())
    return {"triggers": found[:MOST], "left_out": max(len(found) - MOST, 0)}


async def show_trigger(visit: Visit) -> Mapping[str, Any]:
    """One trigger with its fires, the newest first."""
    name = visit.arg("name") or ""
    trigger = next((one for one in await visit.run(triggers.list_triggers()) if one.name == name), None)
    if trigger is None:
        raise NotFound(f'There is no trigger "{name[:200]}".')
    fires = await visit.run(triggers.list_trigger_executions(name, visit.number("before"), PAGE_ROWS))
    return {
        "trigger": trigger,
        "fires": fires,
        "next": urlencode({"name": name, "before": fires[-1].execution_id}) if len(fires) == PAGE_ROWS else None,
        "newest": urlencode({"name": name}) if visit.number("before") is not None else False,
    }


async def enable(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Lets a trigger be polled again."""
    name = require(fields, "name", "the name of a trigger")
    await visit.client.enable_trigger(name)
    return Done(f"Trigger {name} is enabled.")


async def disable(visit: Visit, fields: Mapping[str, str]) -> Done:
    """Stops the polls of a trigger."""
    name = require(fields, "name", "the name of a trigger")
    await visit.client.disable_trigger(name)
    return Done(f"Trigger {name} is disabled; it fires nothing any more.")


PAGE = Page("triggers", "/triggers", "Triggers", show, {"enable": enable, "disable": disable})
TRIGGER_PAGE = Page("trigger", "/trigger", "Trigger", show_trigger, PAGE.actions, "triggers")
