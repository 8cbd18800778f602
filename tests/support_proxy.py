"""A TCP proxy before PostgreSQL that loses statements or their answers, as a network does at the worst moment."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Literal

from psycopg.conninfo import conninfo_to_dict, make_conninfo

READY = b"Z\x00\x00\x00\x05"  # ReadyForQuery: the server has answered everything that was asked
Loss = Literal["statement", "answer", "half"]
"""What is lost: the statement, its answer, or the second half of the answer."""


@dataclass
class Rule:
    """Break the connection when ``pattern`` passes, before the statement arrives or before its answer does."""

    pattern: bytes
    loss: Loss
    application: str
    times: int = 1
    applied: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, application: str, tail: bytes) -> bool:
        """Whether it applies now; it does so a limited number of times."""
        if self.application not in application or self.pattern not in tail:
            return False
        with self.lock:
            if self.applied >= self.times:
                return False
            self.applied += 1
            return True


class LossyProxy:
    """Forwards connections to a server; a context manager."""

    def __init__(self, url: str) -> None:
        self._target = conninfo_to_dict(url)
        self._rules: list[Rule] = []
        self._links: list[_Link] = []
        self.delay = 0.0
        """Seconds that everything which the server sends is late."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()
        parts = {**self._target, "host": host, "port": port, "sslmode": "disable", "gssencmode": "disable"}
        self.url = make_conninfo(**parts)
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, pattern: str, loss: Loss, application: str = "absurd worker") -> Rule:
        """Adds a rule."""
        rule = Rule(pattern.encode(), loss, application)
        self._rules.append(rule)
        return rule

    def cut(self) -> None:
        """Breaks all connections and takes no more."""
        self.refuse()
        self.cut_links()

    def refuse(self) -> None:
        """Takes no more connections."""
        # Closing alone would not wake the accept() that waits on the listener.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut_links(self) -> None:
        """Breaks the connections that there are."""
        links, self._links = self._links, []
        for link in links:
            link.close()

    def half_close(self) -> int:
        """Says on all connections that the server sends no more, though it still listens; how many there were."""
        links, self._links = self._links, []
        for link in links:
            link.half_close()
        return len(links)

    def __enter__(self) -> LossyProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._links.append(_Link(client, self._connect(), self._rules, self))

    def _connect(self) -> socket.socket:
        host, port = str(self._target.get("host") or "127.0.0.1"), int(self._target.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket, rules: list[Rule], proxy: LossyProxy) -> None:
        self._proxy = proxy
        self._client, self._server, self._rules = client, server, rules
        self._application = ""
        self._dropping = False
        self._halving = False
        for work in (self._upward, self._downward):
            threading.Thread(target=work, daemon=True).start()

    def _upward(self) -> None:
        tail = b""
        with contextlib.suppress(OSError):
            while data := self._client.recv(65536):
                if not self._application:
                    self._application = _application_name(data)
                tail = (tail + data)[-200_000:]
                rule = next((rule for rule in self._rules if rule.take(self._application, tail)), None)
                if rule is not None:
                    tail = b""
                    if rule.loss == "statement":
                        break
                    if rule.loss == "half":
                        self._halving = True
                    else:
                        self._dropping = True
                self._server.sendall(data)
        if not self._dropping and not self._halving:
            self.close()

    def _downward(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(65536):
                if self._dropping:
                    if READY in data:
                        break
                    continue
                if self._halving:
                    self._client.sendall(data[: len(data) // 2])
                    break
                if self._proxy.delay:
                    time.sleep(self._proxy.delay)
                self._client.sendall(data)
        self.close()

    def half_close(self) -> None:
        """Ends the way down to the client only."""
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Ends the connection on both sides."""
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _application_name(startup: bytes) -> str:
    parts = startup[8:].split(b"\x00")
    names = dict(zip(parts[::2], parts[1::2], strict=False))
    return names.get(b"application_name", b"?").decode()
