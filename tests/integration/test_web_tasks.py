"""Tasks over HTTP: spawn, look, cancel, retry, emit; keys, limits and bad input."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import absurd.web
from absurd import Absurd, AsyncAbsurd, ConfigurationError
from absurd.errors import NonRetryableError
from absurd.web import health
from absurd.web.stopping import answering_when_stopped
from tests.support_web import KEY, serving


@dataclass
class Order:
    number: int


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as app:

        @app.register_task("add")
        def add(params: Any, ctx: Any) -> Any:
            return {"z": params["a"] + params["b"], "a": 1}

        @app.register_task("typed")
        def typed(order: Order, ctx: Any) -> int:
            return order.number

        @app.register_task("fail")
        def fail(params: Any, ctx: Any) -> None:
            raise NonRetryableError("no money")

        yield app


@pytest.fixture
def web(app: Absurd) -> Iterator[TestClient]:
    with serving(app) as client:
        yield client


def spawn(web: TestClient, name: str = "add", **body: Any) -> dict[str, Any]:
    answer = web.post(f"/api/tasks/{name}", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_spawned_task_runs_and_shows_its_result_with_keys_in_order(app: Absurd, web: TestClient) -> None:
    made = spawn(web, params={"b": 2, "a": 12345678901234567890})
    assert made["created"] is True
    assert made["attempt"] == 1
    app.run_worker_once()
    answer = web.get(f"/api/tasks/{made['task_id']}")
    found = answer.json()
    assert found["state"] == "completed"
    assert found["run_id"] == made["run_id"]
    assert '"result" : {"z":12345678901234567892,"a":1}' in answer.text
    assert list(found["params"]) == ["b", "a"]
    assert found["failure"] is None


def test_spawned_task_says_that_http_started_it(web: TestClient) -> None:
    made = spawn(web, params=None, headers={"tenant": 7})
    assert web.get(f"/api/tasks/{made['task_id']}").json()["headers"] == {
        "absurd-source": {"kind": "http", "name": "api"},
        "tenant": 7,
    }


def test_options_of_a_spawn_apply(app: Absurd, web: TestClient) -> None:
    app.create_queue("other")
    made = spawn(
        web, params=[1], queue="other", priority=5, max_attempts=3, delay=3600, retry={"kind": "fixed", "base_seconds": 2}
    )
    found = web.get(f"/api/tasks/{made['task_id']}").json()
    assert (found["queue_name"], found["priority"], found["max_attempts"]) == ("other", 5, 3)
    assert found["state"] == "sleeping"
    later = spawn(web, params=[1], available_at="2026-12-31T08:00:00+01:00")
    assert web.get(f"/api/tasks/{later['task_id']}").status_code == 200


def test_unregistered_task_and_name_with_slash_can_be_spawned(web: TestClient) -> None:
    made = spawn(web, "mail/send%20now")
    assert web.get(f"/api/tasks/{made['task_id']}").json()["task_name"] == "mail/send now"


def test_idempotency_key_in_body_or_header_makes_one_task(web: TestClient) -> None:
    first = spawn(web, params=1, idempotency_key="order 1")
    second = web.post("/api/tasks/add", json={"params": 2}, headers={"Idempotency-Key": "order 1"}).json()
    assert second == {**first, "created": False}
    body, other = {"params": 2, "idempotency_key": "order 1"}, {"Idempotency-Key": "order 2"}
    two = web.post("/api/tasks/add", json=body, headers=other)
    assert two.status_code == 422
    assert "differ; give one of them" in two.json()["detail"]
    assert web.post("/api/tasks/add", json=body, headers={"Idempotency-Key": "order 1"}).json() == second


def test_body_may_be_missing(web: TestClient) -> None:
    assert web.post("/api/tasks/add").status_code == 201


def test_params_must_fit_their_declared_type(web: TestClient) -> None:
    spawn(web, "typed", params={"number": 3})
    answer = web.post("/api/tasks/typed", json={"params": {"number": "three"}})
    assert answer.status_code == 422
    assert "does not fit Order" in answer.json()["detail"]


def test_cancel_says_the_state_and_twice_is_harmless(web: TestClient) -> None:
    made = spawn(web, params={})
    for _ in range(2):
        answer = web.post(f"/api/tasks/{made['task_id']}/cancel")
        assert (answer.status_code, answer.json()) == (200, {"task_id": made["task_id"], "state": "cancelled"})


def test_retry_gives_a_failed_task_another_attempt_and_a_live_one_none(app: Absurd, web: TestClient) -> None:
    made = spawn(web, "fail")
    early = web.post(f"/api/tasks/{made['task_id']}/retry")
    assert early.status_code == 409
    assert "is pending" in early.json()["detail"]
    app.run_worker_once()
    shown = web.get(f"/api/tasks/{made['task_id']}").json()
    assert (shown["state"], shown["failure"]["message"]) == ("failed", "no money")
    again = web.post(f"/api/tasks/{made['task_id']}/retry", json={"max_attempts": 7})
    assert again.status_code == 200
    assert again.json()["attempt"] == 2
    assert web.get(f"/api/tasks/{made['task_id']}").json()["failure"]["message"] == "no money"
    copy = web.post(f"/api/tasks/{made['task_id']}/retry", json={"spawn_new": True}).json()
    assert copy["task_id"] != made["task_id"]


def test_emit_wakes_the_waiter(app: Absurd, web: TestClient) -> None:
    @app.register_task("wait")
    def wait(params: Any, ctx: Any) -> Any:
        return ctx.await_event("order/paid:1")

    task = app.spawn("wait")
    app.run_worker_once()
    answer = web.post("/api/emit/default/order/paid:1", json={"amount": 1})
    assert answer.status_code == 200
    assert answer.json()["event"] == "order/paid:1"
    app.run_worker_once()
    assert task.result(timeout=5) == {"amount": 1}


@pytest.mark.parametrize("method", ["get", "cancel", "retry"])
def test_unknown_task_is_404_and_a_bad_id_422(web: TestClient, method: str) -> None:
    for task_id, status in ((str(uuid.uuid4()), 404), ("no-uuid", 422)):
        path = f"/api/tasks/{task_id}"
        answer = web.get(path) if method == "get" else web.post(f"{path}/{method}")
        assert answer.status_code == status
        assert isinstance(answer.json()["detail"], str)


def test_unknown_queue_is_404(web: TestClient) -> None:
    assert web.post("/api/tasks/add", json={"queue": "nowhere"}).status_code == 404
    answer = web.post("/api/emit/nowhere/e")
    assert answer.status_code == 404
    assert '"nowhere" does not exist' in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "no JSON"),
        (b'{"params": NaN}', 400, "NaN is no JSON number"),
        (b'{"params": 1e999}', 422, "inf"),
        (b'{"params": ' + b"9" * 5000 + b"}", 400, "no JSON"),
        (b"[" * 100_000, 400, ""),
        (b'{"params": ' + b"[" * 300 + b"]" * 300 + b"}", 422, "nested more than 200"),
        (b'{"params": "\\u0000"}', 422, "NUL"),
        (b'{"\\ud800": 1}', 422, "lone surrogate"),
        (b"\xff\xfe", 400, "UTF-8"),
        (b"[]", 422, "object"),
        (b'{"nope": 1}', 422, "nope"),
        (b'{"delay": -1}', 422, "delay"),
        (b'{"delay": true}', 422, "delay"),
        (b'{"delay": 1' + b"0" * 400 + b"}", 422, "delay"),
        (b'{"priority": 99999999999999999999}', 422, "priority"),
        (b'{"max_attempts": 0}', 422, "max_attempts"),
        (b'{"retry": "sometimes"}', 422, "retry"),
        (b'{"retry": {"kind": "fixed", "base_seconds": 1' + b"0" * 400 + b"}}", 422, "base_seconds"),
        (b'{"cancellation": {"max_delay": []}}', 422, "max_delay"),
        (b'{"available_at": "2026-01-01T00:00:00"}', 422, "available_at"),
        (b'{"available_at": "9999-12-31T00:00:00Z"}', 422, "available_at"),
        (b'{"queue": ""}', 422, "queue"),
        (b'{"idempotency_key": ""}', 422, "idempotency_key"),
        (b'{"headers": []}', 422, "headers"),
    ],
)
def test_bad_input_is_answered_with_its_reason(web: TestClient, body: bytes, status: int, said: str) -> None:
    answer = web.post("/api/tasks/add", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]


def test_names_that_cannot_be_stored_are_422(web: TestClient) -> None:
    for path in ("/api/tasks/%00", f"/api/tasks/{'x' * 1001}", "/api/emit/default/%00", f"/api/emit/{'q' * 58}/e"):
        assert web.post(path).status_code == 422, path


def test_body_that_is_said_to_be_no_json_is_415(web: TestClient) -> None:
    for kind in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {}):
        assert web.post("/api/tasks/add", content=b'{"params": 1}', headers=kind).status_code == 415
    assert web.post("/api/tasks/add", content=b"{}", headers={"Content-Type": "Application/Vnd.api+JSON; a=b"}).status_code == 201


def test_body_over_the_limit_is_413_also_in_chunks(app: Absurd) -> None:
    with serving(app, max_body_bytes=1000) as web:
        kind = {"Content-Type": "application/json"}
        fits = json.dumps({"params": "x" * 986}).encode()
        assert len(fits) == 1000
        assert web.post("/api/tasks/add", content=fits, headers=kind).status_code == 201
        assert web.post("/api/tasks/add", content=fits + b" ", headers=kind).status_code == 413
        answer = web.post("/api/tasks/add", content=(b" " * 600 for _ in range(2)), headers=kind)
        assert answer.status_code == 413
        assert answer.json()["detail"] == "the body is larger than 1000 bytes, the limit of this server"


def test_params_over_the_limit_of_the_queue_are_413(app: Absurd, web: TestClient) -> None:
    app.set_queue_limits(max_payload_bytes=1024)
    assert web.post("/api/tasks/add", json={"params": "x" * 2000}).status_code == 413


def test_key_is_required_and_wrong_ones_are_refused_before_the_body_is_read(web: TestClient) -> None:
    for given in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
        web.headers.pop("x-api-key", None)
        answer = web.post("/api/tasks/add", content=b"{", headers=given)
        assert answer.status_code == 401, given
        assert answer.headers["www-authenticate"].startswith("Bearer")
    non_ascii = web.post("/api/tasks/add", headers=[(b"x-api-key", "schlüssel €".encode())])
    assert non_ascii.status_code == 401
    assert web.post("/api/tasks/add", headers={"Authorization": f"bearer {KEY}"}).status_code == 201
    assert web.get("/healthz").status_code == 200
    assert web.get("/readyz").json() == {"status": "ready"}
    assert [(web.head(path).status_code, web.head(path).content) for path in ("/healthz", "/readyz")] == [(200, b""), (200, b"")]


def test_key_is_read_from_the_environment_and_must_be_there(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Absurd(database_url)
    monkeypatch.delenv("ABSURD_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="set ABSURD_API_KEY"):
        absurd.web.router(app)
    monkeypatch.setenv("ABSURD_API_KEY", "from the environment")
    with pytest.raises(ConfigurationError, match="visible ASCII"):
        absurd.web.router(app)
    monkeypatch.setenv("ABSURD_API_KEY", "from-the-environment")
    with TestClient(absurd.web.create_app(app)) as web:
        assert web.get(f"/api/tasks/{uuid.uuid4()}").status_code == 401
        assert web.get(f"/api/tasks/{uuid.uuid4()}", headers={"X-API-Key": "from-the-environment"}).status_code == 404


def test_router_is_mounted_in_an_application_of_the_users(database_url: str) -> None:
    app = AsyncAbsurd(database_url)
    outer = FastAPI()

    @outer.get("/own")
    def own() -> str:
        return "mine"

    outer.include_router(absurd.web.router(app, api_key=None), prefix="/durable")
    for _ in range(2):  # also when it is started again
        with TestClient(outer) as web:
            assert web.get("/own").json() == "mine"
            assert web.post("/durable/api/tasks/add").status_code == 201
            assert web.post("/durable/api/tasks/add", content=b"x").status_code == 415


def test_app_on_a_connection_is_served_from_connections_of_the_servers_own(database_url: str, conn: Any) -> None:
    with serving(Absurd(conn)) as web, conn.transaction():
        made = spawn(web)
        assert web.get(f"/api/tasks/{made['task_id']}").status_code == 200


def test_what_is_no_app_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not 'postgresql"):
        absurd.web.create_app("postgresql://x", api_key=None)  # type: ignore[arg-type]


LOCAL = {"base_url": "http://localhost:8000"}


def test_without_a_key_only_localhost_is_answered_and_no_page_of_another_origin(database_url: str) -> None:
    web = TestClient(absurd.web.create_app(Absurd(database_url), api_key=None, loopback_only=True), **LOCAL)
    with web:
        for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "127.0.0.1"):
            assert web.post("/api/tasks/add", headers={"Host": host}).status_code == 201, host
        for host in ("evil.example", "localhost.evil.example", "10.0.0.1:8000", "", "[::1", "127.0.0.1.evil.example:80"):
            assert web.post("/api/tasks/add", headers={"Host": host}).status_code == 403, host
        for page in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:3000"},
            {"Origin": "http://["},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            assert web.post("/api/tasks/add", headers=page).status_code == 403, page
        assert web.post("/api/tasks/add", headers={"Origin": "http://localhost:8000"}).status_code == 201


def test_database_away_is_503_with_retry_after_and_tells_nothing_of_the_inside() -> None:
    with serving(Absurd("postgresql://someone:geheim@127.0.0.1:1/nothing")) as web:
        for answer in (web.post("/api/tasks/add"), web.get("/readyz"), web.get(f"/api/tasks/{uuid.uuid4()}")):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert "127.0.0.1" not in answer.text
            assert "geheim" not in answer.text
        assert web.get("/healthz").status_code == 200


def test_log_says_that_the_database_did_not_answer_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "READY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://someone@127.0.0.1:{silent.getsockname()[1]}/nothing"
        with serving(Absurd(url)) as web:
            assert web.get("/readyz").status_code == 503
    assert "not ready: the database did not answer within 0.2 s" in caplog.text


def test_request_that_a_stopping_server_cancels_is_answered_503(app: Absurd) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return await asyncio.Future()  # the body never comes

    async def send(message: Any) -> None:
        sent.append(message)

    async def request(stopping: bool) -> None:
        web = answering_when_stopped(absurd.web.create_app(app, api_key=None), lambda: stopping)
        head = {
            "method": "POST",
            "path": "/api/tasks/add",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        running = asyncio.ensure_future(web({"type": "http", **head}, receive, send))
        await asyncio.sleep(0)  # it has begun
        running.cancel()
        await running

    asyncio.run(request(stopping=True))
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]
    assert b"the server stops" in sent[1]["body"]
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(request(stopping=False))


def test_schema_that_is_missing_is_not_ready(empty_database_url: str) -> None:
    with serving(Absurd(empty_database_url)) as web:
        assert web.get("/readyz").status_code == 503
        assert web.post("/api/tasks/add").status_code == 503


def test_hook_that_raises_is_500_without_a_stack_trace(app: Absurd, web: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    @app.before_spawn
    def broken(name: str, params: Any, options: Any) -> None:
        raise RuntimeError("secret detail")

    answer = web.post("/api/tasks/add")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text


def test_interactive_pages_are_off_because_they_load_from_elsewhere(web: TestClient) -> None:
    assert web.get("/docs").status_code == 404
    assert web.get("/redoc").status_code == 404
    document = web.get("/openapi.json").json()
    assert document["paths"]["/api/tasks/{name}"]["post"]["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}]
