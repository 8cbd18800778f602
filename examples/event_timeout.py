"""A wait that ends by itself: an order is paid after a reminder, or is cancelled when that does not help.

Run it: python event_timeout.py
"""

from __future__ import annotations

import uuid
from typing import Any

from absurd import Absurd, Context

app = Absurd(queue_name="example-timeout")

WAIT_SECONDS = 0.5  # a real shop would wait for days; nothing is held meanwhile


@app.register_task("order-with-deadline")
def order_with_deadline(params: dict[str, Any], ctx: Context) -> dict[str, Any]:
    event = f"payment.confirmed:{params['order_id']}"
    ctx.print(f"⏳ {params['customer']}: waiting for the payment")
    try:
        payment = ctx.await_event(event, timeout=WAIT_SECONDS)
    except TimeoutError:  # the builtin; nothing to import
        ctx.print(f"⏰ {params['customer']}: no payment yet, sending a reminder")
        ctx.step("send-reminder", send_reminder, params)
        try:
            payment = ctx.await_event(event, timeout=WAIT_SECONDS)
        except TimeoutError:
            ctx.print(f"✗ {params['customer']}: still no payment, the order is cancelled")
            return {"status": "cancelled"}
    ctx.print(f"✓ {params['customer']}: payment confirmed: {payment}")
    return {"status": "paid", "amount": payment["amount"]}


def send_reminder(params: dict[str, Any]) -> None:
    """Sends the reminder. Ada pays when she gets it; Bob does not."""
    if params["customer"] == "Ada":
        app.emit_event(f"payment.confirmed:{params['order_id']}", {"amount": 99.99})


def main() -> None:
    app.create_queue()
    with app.worker():
        for customer in ("Ada", "Bob"):
            task = app.spawn(order_with_deadline, {"order_id": uuid.uuid4().hex, "customer": customer})
            print(f"Result: {task.result(timeout=30)}")
    app.close()


if __name__ == "__main__":
    main()
