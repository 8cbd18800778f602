"""Starts tasks for HTTP requests: ``POST /trigger/nightly-report``; a server of the standard library, for other programs."""

from __future__ import annotations

import hmac
import io
import ipaddress
import json
import logging
import os
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from absurd import failpoints
from absurd.errors import ConfigurationError, InvalidOptionError
from absurd.listeners.base import EventListener, Result
from absurd.listeners.order import MalformedMessageError, read_json

logger = logging.getLogger("absurd.listeners")

KEY_VARIABLE = "ABSURD_API_KEY"
PREFIX = "/trigger/"
PORT = 8090
MAX_BODY_BYTES = 1_000_000
# The body of a refused request is read and dropped up to here: who is still sending when the connection ends sees no answer.
DROPPED_BYTES = 32 * 1024 * 1024
# Seconds in which a request must have come, and for each piece of its answer: nobody keeps a thread by sending byte after byte.
REQUEST_SECONDS = 10.0
# Seconds between two looks whether the listener shall end.
LOOK_SECONDS = 0.2


class WebhookListener(EventListener):
    """Answers ``POST /trigger/WORKFLOW_ID`` when the task is durable.

    The JSON body is the task's params; an empty one is none. The header ``Idempotency-Key`` makes a repeated call harmless.

    ====== ========================================================== ==================================
    status body                                                       when
    ====== ========================================================== ==================================
    200    ``{"status": "triggered", "workflow": WORKFLOW_ID}``       the task is durable
    500    ``{"status": "failed", "error": …}``                       it is not; call again later
    400    the same                                                   the body is no JSON
    401    the same                                                   the API key is missing or wrong
    413    the same                                                   the body has more than 1 MB
    ====== ========================================================== ==================================

    With an API key callers send it as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``. Without one the server listens on the
    loopback interface only, and refuses what web pages send.
    """

    def __init__(self, host: str = "127.0.0.1", port: int | str = PORT, *, api_key: str | None = None, **settings: Any) -> None:
        """Makes the listener.

        Args:
            host: the address to listen on.
            port: the port; 0 is any that is free, and ``address`` says which.
            api_key: what callers must name; ``ABSURD_API_KEY`` if nothing is said.
            settings: ``app``, ``target_queue`` and ``name`` of ``EventListener``.

        Raises:
            ConfigurationError: there is no key and the address can be reached from outside, or an argument cannot be used.
        """
        super().__init__(**settings)
        if isinstance(port, str) and port.isdigit():
            port = int(port)
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
            raise InvalidOptionError(f"port must be a whole number from 0 to 65535, not {port!r}")
        self._host, self._port = host, port
        self._key = _checked_key(api_key if api_key is not None else os.environ.get(KEY_VARIABLE) or None)
        if self._key is None and not _is_loopback(host):
            raise ConfigurationError(
                f"a webhook listener on {host!r} can be reached by others and needs a key; set {KEY_VARIABLE}, or use 127.0.0.1"
            )
        self.address: tuple[str, int] | None = None
        """Host and port, while it listens."""

    def start_listening(self) -> None:
        """Serves until it is stopped; requests that are being answered then are answered."""
        with _Server(self, self._host, self._port) as server:
            host, port = server.server_address[:2]
            self.address = (str(host), port)
            logger.info("%s answers POST http://%s:%s%sWORKFLOW_ID", self._label, host, port, PREFIX)
            while not self.stopped.is_set():
                server.handle_request()
        self.address = None

    def _may_call(self, headers: Any) -> bool:
        if self._key is None:
            return True
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("X-API-Key", "")
        return hmac.compare_digest(given.encode("latin-1", "replace"), self._key.encode())

    def _trigger(self, workflow_id: str, params: Any, key: str | None, caller: str) -> Result:
        return self._run_workflow(workflow_id, params, key, caller=caller)


