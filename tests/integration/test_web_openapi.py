"""The OpenAPI document and the server agree, and nothing that fits neither makes the server fail."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

import absurd.web
from absurd import Absurd
from tests.support_web import KEY

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 12  # of each operation


def operations() -> list[str]:
    """What the document names; no database is asked for it."""
    paths = absurd.web.create_app(api_key=KEY).openapi()["paths"]
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("label", operations())
def test_schemathesis_finds_no_server_error_and_no_answer_that_is_not_in_the_document(database_url: str, label: str) -> None:
    method, _, path = label.partition(" ")
    with Absurd(database_url) as app:
        app.subscribe("*", "any")
        web = absurd.web.create_app(app, api_key=KEY, webhook_secret=None, allow_unsigned=True)
        operation = schemathesis.openapi.from_asgi("/openapi.json", web)[path][method]

        @given(case=operation.as_strategy())
        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        def holds(case: schemathesis.Case) -> None:
            answer = case.call(headers={"X-API-Key": KEY})
            case.validate_response(answer, checks=CHECKS)

        holds()
