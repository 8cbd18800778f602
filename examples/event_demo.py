"""An order that waits for two events: payment and delivery. Between them nothing runs and nothing is held.

    python event_demo.py spawn [ORDER_ID]    spawns the order (12345 unless another id is given)
    python event_demo.py                     runs the worker
    python send_event.py payment.confirmed:12345 --payload '{"amount": 99.99}'

The same worker without this file's main program: ``python -m absurd worker --app event_demo:app --queue examples``.
"""

from __future__ import annotations

import shlex
import sys
from typing import Any

from absurd import Absurd, AbsurdError, Context

QUEUE = "examples"
DEFAULT_ORDER_ID = "12345"
USAGE = "Usage: python event_demo.py [spawn [ORDER_ID]]"

app = Absurd(queue_name=QUEUE)


@app.register_task("order-fulfillment")
def order_fulfillment(params: dict[str, Any], ctx: Context) -> dict[str, Any]:
    order_id = params["order_id"]
    # After each wait this function starts again from the top. ctx.step returns what it returned before without running
    # again, and ctx.print is silent until something new happens.
    ctx.print(f"📦 Starting order fulfillment for order: {order_id}")

    inventory = ctx.step("reserve-inventory", reserve_inventory)
    ctx.print(f"✓ Inventory reserved: {inventory}")

    ctx.print(f"⏳ Waiting for payment confirmation: payment.confirmed:{order_id}")
    payment = ctx.await_event(f"payment.confirmed:{order_id}")
    ctx.print(f"✓ Payment confirmed: {payment}")

    shipment = ctx.step("ship-order", ship_order, order_id)
    ctx.print(f"✓ Order shipped: {shipment}")

    ctx.print(f"⏳ Waiting for delivery: shipment.delivered:{order_id}")
    delivery = ctx.await_event(f"shipment.delivered:{order_id}")
    ctx.print(f"✓ Delivery confirmed: {delivery}")

    summary = ctx.step("finalize-order", finalize_order, order_id, shipment, delivery)
    ctx.print(f"🎉 Order {order_id} completed successfully!")
    return summary


def reserve_inventory() -> dict[str, Any]:
    return {"items": ["widget-A", "gadget-B"], "warehouse": "US-EAST-1", "reserved_at": "2025-01-01T10:00:00Z"}


def ship_order(order_id: str) -> dict[str, Any]:
    return {"tracking_number": f"1Z999{order_id}", "carrier": "UPS", "shipped_at": "2025-01-01T12:00:00Z"}


def finalize_order(order_id: str, shipment: dict[str, Any], delivery: Any) -> dict[str, Any]:
    return {"order_id": order_id, "status": "completed", "tracking_number": shipment["tracking_number"], "delivery": delivery}


def spawn(order_id: str) -> None:
    print("Absurd Event-Driven Workflow Demo")
    print("=" * 70)
    app.create_queue(QUEUE)
    print(f"✓ Queue '{QUEUE}' ready")
    task = app.spawn(order_fulfillment, {"order_id": order_id})
    print("✓ Spawned order fulfillment task:")
    print(f"  Order ID: {order_id}")
    print(f"  Task ID: {task.task_id}")
    print(f"  Run ID: {task.run_id}")
    payment = shlex.quote(f"payment.confirmed:{order_id}")
    delivery = shlex.quote(f"shipment.delivered:{order_id}")
    print()
    print("Next steps:")
    print("  1. Start the worker in another terminal:")
    print("     python event_demo.py")
    print("  2. Send the payment event:")
    print(f"""     python send_event.py {payment} --payload '{{"amount": 99.99, "transaction_id": "txn_abc123"}}'""")
    print("  3. Send the delivery event:")
    print(
        f"""     python send_event.py {delivery} --payload '{{"delivered_at": "2025-01-03T14:30:00Z", "signature": "J. Doe"}}'"""
    )


def work() -> None:
    app.create_queue(QUEUE)
    print(f"Worker started on queue '{QUEUE}'; Ctrl-C stops it.", flush=True)
    app.start_worker()


def main(arguments: list[str]) -> int:
    if arguments and (arguments[0] != "spawn" or len(arguments) > 2):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        if arguments:
            spawn(arguments[1] if len(arguments) == 2 else DEFAULT_ORDER_ID)
        else:
            work()
    except AbsurdError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