class _Server(ThreadingHTTPServer):
    """The server; each request has a thread of its own, which the end of the listener waits for."""

    daemon_threads = False
    timeout = LOOK_SECONDS

    def __init__(self, listener: WebhookListener, host: str, port: int) -> None:
        self.listener = listener
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what a caller who went away leaves behind."""
        logger.debug("the request of %s ended early", client_address, exc_info=True)


class _Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _InTime(io.RawIOBase):
    """What a caller sends, up to a moment; raises ``TimeoutError`` after it."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request did not come in time")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "absurd"
    sys_version = ""
    _has_body = False

    def setup(self) -> None:
        """Reads the request against the clock."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_InTime(self.connection, REQUEST_SECONDS))

    def do_POST(self) -> None:
        """Starts the task and says so."""
        try:
            workflow_id = self._workflow_id()
            self._check_caller()
            params = self._params()
        except _Refused as refusal:
            self._answer(refusal.status, {"status": "failed", "error": str(refusal)})
            self._drop_body()
            return
        listener = self.server.listener
        result = listener._trigger(workflow_id, params, self.headers.get("Idempotency-Key"), self.client_address[0])
        if failpoints.hook is not None:
            failpoints.hook("webhook.started", listener)
        if result.success:
            self._answer(200, {"status": "triggered", "workflow": workflow_id})
        else:
            self._answer(500, {"status": "failed", "error": result.error})

    def do_GET(self) -> None:
        """Says what to do instead."""
        self._answer(405, {"status": "failed", "error": f"use POST {PREFIX}WORKFLOW_ID"})

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815 (the names are the base class's)

    def _workflow_id(self) -> str:
        path = urlsplit(self.path).path
        workflow_id = unquote(path.removeprefix(PREFIX), errors="replace")
        if not path.startswith(PREFIX) or not workflow_id:
            raise _Refused(404, f"there is no {path}; use POST {PREFIX}WORKFLOW_ID")
        return workflow_id

    def _check_caller(self) -> None:
        listener = self.server.listener
        if not listener._may_call(self.headers):
            raise _Refused(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY or X-API-Key: KEY")
        if listener._key is None and ("Origin" in self.headers or not _is_loopback(_name_in(self.headers.get("Host", "")))):
            # A page that somebody on this machine looks at, perhaps under a name that leads here (DNS rebinding).
            raise _Refused(403, f"without an API key only programs on this machine are answered; set {KEY_VARIABLE}")

    def _params(self) -> Any:
        text = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (text.isascii() and text.isdigit()):
            raise _Refused(411, "send the body with its Content-Length")
        if len(text) > 15 or int(text) > MAX_BODY_BYTES:
            raise _Refused(413, f"the body has {text} bytes; {MAX_BODY_BYTES} are allowed")
        self._has_body = True
        body = self.rfile.read(int(text))
        if len(body) < int(text):
            raise _Refused(400, "the body ended before its Content-Length")
        try:
            return read_json(body) if body.strip() else None
        except MalformedMessageError as error:
            raise _Refused(400, f"the body cannot be used: {error}") from None

    def _drop_body(self) -> None:
        if self._has_body:
            return
        text = self.headers.get("Content-Length", "0")
        left = min(int(text[:15]), DROPPED_BYTES) if text.isascii() and text.isdigit() else 0
        self.wfile.flush()
        while left > 0 and (part := self.rfile.read(min(left, 65_536))):
            left -= len(part)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.connection.settimeout(REQUEST_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        """Requests go to the log of the listeners."""
        logger.debug("%s: %s", self.client_address[0], format % args)


def _checked_key(key: object) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or not key or not all("!" <= sign <= "~" for sign in key):
        raise ConfigurationError("the API key must be made of visible ASCII characters, without blanks")
    return key


def _name_in(host: str) -> str:
    """The name or address in a Host header; one without the header (HTTP/1.0) is this machine's."""
    if not host:
        return "localhost"
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
