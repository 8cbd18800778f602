"""Fan-out and fan-in: a report spawns one task for each region, sleeps until all are done, and adds up.

One worker slot is enough for parent and children: a task that waits holds none.

Run it: python fan_out.py
"""

from __future__ import annotations

from typing import Any

from absurd import Absurd, Context

app = Absurd(queue_name="example-fan-out")

SALES = {"north": [120, 80], "south": [200], "west": [40, 40, 20]}


@app.register_task("region-sales")
def region_sales(params: dict[str, Any], ctx: Context) -> int:
    return ctx.step("add-up", sum, SALES[params["region"]])


@app.register_task("sales-report")
def sales_report(params: dict[str, Any], ctx: Context) -> dict[str, Any]:
    regions = sorted(SALES)
    ctx.print(f"📊 Asking {len(regions)} regions")
    children = ctx.spawn_many(region_sales, [{"region": region} for region in regions])
    totals = ctx.gather(*children)
    for region, total in zip(regions, totals, strict=True):
        ctx.print(f"  {region}: {total}")
    return {"year": params["year"], "total": sum(totals)}


def main() -> None:
    app.create_queue()
    with app.worker(concurrency=1):
        task = app.spawn(sales_report, {"year": 2025})
        print(f"Result: {task.result(timeout=30)}")
    app.close()


if __name__ == "__main__":
    main()
