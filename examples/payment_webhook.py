"""A webhook that emits: the payment provider calls us by HTTP, and the order that waits for it goes on.

The answer is sent after the event is durable, so that a provider that gets no answer calls again; a second call is harmless,
because a wait takes the first event of its name.

Run it: python payment_webhook.py
"""

from __future__ import annotations

import json
import threading
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from absurd import Absurd, AbsurdError, Context

app = Absurd(queue_name="example-webhook")


@app.register_task("order-paid-by-webhook")
def order_paid_by_webhook(params: dict[str, Any], ctx: Context) -> dict[str, Any]:
    ctx.print("⏳ Waiting for the payment provider's call")
    payment = ctx.await_event(f"payment.confirmed:{params['order_id']}")
    ctx.print(f"✓ Payment confirmed: {payment}")
    return {"status": "paid", "amount": payment["amount"]}


class Webhook(BaseHTTPRequestHandler):
    """``POST /payments/ORDER_ID`` with a JSON body. Check the caller's signature here before you use this in earnest."""

    def do_POST(self) -> None:
        _, _, order_id = self.path.rpartition("/")
        try:
            payment = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            app.emit_event(f"payment.confirmed:{order_id}", payment)
        except (ValueError, TypeError) as error:
            self.answer(400, {"error": str(error)})
        except AbsurdError as error:
            self.answer(503, {"error": str(error)})
        else:
            self.answer(200, {"status": "accepted"})

    def answer(self, status: int, body: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: Any) -> None:
        """Keeps standard error quiet."""


def call(url: str, payload: Any) -> str:
    """What the payment provider does."""
    request = urllib.request.Request(url, json.dumps(payload).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return f"{response.status} {response.read().decode()}"


def main() -> None:
    app.create_queue()
    order_id = uuid.uuid4().hex
    server = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/payments/{order_id}"
    with app.worker():
        task = app.spawn(order_paid_by_webhook, {"order_id": order_id})
        answers = [call(url, {"amount": 99.99, "currency": "EUR"}) for _ in range(2)]
        print(f"Result: {task.result(timeout=30)}")
    print(f"The provider got: {answers}")
    server.shutdown()
    app.close()


if __name__ == "__main__":
    main()
