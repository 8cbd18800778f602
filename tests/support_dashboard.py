"""A browser without scripts for tests of the dashboard: it keeps cookies, follows links and sends the forms of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import urljoin

import httpx
import psycopg
from fastapi import FastAPI
from fastapi.testclient import TestClient

from absurd import Absurd
from absurd.client.base import BaseClient
from absurd.web import dashboard

# What somebody could store who wants a page to run it.
HOSTILE = "<script>alert('x')</script>\"'&{{ 7+7 }}"


@dataclass(slots=True)
class Visitor:
    """Somebody who looks at the dashboard. Errors that the server did not answer itself are raised here."""

    web: TestClient
    prefix: str = ""

    def get(self, place: str = "", status: int = 200, **settings: Any) -> httpx.Response:
        """A page of the dashboard; redirects are not followed."""
        answer = self.web.get(f"{self.prefix}/{place}", follow_redirects=False, **settings)
        assert answer.status_code == status, f"{place}: {answer.status_code} {text_of(answer)}"
        return answer

    def text(self, place: str = "", status: int = 200) -> str:
        """What a person reads on a page."""
        return text_of(self.get(place, status))

    def csrf(self, place: str = "") -> str:
        """The secret that the forms of this session send along."""
        found = re.search(r'name="csrf" (?:value|content)="([0-9a-f]+)"', self.get(place).text)
        assert found is not None
        return found[1]

    def post(self, place: str, fields: Mapping[str, str], status: int = 303, **settings: Any) -> httpx.Response:
        """Sends a form with the secret."""
        data = {"csrf": self.csrf(), **fields}
        answer = self.web.post(f"{self.prefix}/{place}", data=data, follow_redirects=False, **settings)
        assert answer.status_code == status, f"{place}: {answer.status_code} {text_of(answer)}"
        return answer

    def press(self, place: str, button: str, status: int = 303, **instead: str) -> str:
        """Presses a button of a page, as it stands there, and returns what the next page says."""
        action, fields = form_of(self.get(place), button, **instead)
        answer = self.web.post(action, data=fields, follow_redirects=False)
        assert answer.status_code == status, text_of(answer)
        return text_of(self.follow(answer)) if status == 303 else text_of(answer)

    def follow(self, answer: httpx.Response) -> httpx.Response:
        """Where a redirect leads to."""
        return self.web.get(urljoin(str(answer.url), answer.headers["location"]), follow_redirects=False)


def form_of(page: httpx.Response, button: str, **instead: str) -> tuple[str, dict[str, str]]:
    """Where the form of a button is sent, and with which fields; ``instead``: some of them, where several have such a button."""
    for form in re.findall(r"<form[^>]*method=\"post\".*?</form>", page.text, re.DOTALL):
        fields = {unescape(name): unescape(value) for name, value in re.findall(r'name="([^"]*)" value="([^"]*)"', form)}
        if button in re.findall(r"<button[^>]*>([^<]*)</button>", form) and instead.items() <= fields.items():
            return urljoin(str(page.url), unescape(re.search(r'action="([^"]*)"', form)[1])), fields  # type: ignore[index]
    raise AssertionError(f"there is no button {button!r} for {instead} on {page.url}")


def text_of(answer: httpx.Response) -> str:
    """A page as words with one blank between them."""
    body = re.sub(r"<(script|style|title)\b.*?</\1>", " ", answer.text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body.replace("<wbr>", ""))).split())


def row_ids(page: str, prefix: str = "task-") -> list[str]:
    """The ids of the rows of a list, without the prefix."""
    return [unescape(found) for found in re.findall(rf'<tr id="{prefix}([^"]+)"', page)]


@contextmanager
def visiting(app: BaseClient | None, *, host: str = "localhost", client: str = "127.0.0.1", **settings: Any) -> Iterator[Visitor]:
    """Somebody on this machine who looks at the dashboard of an application."""
    with visiting_web(dashboard.create_app(app, **settings), host=host, client=client) as visitor:
        yield visitor


@contextmanager
def visiting_web(web: FastAPI, prefix: str = "", *, host: str = "localhost", client: str = "127.0.0.1") -> Iterator[Visitor]:
    """The same for a dashboard below a prefix of an application."""
    with TestClient(web, base_url=f"http://{host}", client=(client, 50000), raise_server_exceptions=True) as made:
        yield Visitor(made, prefix)


def register_trigger(conn: psycopg.Connection[Any], name: str, task: str = "greet") -> None:
    """A trigger, as a worker registers it."""
    conn.execute("select absurd.register_trigger(%s, 'default', %s, 30, 10, false, null, null, null)", (name, task))


def register_worker(conn: psycopg.Connection[Any], worker_id: str, *queues: str, version: str = "1.0") -> None:
    """A worker that has just begun."""
    sql = "select absurd.register_worker(%s, %s, %s, 4711, %s, 8, 30)"
    conn.execute(sql, (worker_id, list(queues) or ["default"], worker_id, version))


def listen(conn: psycopg.Connection[Any], name: str, status: str = "listening", error: str | None = None) -> None:
    """A listener that says how it fares."""
    sql = "select absurd.heartbeat_listener(%s, %s, 'default', %s, 4711, %s, 2, %s, %s)"
    conn.execute(sql, (f"listener of {name}", name, name, status, 0 if error is None else 3, error))


@contextmanager
def greeting(database_url: str) -> Iterator[Absurd]:
    """An application with one task, which fails, waits or sleeps as its params say."""
    made = Absurd(database_url)

    @made.register_task("greet", max_attempts=1)
    def greet(params: Any, ctx: Any) -> Any:
        if params and params.get("fail"):
            raise ValueError(params["fail"])
        if params and params.get("event"):
            return ctx.await_event(params["event"])
        if params and params.get("sleep"):
            ctx.sleep_for(params["sleep"])
        return params

    yield made
    made.close()
