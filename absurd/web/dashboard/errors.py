"""Errors for people: a status, and what to say."""

from __future__ import annotations

import json

from fastapi import Request

from absurd import errors
from absurd.web.dashboard.page import NotFound
from absurd.web.problems import answer_error

TITLES = {
    400: "This request cannot be read",
    401: "Log in first",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    408: "Too slow",
    409: "Not possible now",
    413: "Too large",
    422: "This cannot be used",
    500: "Something went wrong",
    503: "The database cannot be used at the moment",
}
_DENIED, _CANCELED = "42501", "57014"


def explain(error: Exception, request: Request) -> tuple[int, str]:
    """The status of an error and what to say of it; what a visitor cannot know of is logged."""
    if isinstance(error, NotFound):
        return 404, str(error)
    if isinstance(error, (errors.ScheduleNotFoundError, errors.TokenError)):
        return 404, str(error)
    state = getattr(error.__cause__, "sqlstate", None)
    if isinstance(error, errors.DatabaseError) and state == _DENIED:
        return 403, "The role with which the dashboard connects may not do this. Nothing was changed."
    if isinstance(error, errors.DatabaseError) and state == _CANCELED:
        return 503, "The database took too long for this page. Try narrower filters."
    answer = answer_error(error, request)
    return answer.status_code, str(json.loads(bytes(answer.body))["detail"])


def sentence(text: str) -> str:
    """A message as a sentence."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
