"""A small application, to try the files in this directory with; put your own in its place."""

from __future__ import annotations

from typing import Any

from absurd import Absurd, Context

app = Absurd(queue_name="orders")


@app.register_task("ship")
def ship(params: dict[str, Any], ctx: Context) -> str:
    """Packs an order, and waits until somebody has taken it."""
    ctx.step("pack", lambda: f"packed {params['order']}")
    courier = ctx.await_event(f"picked-up {params['order']}", timeout=86_400)
    return f"order {params['order']} went with {courier['name']}"
