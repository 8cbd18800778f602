"""Errors as answers: always ``{"detail": …}``, a status that says whose fault it was, and nothing of the inside."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from absurd import errors

logger = logging.getLogger("absurd.web")

# Seconds after which a caller may try again when the database cannot be reached.
RETRY_AFTER = 5


class Problem(BaseModel):
    """What was wrong."""

    detail: str = Field(description="What was wrong, with which value, and what to do.")


def responses(*more: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: the errors that every route of the API may answer, and ``more``."""
    return {status: {"model": Problem, "description": _DESCRIPTIONS[status]} for status in sorted({422, 500, 503, *more})}


# With a key (or, without, a local caller) and with a body.
API = (400, 401, 403, 408, 413, 415)

_DESCRIPTIONS = {
    400: "The body is no JSON, or a value is out of its range",
    401: "The API key or the signature is missing or wrong",
    403: "Without an API key: not a request to localhost, or one of a web page of another origin",
    404: "There is no such thing",
    408: "The body did not come in time",
    409: "Not possible in the present state",
    413: "The body, or a value in it, is too large",
    415: "The body is not said to be JSON",
    422: "A value cannot be used; the detail names it",
    500: "An error of the server",
    503: "The database cannot be reached, or the server is not set up for this; Retry-After says when to try again",
}

_STATUS: Sequence[tuple[type[errors.AbsurdError], int]] = (
    (errors.QueueNotFoundError, 404),
    (errors.TaskNotFoundError, 404),
    (errors.TaskCancelledError, 409),
    (errors.ScheduleConflictError, 409),
    (errors.PayloadTooLargeError, 413),
    (errors.InvalidOptionError, 422),
    (errors.SerializationError, 422),
    (errors.ValidationError, 422),
    (errors.DatabaseUnavailableError, 503),
    (errors.SchemaError, 503),
)
_LOCKED = "55P03"
# What these say names hosts and roles: that is for the log.
_HIDDEN = {500: "the server met an error that its log describes", 503: "the database cannot be reached or used at the moment"}


def problem(status: int, detail: Any, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an answer. ASCII only, so that no text of a caller's can make it fail."""
    content = json.dumps({"detail": detail}, ensure_ascii=True)
    return Response(content, status, headers, media_type="application/json")


def answer_error(error: Exception, request: Request) -> Response:
    """The answer to a request that ended with an error; what the caller cannot know of is logged."""
    if isinstance(error, HTTPException):
        return problem(error.status_code, error.detail, error.headers)
    if isinstance(error, RequestValidationError):
        return problem(422, "; ".join(map(_validation, error.errors())))
    if getattr(error.__cause__, "sqlstate", "") == _LOCKED:
        logger.warning("%s %s: %s", request.method, _path(request), error)
        detail = "somebody else is changing the same thing at this moment; nothing was done, try again"
        return problem(503, detail, {"Retry-After": str(RETRY_AFTER)})
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status == 503:
        logger.warning("%s %s: %s", request.method, _path(request), error)
        return problem(503, _HIDDEN[503], {"Retry-After": str(RETRY_AFTER)})
    if status == 500:
        logger.error("%s %s failed", request.method, _path(request), exc_info=error)
        return problem(500, _HIDDEN[500])
    return problem(status, str(error))


def _path(request: Request) -> str:
    """The path for the log, which keeps no token: who has one may answer."""
    before, tokens, _ = str(request.scope["path"]).partition("/tokens/")
    return f"{before}{tokens}…" if tokens else before


def _validation(error: Mapping[str, Any]) -> str:
    place, *path = error["loc"]
    return f"{'.'.join(map(str, path)) or place}: {error['msg']}"
