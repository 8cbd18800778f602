"""Emits an event: python send_event.py NAME [--payload JSON] [--queue QUEUE]."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from absurd import Absurd, AbsurdError


def main() -> int:
    parser = argparse.ArgumentParser(description="Emits an event; tasks that wait for it go on.")
    parser.add_argument("name", metavar="NAME", help="name of the event, such as payment.confirmed:12345")
    parser.add_argument("--payload", "-p", metavar="JSON", help="what the waiting tasks get; null if nothing is said")
    parser.add_argument("--queue", "-q", default="examples", help="queue of the event (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        payload: Any = None if arguments.payload is None else json.loads(arguments.payload)
    except ValueError as error:
        print(f"Error: Invalid JSON payload: {error}", file=sys.stderr)
        return 1
    try:
        emit(arguments.queue, arguments.name, payload)
    except AbsurdError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def emit(queue: str, name: str, payload: Any) -> None:
    print(f"Emitting event to queue '{queue}':")
    print(f"  Event name: {name}")
    print(f"  Payload: {json.dumps(payload, indent=2, ensure_ascii=False)}")
    with Absurd(queue_name=queue) as app:
        app.emit_event(name, payload)
    print("✓ Event emitted successfully!")
    print()
    print("If a task was waiting for this event, it will now resume.")


if __name__ == "__main__":
    sys.exit(main())
