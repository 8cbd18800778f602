"""What happens around every route, wherever the router is mounted: guard, limits, errors as answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from absurd.web.auth import Guard
from absurd.web.body import LimitedRequest
from absurd.web.problems import answer_error


def route_class(guard: Guard, request_class: type[LimitedRequest], limit: int) -> type[APIRoute]:
    """The class of a group of routes.

    Args:
        guard: is asked before anything of the body is read.
        request_class: how bodies are read.
        limit: bytes of a body.
    """

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    guard(request)
                    limited = request_class(request.scope, request.receive)
                    limited.limit = limit
                    return await handle(limited)
                except Exception as error:
                    return answer_error(error, request)

            return answer

    return Route
