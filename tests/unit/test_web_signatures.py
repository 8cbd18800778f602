"""Signatures of webhooks and the reading of their bodies, without a server."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from absurd.web.auth import is_loopback
from absurd.web.signatures import is_signed, sign
from absurd.web.webhooks import build_payload, delivery_key

SECRET = "It's a Secret to Everybody"
BODY = b"Hello, World!"
# The example of GitHub's documentation of webhooks.
DIGEST = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_g19_signature_is_that_of_githubs_documentation() -> None:
    assert sign(SECRET, BODY) == DIGEST
    assert is_signed(SECRET, BODY, {"x-webhook-signature": DIGEST})
    assert is_signed(SECRET, BODY, {"x-webhook-signature": DIGEST.upper()})
    assert is_signed(SECRET, BODY, {"x-hub-signature-256": f"sha256={DIGEST}"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-webhook-signature": ""},
        {"x-webhook-signature": DIGEST[:-1]},
        {"x-webhook-signature": "0" * 64},
        {"x-webhook-signature": "sïgnature"},
        {"x-webhook-signature": "\udcff€"},
        {"x-hub-signature-256": DIGEST},
        {"x-hub-signature-256": "sha256="},
        {"x-hub-signature-256": f"sha1={DIGEST}"},
        {"x-webhook-signature": "wrong", "x-hub-signature-256": f"sha256={DIGEST}"},
    ],
)
def test_g20_other_signatures_are_wrong_and_none_is_an_error(headers: dict[str, str]) -> None:
    assert not is_signed(SECRET, BODY, headers)


def payload(raw: bytes, headers: Headers | None = None, query: list[tuple[str, str]] | None = None) -> dict[str, object]:
    return build_payload(raw, headers or Headers({}), query or [])


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b"", {}),
        (b" \n", {}),
        (b'{"b": 1, "a": 2}', {"b": 1, "a": 2}),
        (b"[1, 2]", {"body": [1, 2]}),
        (b"null", {"body": None}),
        (b"a=1&b=2", {"raw_body": "a=1&b=2"}),
        (b"{", {"raw_body": "{"}),
        (b"\xff\x00", {"raw_body": "\ufffd\ufffd"}),
        (b'{"x": NaN}', {"raw_body": '{"x": NaN}'}),
        (b'{"x": "\\u0000"}', {"raw_body": '{"x": "\\u0000"}'}),
        (b'"\\ud800"', {"raw_body": '"\\ud800"'}),
        (b"[" * 5000, {"raw_body": "[" * 5000}),
    ],
)
def test_g22_body_becomes_a_payload_whatever_it_is(raw: bytes, wanted: dict[str, object]) -> None:
    assert payload(raw) == {**wanted, "headers": {}, "query_params": {}}


def test_g24_headers_and_query_are_added_without_secrets_and_win_over_fields_of_the_body() -> None:
    headers = Headers(
        {
            "X-GitHub-Event": "push",
            "Authorization": "Bearer x",
            "Cookie": "a=b",
            "X-Webhook-Signature": "x",
            "X-Hub-Signature-256": "x",
            "Stripe-Signature": "x",
            "X-Gitlab-Token": "x",
            "X-API-Key": "x",
            "Proxy-Authorization": "x",
        }
    )
    found = payload(b'{"headers": 1, "query_params": 2, "a": 3}', headers, [("q", "1\x00"), ("q", "2")])
    assert found == {"a": 3, "headers": {"x-github-event": "push"}, "query_params": {"q": "2"}}


def test_header_that_comes_twice_is_joined() -> None:
    headers = Headers(raw=[(b"x-forwarded-for", b"1"), (b"x-forwarded-for", b"2")])
    assert payload(b"", headers)["headers"] == {"x-forwarded-for": "1, 2"}


def test_k18_delivery_is_named_by_its_event_and_its_id() -> None:
    assert delivery_key("push", {}) is None
    assert delivery_key("push", {"x-github-delivery": ""}) is None
    assert delivery_key("push", {"idempotency-key": "7"}) == "webhook:push:7"
    assert delivery_key("push", {"idempotency-key": "7", "x-github-delivery": "8"}) == "webhook:push:8"


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        *(("localhost", True), ("LOCALHOST.", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("", False)),
        *(("0.0.0.0", False), ("::", False), ("192.168.0.1", False), ("example.com", False), ("localhost.example.com", False)),
    ],
)
def test_loopback_is_what_can_only_mean_this_machine(host: str, wanted: bool) -> None:
    assert is_loopback(host) is wanted
