"""All or nothing: an order and the task that handles it are written in one transaction of ours.

Inside the task ctx.transaction does the same: the new balance and the record of the step commit together, so exactly once.

Run it: python spawn_in_transaction.py
"""

from __future__ import annotations

from typing import Any

import psycopg

from absurd import Absurd, Context

app = Absurd(queue_name="example-transaction")

TABLE = "create table if not exists example_orders (order_id integer primary key, status text not null)"


@app.register_task("handle-order")
def handle_order(params: dict[str, Any], ctx: Context) -> str:
    return ctx.transaction("mark-paid", mark_paid, params["order_id"])


def mark_paid(conn: psycopg.Connection[Any], order_id: int) -> str:
    conn.execute("update example_orders set status = 'paid' where order_id = %s", [order_id])
    return "paid"


def place_order(conn: psycopg.Connection[Any], order_id: int) -> Any:
    """Writes the order and spawns its task; neither is there until the caller commits."""
    conn.execute("insert into example_orders values (%s, 'new')", [order_id])
    return app.spawn(handle_order, {"order_id": order_id}, conn=conn)


def main() -> None:
    app.create_queue()
    with psycopg.connect(app.database_url) as conn:
        conn.execute(TABLE)
        conn.execute("truncate example_orders")
        conn.commit()

        place_order(conn, 1)
        conn.rollback()
        (count,) = conn.execute("select count(*) from example_orders").fetchone() or (None,)
        print(f"After the rollback: {count} orders")

        task = place_order(conn, 2)
        conn.commit()
        with app.worker():
            print(f"Result: {task.result(timeout=30)}")
        for order_id, status in conn.execute("select order_id, status from example_orders"):
            print(f"Order {order_id} is {status}")
        conn.execute("drop table example_orders")
    app.close()


if __name__ == "__main__":
    main()
