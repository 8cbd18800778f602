"""Subscriptions and webhooks over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from absurd import Absurd
from absurd.web import backend
from absurd.web.signatures import sign
from tests.support_web import SECRET, serving


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    with Absurd(database_url) as app:
        yield app


@pytest.fixture
def web(app: Absurd) -> Iterator[TestClient]:
    with serving(app) as client:
        yield client


def subscribe(web: TestClient, event: str, task: str, **more: Any) -> None:
    assert web.post(f"/api/events/subscribe/{event}", json={"workflow_id": task, **more}).status_code == 200


def deliver(web: TestClient, event: str, body: bytes = b"{}", **headers: str) -> Any:
    signed = {"X-Webhook-Signature": sign(SECRET, body), "Content-Type": "application/json"}
    return web.post(f"/webhooks/{event}", content=body, headers={**signed, **headers})


def tasks(conn: psycopg.Connection[Any]) -> list[tuple[str, Any, Any]]:
    return conn.execute("select task_name, params, headers from absurd.tasks order by task_id").fetchall()


def test_g14_subscribe_answers_with_the_subscription(web: TestClient) -> None:
    for _ in range(2):
        answer = web.post("/api/events/subscribe/order.placed", json={"workflow_id": "ship", "config": {"b": 1, "a": 2}})
        assert answer.status_code == 200
        found = answer.json()
        assert found["message"] == "Workflow ship subscribed to event order.placed"
        assert found["subscription"]["workflow_id"] == "ship"
        assert list(found["subscription"]["config"].items()) == [("b", 1), ("a", 2)]
        assert found["subscription"]["created_at"]
    assert len(web.get("/api/events/order.placed").json()["order.placed"]) == 1


def test_g14_subscribe_refuses_what_cannot_be_used(web: TestClient) -> None:
    for event, body in (("e", {}), ("e", {"workflow_id": ""}), ("e", {"workflow_id": 1}), ("a*b", {"workflow_id": "t"})):
        answer = web.post(f"/api/events/subscribe/{event}", json=body)
        assert answer.status_code == 422, answer.text
    assert web.post("/api/events/subscribe/e").status_code == 422


def test_g15_unsubscribe_says_whether_there_was_a_subscription(web: TestClient) -> None:
    subscribe(web, "order.placed", "ship")
    answer = web.delete("/api/events/unsubscribe/order.placed", params={"workflow_id": "ship"})
    assert (answer.status_code, answer.json()) == (200, {"message": "Workflow ship unsubscribed from event order.placed"})
    answer = web.delete("/api/events/unsubscribe/order.placed?workflow_id=ship")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "No subscription found for event order.placed and workflow ship"}
    assert web.delete("/api/events/unsubscribe/order.placed").status_code == 422


def test_g16_and_g17_subscriptions_are_listed_by_event_and_an_event_without_any_is_404(web: TestClient) -> None:
    assert web.get("/api/events").json() == {}
    subscribe(web, "a/b", "second", config=[1])
    subscribe(web, "a/b", "first")
    subscribe(web, "c:*", "third")
    found = web.get("/api/events").json()
    assert {event: [one["workflow_id"] for one in all_of] for event, all_of in found.items()} == {
        "a/b": ["second", "first"],
        "c:*": ["third"],
    }
    assert web.get("/api/events/a/b").json() == {"a/b": found["a/b"]}
    answer = web.get("/api/events/x")
    assert (answer.status_code, answer.json()) == (404, {"detail": "No subscriptions found for event x"})


def test_g18_trigger_starts_the_tasks_in_the_order_of_their_subscriptions(web: TestClient, conn: psycopg.Connection[Any]) -> None:
    subscribe(web, "order.*", "ship", config={"fast": True})
    subscribe(web, "order.placed", "bill")
    answer = web.post("/api/events/trigger/order.placed", json={"order": 17})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["message"], found["workflows_executed"]) == ("Event order.placed triggered", 2)
    assert [(one["workflow_id"], one["status"]) for one in found["results"]] == [("ship", "PENDING"), ("bill", "PENDING")]
    sql = "select r.task_id::text, r.run_id::text, t.task_name from absurd.runs r join absurd.tasks t using (task_id)"
    assert {(one["task_id"], one["run_id"], one["workflow_id"]) for one in found["results"]} == set(conn.execute(sql).fetchall())
    params = {name: params for name, params, _ in tasks(conn)}["ship"]
    assert (params["event_type"], params["event_payload"], params["event_config"]) == (
        "order.placed",
        {"order": 17},
        {"fast": True},
    )


def test_g18_nobody_subscribed_is_200_and_none_executed(web: TestClient) -> None:
    for answer in (web.post("/api/events/trigger/lonely"), web.post("/api/events/trigger/lonely", json=[1])):
        assert (answer.status_code, answer.json()) == (
            200,
            {"message": "Event lonely triggered", "workflows_executed": 0, "results": []},
        )


def test_k19_a_subscriber_that_cannot_be_started_is_told_and_stops_no_other(app: Absurd, web: TestClient) -> None:
    app.create_queue("small")
    app.set_queue_limits("small", max_payload_bytes=1024)
    app.subscribe("e", "lost", target_queue="small")
    app.subscribe("e", "found")
    found = web.post("/api/events/trigger/e", json="x" * 2000).json()
    assert [(one["workflow_id"], one["status"]) for one in found["results"]] == [("lost", "FAILED"), ("found", "PENDING")]
    assert found["workflows_executed"] == 1
    assert "1024" in found["results"][0]["message"]


def test_trigger_with_a_key_happens_once(web: TestClient, conn: psycopg.Connection[Any]) -> None:
    subscribe(web, "e", "t")
    first, second = (web.post("/api/events/trigger/e", json=1, headers={"Idempotency-Key": "k"}).json() for _ in range(2))
    assert first == second
    assert len(tasks(conn)) == 1


def test_g19_signed_webhook_starts_the_subscribers(web: TestClient, conn: psycopg.Connection[Any]) -> None:
    subscribe(web, "payment", "book")
    body = json.dumps({"amount": 5}).encode()
    answer = deliver(web, "payment?source=shop", body)
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "success", "event_type": "payment", "workflows_triggered": 1},
    )
    ((name, params, headers),) = tasks(conn)
    assert name == "book"
    assert params["event_payload"]["amount"] == 5
    assert params["event_payload"]["query_params"] == {"source": "shop"}
    assert params["event_payload"]["headers"]["content-type"] == "application/json"
    assert not [word for word in params["event_payload"]["headers"] if "signature" in word or "key" in word]
    assert headers["absurd-source"]["event_name"] == "payment"
    assert headers["absurd-source"]["event_source"] == {"kind": "webhook", "name": "payment"}


@pytest.mark.parametrize("given", [None, "", "0" * 64, "schlüssel", sign("another secret", b"{}"), sign(SECRET, b"{} ")])
def test_g20_wrong_or_missing_signature_is_401_and_nothing_is_emitted(
    web: TestClient, conn: psycopg.Connection[Any], given: str | None
) -> None:
    headers = [] if given is None else [(b"x-webhook-signature", given.encode())]
    answer = web.post("/webhooks/payment", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid webhook signature"})
    assert conn.execute("select count(*) from absurd.events").fetchone() == (0,)


def test_g21_webhook_body_that_is_empty_or_no_json_is_taken(web: TestClient, conn: psycopg.Connection[Any]) -> None:
    assert deliver(web, "e", b"").status_code == 200
    assert deliver(web, "e", b"a=1").status_code == 200
    found = [row[0] for row in conn.execute("select payload from absurd.events order by seq").fetchall()]
    assert set(found[0]) == {"headers", "query_params"}
    assert found[1]["raw_body"] == "a=1"


def test_k18_without_a_secret_webhooks_answer_503_and_say_how_to_set_one(app: Absurd, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(app, webhook_secret=None) as web:
        for answer in (web.post("/webhooks/e"), web.get("/webhooks/e/test")):
            assert answer.status_code == 503
            assert "set WEBHOOK_SECRET" in answer.json()["detail"]
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    with serving(app, webhook_secret=None) as web:
        assert web.post("/webhooks/e").status_code == 401
        assert deliver(web, "e").status_code == 200


def test_k18_unsigned_webhooks_must_be_asked_for_and_no_web_page_may_send_them(app: Absurd) -> None:
    with serving(app, webhook_secret=None, allow_unsigned=True) as web:
        assert web.post("/webhooks/e").status_code == 200
        assert web.get("/webhooks/e/test").json()["signed"] is False
        assert web.post("/webhooks/e", headers={"Origin": "http://evil.example"}).status_code == 403
    with pytest.raises(Exception, match="would undo it"), serving(app, allow_unsigned=True):
        pass


def test_k18_github_signature_is_accepted_and_a_redelivery_is_harmless(web: TestClient, conn: psycopg.Connection[Any]) -> None:
    subscribe(web, "push", "build")
    body = b'{"ref": "refs/heads/main"}'
    headers = {"X-Hub-Signature-256": f"sha256={sign(SECRET, body)}", "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    answers = [web.post("/webhooks/push", content=body, headers=headers) for _ in range(2)]
    assert [(answer.status_code, answer.json()["workflows_triggered"]) for answer in answers] == [(200, 1)] * 2
    assert len(tasks(conn)) == 1
    # The same id to another event is another delivery.
    subscribe(web, "pull", "review")
    assert web.post("/webhooks/pull", content=body, headers=headers).status_code == 200
    assert len(tasks(conn)) == 2


def test_g37_test_says_that_the_webhook_is_signed_and_dispatches_nothing(web: TestClient, conn: psycopg.Connection[Any]) -> None:
    answer = web.get("/webhooks/order/paid/test")
    assert (answer.status_code, answer.json()) == (
        200,
        {"message": "Webhook for event order/paid is reachable", "event_type": "order/paid", "signed": True},
    )
    assert conn.execute("select count(*) from absurd.events").fetchone() == (0,)


def test_webhook_needs_no_api_key_and_keeps_the_limits(app: Absurd) -> None:
    with serving(app, max_body_bytes=100) as web:
        del web.headers["x-api-key"]
        assert deliver(web, "e").status_code == 200
        assert deliver(web, "e", b" " * 101).status_code == 413
        assert deliver(web, "%00").status_code == 422
        assert web.get("/api/events").status_code == 401


def test_g18_an_open_transaction_that_has_emitted_an_event_holds_up_requests_of_that_name_for_a_while_and_no_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "LOCK_SECONDS", 0.5)
    app = Absurd(database_url, pool_size=2)
    with psycopg.connect(database_url) as idle, ThreadPoolExecutor(4) as callers, serving(app) as web:
        idle.execute("select absurd.emit_event('default', 'busy')")
        held = [callers.submit(deliver, web, "busy") for _ in range(4)]
        assert web.post("/api/events/trigger/other").status_code == 200
        for answer in (one.result() for one in held):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert "try again" in answer.json()["detail"]
        idle.rollback()
        assert deliver(web, "busy").status_code == 200
