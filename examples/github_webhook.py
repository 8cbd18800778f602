"""A GitHub push starts a build: the webhook is signed as GitHub signs, and a delivery that comes twice builds once.

In earnest, with WEBHOOK_SECRET and ABSURD_API_KEY: python -m absurd serve --app github_webhook:app --host 0.0.0.0, and a worker.
At GitHub: payload URL https://your.example/webhooks/push, content type application/json, and the same secret.

Run it: python github_webhook.py
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

import uvicorn

import absurd.web
from absurd import Absurd, Context

app = Absurd(queue_name="example-github")
SECRET = "It's a Secret to Everybody"


@app.register_task("build")
def build(params: dict[str, Any], ctx: Context) -> str:
    push = params["event_payload"]
    if push["headers"]["x-github-event"] != "push":
        return "nothing to build"  # the ping of a new webhook
    ctx.print(f"🔨 Building {push['repository']['name']} at {push['after'][:7]}, pushed by {push['pusher']['name']}")
    return str(push["after"])


def deliver(url: str, body: bytes, delivery: str, signature: str) -> str:
    """What GitHub does."""
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    request = urllib.request.Request(f"{url}/webhooks/push", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return f"{response.status} {response.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"


def start_server() -> tuple[uvicorn.Server, str]:
    """The webhooks, on a free port of this machine."""
    web = absurd.web.create_app(app, api_key=None, loopback_only=True, webhook_secret=SECRET)
    server = uvicorn.Server(uvicorn.Config(web, port=0, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return server, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def main() -> None:
    app.create_queue()
    app.subscribe("push", build)
    server, url = start_server()
    push = {"ref": "refs/heads/main", "after": "6dcb09b5b57875f3", "repository": {"name": "shop"}, "pusher": {"name": "Ada"}}
    body, delivery = json.dumps(push).encode(), str(uuid.uuid4())
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    for given in (signature, signature, "0" * 64):
        print(f"GitHub got: {deliver(url, body, delivery, given)}")
    app.run_worker_once()
    server.should_exit = True
    app.close()


if __name__ == "__main__":
    main()
