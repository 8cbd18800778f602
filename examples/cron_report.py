"""A report by the clock: declared in code, fired by any worker, each time once.

Here it comes every second, so that there is something to see; the usual thing would be "0 7 * * MON-FRI".

Run it: python cron_report.py
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from absurd import Absurd, Context

app = Absurd(queue_name="example-cron-report")

slots: list[datetime] = []


@app.schedule("* * * * * *", name="cron-report", timezone="Europe/Vienna", params={"title": "Sales"})
@app.register_task("cron-report")
def cron_report(params: dict[str, Any], ctx: Context) -> None:
    slot = ctx.headers["absurd-source"]["slot"]
    ctx.step("write", lambda: f"{params['title']} up to {slot}")
    slots.append(datetime.fromisoformat(slot))


def main() -> None:
    app.create_queue()
    app.reconcile_schedules()
    app.resume_schedule("cron-report")
    with app.worker():
        while len(slots) < 3:
            time.sleep(0.05)
        app.pause_schedule("cron-report")
    print("📊 Three reports have come by the clock")
    first, second, third = sorted(slots)[:3]
    print(f"⏱ A second apart: {third - second == second - first == timedelta(seconds=1)}")

    # Times that nobody was there for are run when you say so, each once.
    count = app.backfill_schedule("cron-report", first - timedelta(seconds=5), third + timedelta(seconds=1))
    print(f"⏪ Run afterwards: {count} of {count + 3}")
    app.delete_schedule("cron-report")
    app.close()


if __name__ == "__main__":
    main()
