"""Whether the process lives, and whether it can do its work; without a key, for load balancers."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, HTTPException
from fastapi.routing import APIRoute
from pydantic import BaseModel

from absurd import schema
from absurd.errors import AbsurdError
from absurd.queries.query import Query, scalar
from absurd.web.backend import Backend
from absurd.web.problems import RETRY_AFTER, responses

logger = logging.getLogger("absurd.web")

# Seconds for the database to answer: load balancers give up after a few.
READY_SECONDS = 3.0


class Health(BaseModel):
    """All is well."""

    status: str


class HealthRoutes:
    """Handlers of the routes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def alive(self) -> Health:
        """The process is alive. Asks nobody else."""
        return Health(status="ok")

    async def ready(self) -> Health:
        """The database can be reached, and its schema fits this release."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                client = await self._backend.client()
                installed = await client._run(Query("select absurd.get_schema_version()", (), scalar))
                newer = schema.is_newer(installed)
                oldest = await client._run(Query(schema.OLDEST_SERVED, (), scalar)) if newer else None
                schema.check_version(installed, oldest)
        except (TimeoutError, AbsurdError) as error:
            logger.warning("not ready: %s", str(error) or f"the database did not answer within {READY_SECONDS:g} s")
            detail = "the database cannot be reached, or its schema does not fit; the server's log says which"
            raise HTTPException(503, detail, headers={"Retry-After": str(RETRY_AFTER)}) from None
        return Health(status="ready")


def health_routes(backend: Backend, kind: type[APIRoute]) -> APIRouter:
    """The routes."""
    routes, router = HealthRoutes(backend), APIRouter(route_class=kind, tags=["health"])
    router.add_api_route("/healthz", routes.alive, methods=["GET"], summary="Is the process alive?")
    router.add_api_route("/readyz", routes.ready, methods=["GET"], responses=responses(), summary="Can it do its work?")
    # Some load balancers ask for the status alone.
    router.add_api_route("/healthz", routes.alive, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/readyz", routes.ready, methods=["HEAD"], include_in_schema=False)
    return router
