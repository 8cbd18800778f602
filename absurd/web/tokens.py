"""The link of a token: a page that asks, for people, and a place to post the answer to, for people and programs.

Only a POST uses the token: mail scanners and previews follow links.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from absurd.errors import SerializationError, TokenError, ValidationError
from absurd.queries.tokens import TokenInfo, refusal
from absurd.web.backend import Backend
from absurd.web.body import is_json, parse_json
from absurd.web.problems import Problem, answer_error, responses
from absurd.web.token_form import make_form
from absurd.web.token_page import message_page, question_page

FORM = "application/x-www-form-urlencoded"
# Far more than any form here has.
MAX_FIELDS = 1000

_STATUS = {"unknown": 404, "used": 409, "expired": 410, "ended": 410}
_TITLES = {404: "Unknown link", 409: "Already answered", 410: "Too late"}
_OTHER_TITLE = "This did not work"
# Who presses a button twice sees the answer to the second time.
_ANSWERED = "This link takes one answer and has it. If you have just sent yours more than once, the first time counted."
_BODY = {
    "description": "The answer, of the type that the task asked for",
    "content": {"application/json": {"schema": {}}, FORM: {"schema": {"type": "object"}}},
}


class Answered(BaseModel):
    """The task has the answer."""

    status: str = Field(default="ok")


class TokenRoutes:
    """Handlers of the routes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def show(self, token: str, request: Request) -> Response:
        """Show the page that asks for the answer. Changes nothing."""
        try:
            info = await self._read(token)
            return question_page(info, make_form(info.json_schema))
        except Exception as error:
            return _as_page(error, request)

    async def answer(self, token: str, request: Request) -> Response:
        """Answer, once: the task that waits for it goes on. Takes JSON, or the form of the page."""
        if _content_type(request) == FORM:
            try:
                return await self._answer_form(token, _fields(await request.body()))
            except Exception as error:
                return _as_page(error, request)
        await self._complete(token, _payload(await request.body(), request))
        return Response(Answered().model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"})

    async def _answer_form(self, token: str, given: Mapping[str, str]) -> Response:
        info = await self._read(token)
        form = make_form(info.json_schema)
        try:
            await self._complete(token, form.read(given))
        except (ValidationError, SerializationError) as error:
            return question_page(info, form, given, str(error))
        return message_page(200, "Thank you", "Your answer has been sent. You can close this page.")

    async def _read(self, token: str) -> TokenInfo:
        client = await self._backend.client()
        try:
            info = await client.read_token(token)
        except TokenError as error:
            raise _gone(error) from error
        if info.status != "open":
            raise _gone(refusal(info.status))
        return info

    async def _complete(self, token: str, payload: Any) -> None:
        client = await self._backend.client()
        try:
            await client.complete_token(token, payload)
        except TokenError as error:
            raise _gone(error) from error


def token_routes(backend: Backend, kind: type[APIRoute]) -> APIRouter:
    """The routes. They ask for no key: the link is the key."""
    routes, router = TokenRoutes(backend), APIRouter(route_class=kind, tags=["tokens"])
    page: dict[str, Any] = {"content": {"text/html": {}}}
    refused: dict[int | str, dict[str, Any]] = {
        404: {"model": Problem, "description": "There is no such token"},
        409: {"model": Problem, "description": "The token has been used"},
        410: {"model": Problem, "description": "The token has expired, or its task has ended"},
    }
    errors = {**responses(400, 408, 413, 415), **refused}
    router.add_api_route(
        "/tokens/{token}",
        routes.show,
        methods=["GET"],
        responses={200: page, **dict.fromkeys((404, 409, 410, 422, 500, 503), page)},
        response_class=Response,
        summary="The question, for a browser",
    )
    # Mail scanners ask whether a link is good before they let it through.
    router.add_api_route("/tokens/{token}", routes.show, methods=["HEAD"], response_class=Response, include_in_schema=False)
    router.add_api_route(
        "/tokens/{token}",
        routes.answer,
        methods=["POST"],
        responses={200: {"model": Answered, **page}, **{status: {**error, **page} for status, error in errors.items()}},
        openapi_extra={"requestBody": _BODY},
        summary="Answer a token",
    )
    return router


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _payload(raw: bytes, request: Request) -> Any:
    if not raw:
        return None
    if not is_json(_content_type(request)):
        raise HTTPException(415, f"an answer must be JSON or a form; send Content-Type: application/json or {FORM} with it")
    return parse_json(raw)


def _fields(raw: bytes) -> dict[str, str]:
    """The fields of a form; of one that is there twice the last."""
    try:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise HTTPException(400, f"the body is no form: {error}") from None


def _gone(error: TokenError) -> HTTPException:
    return HTTPException(_STATUS[error.reason], str(error))


def _as_page(error: Exception, request: Request) -> Response:
    """The answer to a request that ended with an error, for a person."""
    answer = answer_error(error, request)
    status, detail = answer.status_code, json.loads(bytes(answer.body))["detail"]
    text = _ANSWERED if status == 409 else f"{detail[:1].upper()}{detail[1:]}."
    return message_page(status, _TITLES.get(status, _OTHER_TITLE), text)
