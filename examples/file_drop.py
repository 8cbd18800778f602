"""A file that is dropped into a directory starts a pipeline: the listener waits until it is written, the task reads and sums it.

Run it: python file_drop.py
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

from absurd import Absurd, Context
from absurd.listeners import FileListener

app = Absurd(queue_name="example-files")
done = threading.Event()


@app.register_task("import-file")
def import_file(params: dict[str, Any], ctx: Context) -> int:
    path = Path(params["path"])
    numbers = ctx.step("read", lambda: [int(line) for line in path.read_text().splitlines()])
    total = ctx.step("sum", lambda: sum(numbers))
    ctx.print(f"📥 {path.name} ({params['change']}): {len(numbers)} numbers, {total} in all")
    done.set()
    return total


def main() -> None:
    app.create_queue()
    with tempfile.TemporaryDirectory() as directory, app.worker():
        listener = FileListener(directory, "import-file", pattern="*.csv", quiet_seconds=0.2, app=app)
        thread = threading.Thread(target=listener.start_listening)
        thread.start()
        with Path(directory, "sales.csv").open("w") as file:
            for number in range(1, 5):
                print(number, file=file, flush=True)
        done.wait(30)
        listener.stop()
        thread.join()
    app.close()


if __name__ == "__main__":
    main()
