"""A queue fills up because nobody serves it. A trigger sees that and starts a task, which adds a worker; once, not at every look.

Run it: python queue_depth_trigger.py
"""

from __future__ import annotations

import threading
from typing import Any

from absurd import Absurd, Context, QueueDepthTrigger

images = Absurd(queue_name="example-images")
operations = Absurd(queue_name="example-operations")
empty = threading.Event()


@images.register_task("resize")
def resize(params: dict[str, Any], ctx: Context) -> str:
    return f"{params['file']} is small now"


@operations.register_task("add-worker")
def add_worker(params: dict[str, Any], ctx: Context) -> None:
    ctx.print(f"📈 {params['threshold']} tasks wait in {params['queue']}: adding a worker")
    with images.worker():
        empty.wait(60)


operations.add_trigger(QueueDepthTrigger("example-images", 3, task=add_worker, name="example-queue-depth", poll_interval="200ms"))


def main() -> None:
    images.create_queue()
    operations.create_queue()
    with operations.worker():
        tasks = [images.spawn(resize, {"file": f"photo-{number}.jpg"}) for number in (1, 2, 3)]
        for task in tasks:
            print("✓", task.result(timeout=60))
        empty.set()
    print("Fired by the trigger:", len(operations.trigger_executions("example-queue-depth", limit=1)))
    images.close()
    operations.close()


if __name__ == "__main__":
    main()
