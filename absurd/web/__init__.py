"""HTTP: an API, webhooks and pages, served alone (``python -m absurd serve``) or mounted in a FastAPI application of your own.

Needs the extra: ``pip install 'absurd[web]'``. Example::

    from fastapi import FastAPI
    import absurd.web

    web = FastAPI()
    web.include_router(absurd.web.router(app))
"""

from __future__ import annotations

try:
    import fastapi as _fastapi  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("absurd.web needs FastAPI, which is not installed: pip install 'absurd[web]'") from error

from absurd.web.app import create_app, router

__all__ = ["create_app", "router"]
