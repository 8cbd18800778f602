"""Metrics for Prometheus: those of this process, and the depth of the queues."""

from __future__ import annotations

import threading

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute

from absurd.location import database_url
from absurd.metrics import Exposition
from absurd.web.backend import Backend
from absurd.web.problems import responses


class MetricsRoutes:
    """Handlers of the routes. FastAPI runs them on threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._exposition: Exposition | None = None

    def metrics(self) -> Response:
        """The metrics, in the text format of Prometheus."""
        with self._lock:
            if self._exposition is None:
                app = self._backend.app
                self._exposition = Exposition(database_url(None) if app is None else app.database_url)
        text, content_type = self._exposition.text()
        return Response(text, media_type=content_type)

    def close(self) -> None:
        """Closes the connection to the database."""
        if self._exposition is not None:
            self._exposition.close()


def metrics_routes(routes: MetricsRoutes, kind: type[APIRoute]) -> APIRouter:
    """The route."""
    router = APIRouter(route_class=kind, tags=["metrics"])
    router.add_api_route(
        "/metrics",
        routes.metrics,
        methods=["GET"],
        response_class=Response,
        responses=responses(),
        summary="Metrics for Prometheus",
    )
    return router
