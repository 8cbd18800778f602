"""Whichever comes first: an order waits for its payment and, at the same time, for its cancellation.

Run it: python order_cancellation.py
"""

from __future__ import annotations

import uuid
from typing import Any

from absurd import Absurd, Context

app = Absurd(queue_name="example-cancellation")


@app.register_task("cancellable-order")
def cancellable_order(params: dict[str, Any], ctx: Context) -> dict[str, Any]:
    order_id = params["order_id"]
    paid, cancelled = f"payment.confirmed:{order_id}", f"order.cancelled:{order_id}"
    inventory = ctx.step("reserve-inventory", reserve_inventory)
    ctx.print(f"✓ Inventory reserved: {inventory}")

    event, payload = ctx.await_any([paid, cancelled])
    if event == cancelled:
        ctx.print(f"✗ Order cancelled: {payload}")
        released = ctx.step("release-inventory", release_inventory, inventory)
        return {"status": "cancelled", "released": released}
    ctx.print(f"✓ Payment confirmed: {payload}")
    return {"status": "paid", "items": inventory}


def reserve_inventory() -> list[str]:
    return ["widget-A", "gadget-B"]


def release_inventory(items: list[str]) -> list[str]:
    return items


def main() -> None:
    app.create_queue()
    with app.worker():
        for event, payload in (("payment.confirmed", {"amount": 99.99}), ("order.cancelled", {"reason": "changed my mind"})):
            order_id = uuid.uuid4().hex
            task = app.spawn(cancellable_order, {"order_id": order_id})
            app.emit_event(f"{event}:{order_id}", payload)
            print(f"Result: {task.result(timeout=30)}")
    app.close()


if __name__ == "__main__":
    main()
