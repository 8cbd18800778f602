"""What a request is told that has not ended when the server's time to stop is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from absurd.web.problems import RETRY_AFTER, problem


def answering_when_stopped(web: ASGIApp, is_stopping: Callable[[], bool]) -> ASGIApp:
    """The application; a request that the stopping server cancels is answered 503 instead of 500 and a stack trace in the log."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await web(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http" or not is_stopping():
                raise
            answer = problem(503, "the server stops before this request has ended", {"Retry-After": str(RETRY_AFTER)})
            await answer(scope, receive, send)

    return call
