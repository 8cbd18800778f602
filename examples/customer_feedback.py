"""A third event: after payment and delivery the order waits a while for the customer's feedback.

The events are sent before anything waits for them, and in the wrong order. That makes no difference: they are kept.

Run it: python customer_feedback.py
"""

from __future__ import annotations

import uuid
from typing import Any

from absurd import Absurd, Context

app = Absurd(queue_name="example-feedback")

FEEDBACK_SECONDS = 7 * 24 * 3600


@app.register_task("order-with-feedback")
def order_with_feedback(params: dict[str, Any], ctx: Context) -> dict[str, Any]:
    order_id = params["order_id"]
    payment = ctx.await_event(f"payment.confirmed:{order_id}")
    ctx.print(f"✓ Payment confirmed: {payment}")
    delivery = ctx.await_event(f"shipment.delivered:{order_id}")
    ctx.print(f"✓ Delivery confirmed: {delivery}")
    try:
        feedback = ctx.await_event(f"customer.feedback:{order_id}", timeout=FEEDBACK_SECONDS)
    except TimeoutError:
        return {"rating": None}
    ctx.print(f"✓ Feedback received: {feedback}")
    return ctx.step("store-feedback", store_feedback, feedback)


def store_feedback(feedback: dict[str, Any]) -> dict[str, Any]:
    return {"rating": feedback["rating"], "stored": True}


def main() -> None:
    app.create_queue()
    order_id = uuid.uuid4().hex
    app.emit_event(f"customer.feedback:{order_id}", {"rating": 5, "comment": "Quick and friendly"})
    app.emit_event(f"shipment.delivered:{order_id}", {"delivered_at": "2025-01-03T14:30:00Z"})
    app.emit_event(f"payment.confirmed:{order_id}", {"amount": 99.99})
    with app.worker():
        task = app.spawn(order_with_feedback, {"order_id": order_id})
        print(f"Result: {task.result(timeout=30)}")
    app.close()


if __name__ == "__main__":
    main()
