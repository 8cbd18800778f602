"""An approval by link: the task mails a link to a manager and sleeps, for days if need be, until somebody presses a button there.

The link is a page of ``absurd.web``, served here in the same program; ``absurdctl serve`` serves it too. Three refunds are asked
for: one is approved, one is refused, and of one nobody takes notice.

Run it: python approval_by_link.py
"""

from __future__ import annotations

import html
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from typing import Any

import uvicorn

from absurd import Absurd, Context
from absurd.web import create_app

app = Absurd(queue_name="example-approval")
mailbox: Queue[str] = Queue()  # stands for the manager's


@dataclass
class Decision:
    approved: bool
    comment: str = ""


@app.register_task("refund")
def refund(params: dict[str, Any], ctx: Context) -> dict[str, Any]:
    customer, amount = params["customer"], params["amount"]
    token = ctx.create_token(
        "approval",
        timeout=params.get("patience", "3d"),
        type=Decision,
        title=f"Refund {amount} € to {customer}?",
        description=f"{customer} says that the parcel never came.",
    )
    ctx.step("mail the manager", send_mail, customer, token.url)
    try:
        decision = ctx.await_token(token)
    except TimeoutError:
        ctx.print(f"⏰ {customer}: nobody has answered in time")
        return {"status": "escalated"}
    if not decision.approved:
        ctx.print(f"✗ {customer}: refused: {decision.comment}")
        return {"status": "refused"}
    ctx.print(f"✓ {customer}: approved")
    return {"status": "refunded", "amount": ctx.step("pay back", lambda: amount)}


def send_mail(customer: str, url: str) -> None:
    print(f"📧 {customer}: a mail to the manager")
    mailbox.put(url)


def press(url: str, **fields: str) -> None:
    """What the manager's browser does: it shows the page, and posts what was filled in."""
    try:
        with urllib.request.urlopen(url, timeout=10) as page:
            print(f"👤 {headline(page)} {fields}")
        with urllib.request.urlopen(url, urllib.parse.urlencode(fields).encode(), timeout=10):
            pass
    except urllib.error.HTTPError as error:
        with error:
            print(f"👤 {error.code}: {headline(error)}")


def headline(page: Any) -> str:
    found = re.search("<h1>(.*)</h1>", page.read().decode())
    return html.unescape(found[1]) if found else "?"


@contextmanager
def serving() -> Any:
    """The pages, on a free port of this machine; the address under which they are."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    web = create_app(app, loopback_only=True)
    server = uvicorn.Server(uvicorn.Config(web, log_level="warning", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    app.create_queue()
    with serving() as url, app.worker():
        app.registry.public_url = url  # in earnest: Absurd(public_url="https://example.com"), or ABSURD_PUBLIC_URL

        task = app.spawn(refund, {"customer": "Ada", "amount": 80})
        link = mailbox.get(timeout=30)
        press(link, approved="true", comment="poor Ada")
        print(f"Result: {task.result(timeout=30)}")
        press(link, approved="true")  # once more: a link works once

        task = app.spawn(refund, {"customer": "Bob", "amount": 9000})
        press(mailbox.get(timeout=30), approved="false", comment="too much")
        print(f"Result: {task.result(timeout=30)}")

        task = app.spawn(refund, {"customer": "Cleo", "amount": 20, "patience": 0.2})
        link = mailbox.get(timeout=30)
        print(f"Result: {task.result(timeout=30)}")
        press(link, approved="true")  # too late
    app.close()


if __name__ == "__main__":
    main()
