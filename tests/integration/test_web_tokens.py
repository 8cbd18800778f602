"""The link of a token: what a browser shows, what a post does, and what neither does."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from httpx import Response

from absurd import Absurd, Context
from tests.support import wait_until
from tests.support_web import serving

HOSTILE = "</title><script>alert(1)</script>\"'&"

Ask = Callable[..., str]


@dataclass
class Decision:
    """What a manager answers."""

    approved: bool
    comment: str = ""


@dataclass
class Payout:
    """An answer with a field of one line."""

    approved: bool
    amount: int


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as made:

        @made.register_task("ask", retry="none")
        def ask(params: Any, ctx: Context) -> Any:
            kinds = {"decision": Decision, "payout": Payout, "bool": bool, "text": str}
            params = {**params, "type": kinds.get(params.get("type"))}
            token = ctx.create_token("approval", **params)
            ctx.step("secret", lambda: token.secret)
            return repr(ctx.await_token(token))

        yield made


@pytest.fixture
def ask(app: Absurd, conn: psycopg.Connection[Any]) -> Iterator[Ask]:
    """Spawns a task that asks, and returns the path of its token."""

    def spawn(**params: Any) -> str:
        handle = app.spawn("ask", params)

        def secret() -> Any:
            sql = "select state from absurd.checkpoints where task_id = %s and step_name = 'secret'"
            return conn.execute(sql, (handle.task_id,)).fetchone()

        return f"/tokens/{wait_until(secret)[0]}"

    with app.worker(poll_interval=0.1):
        yield spawn


@pytest.fixture
def web(app: Absurd) -> Iterator[TestClient]:
    with serving(app) as client:
        del client.headers["X-API-Key"]  # the link is all that a person has
        yield client


def _result(conn: psycopg.Connection[Any]) -> Any:
    (found,) = wait_until(lambda: conn.execute("select result from absurd.tasks where outcome is not null").fetchone())
    return found


def _buttons(page: Response) -> list[tuple[str, str, str]]:
    return re.findall(r'<button type="submit" name="(\w+)" value="([^"]*)">([^<]*)</button>', page.text)


def test_a2_a_person_opens_the_link_and_presses_a_button(web: TestClient, ask: Ask, conn: psycopg.Connection[Any]) -> None:
    path = ask(type="decision", title="Refund 80 €?", description="Order 7\nis broken", timeout="3d")
    for _ in range(3):  # mail scanners and previews look too
        page = web.get(path)
    assert page.status_code == 200
    assert (web.head(path).status_code, web.head(f"{path}0").status_code) == (200, 404)
    assert "<h1>Refund 80 €?</h1>" in page.text
    assert _buttons(page) == [("approved", "true", "Yes"), ("approved", "false", "No")]
    assert 'name="comment"' in page.text
    assert "This link works once, until 20" in page.text
    done = web.post(path, data={"approved": "true", "comment": "fine"})
    assert (done.status_code, "Thank you" in done.text) == (200, True)
    assert _result(conn) == "Decision(approved=True, comment='fine')"
    again = web.post(path, data={"approved": "false"})
    assert (again.status_code, "Already answered" in again.text) == (409, True)
    assert "more than once, the first time counted" in again.text
    assert web.get(path).status_code == 409


def test_enter_in_a_field_presses_no_button(web: TestClient, ask: Ask) -> None:
    # A browser presses the first button of the form then, and none if that one is disabled.
    for kind in ("payout", "decision", "bool"):
        first = re.findall(r"<button[^>]*>", web.get(ask(type=kind)).text)[0]
        assert first == '<button type="submit" disabled hidden>'
    # Without such buttons Enter sends the form, as people are used to.
    assert re.findall(r"<button[^>]*>", web.get(ask(type="text")).text) == ['<button type="submit">']


def test_a_program_posts_json(web: TestClient, ask: Ask, conn: psycopg.Connection[Any]) -> None:
    path = ask(type="decision")
    refused = web.post(path, json={"approved": "perhaps"})
    assert refused.status_code == 422
    assert "$.approved: 'perhaps' is not of type 'boolean'" in refused.json()["detail"]
    assert web.post(path, json={"approved": False}).json() == {"status": "ok"}
    assert _result(conn) == "Decision(approved=False, comment='')"
    assert web.post(path, json={"approved": True}).status_code == 409


def test_page_keeps_the_link_to_itself_and_loads_nothing(web: TestClient, ask: Ask) -> None:
    for page in (web.get(ask(type="bool")), web.get("/tokens/unknown")):
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert re.findall(r"(?:src|href|action|onclick)=|<script|url\(|@import", page.text) == []
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page.text


def test_hostile_texts_are_shown_and_never_obeyed(web: TestClient, ask: Ask) -> None:
    path = ask(type="decision", title=HOSTILE, description=HOSTILE)
    pages = [web.get(path), web.post(path, data={"comment": f"</textarea>{HOSTILE}"}), web.post(path, data={HOSTILE: "x"})]
    assert [page.status_code for page in pages] == [200, 422, 422]
    for page in pages:
        assert "<script" not in page.text
        assert page.text.count("</title>") == 1
        assert html.escape(HOSTILE) in page.text
    # What was filled in is still there, beside the reason.
    assert html.escape(f"</textarea>{HOSTILE}") in pages[1].text
    assert "&#x27;approved&#x27; is a required property" in pages[1].text


def test_a_token_without_a_type_takes_any_json(web: TestClient, ask: Ask, conn: psycopg.Connection[Any]) -> None:
    path = ask()
    assert "as JSON" in web.get(path).text
    assert web.post(path, data={"answer": "{"}).status_code == 422
    assert web.post(path, data={"answer": '{"a": [1]}'}).status_code == 200
    assert _result(conn) == "{'a': [1]}"


def test_a_post_without_a_body_answers_null(web: TestClient, ask: Ask, conn: psycopg.Connection[Any]) -> None:
    assert web.post(ask()).json() == {"status": "ok"}
    assert _result(conn) == "None"


@pytest.mark.parametrize(
    "path", ["/tokens/guess", "/tokens/%00", "/tokens/%ff", "/tokens/é", f"/tokens/{'x' * 5000}", "/tokens/a b"]
)
def test_an_unknown_token_is_not_found(web: TestClient, path: str) -> None:
    assert web.get(path).status_code == 404
    assert web.post(path, data={"answer": "1"}).status_code == 404
    assert web.post(path, json=1).status_code == 404


def test_an_expired_token_and_one_whose_task_has_ended_are_gone(
    web: TestClient, ask: Ask, app: Absurd, conn: psycopg.Connection[Any]
) -> None:
    expired, ended = ask(timeout=0.01), ask()
    wait_until(lambda: conn.execute("select from absurd.tasks where outcome = 'failed'").fetchone() is not None)
    (task_id,) = conn.execute("select task_id from absurd.tasks where outcome is null").fetchone() or (None,)
    app.cancel_task(str(task_id))
    for path, reason in ((expired, "has expired"), (ended, "has ended")):
        for answer in (web.get(path), web.post(path, data={"answer": "1"}), web.post(path, json=1)):
            assert answer.status_code == 410
            assert reason in answer.text


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        ({"content": b"x" * 2_000_000, "headers": {"Content-Type": "application/json"}}, 413),
        ({"content": b"answer=" + b"x" * 2_000_000, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 413),
        ({"content": b"a=1&" * 2000, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400),
        ({"content": b"answer=%ff", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400),
        ({"content": b"answer=\xff", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400),
        ({"content": b'answer="%00"', "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 422),
        ({"content": b'answer="\\u0000"', "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 422),
        ({"content": b"answer=" + b"[" * 10_000, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 422),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b'"\\ud800"', "headers": {"Content-Type": "application/json"}}, 422),
        ({"content": b"1e999", "headers": {"Content-Type": "application/json"}}, 422),
        ({"content": b"yes", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"files": {"answer": b"1"}}, 415),
    ],
)
def test_a_body_that_cannot_be_an_answer_is_refused_and_the_token_stays_open(
    web: TestClient, ask: Ask, request_of: dict[str, Any], status: int
) -> None:
    path = ask()
    refused = web.post(path, **request_of)
    assert refused.status_code == status, refused.text
    assert web.get(path).status_code == 200


def test_an_answer_larger_than_the_queue_allows_is_refused(web: TestClient, ask: Ask, conn: psycopg.Connection[Any]) -> None:
    path = ask(type="text")
    conn.execute("update absurd.queues set max_payload_bytes = 1024")
    refused = web.post(path, data={"answer": "x" * 2000})
    assert (refused.status_code, "has 2002 bytes" in refused.text) == (413, True)
    assert web.get(path).status_code == 200


def test_log_of_an_error_names_the_path_but_no_token(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Absurd("postgresql://someone@127.0.0.1:1/nothing")) as web:
        assert web.get("/tokens/5ec2e7").status_code == 503
        assert web.post("/api/tasks/add").status_code == 503
    assert "GET /tokens/…: PostgreSQL at" in caplog.text
    assert "POST /api/tasks/add: PostgreSQL at" in caplog.text
    assert "5ec2e7" not in caplog.text
