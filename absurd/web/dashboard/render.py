"""Templates → answers, with what every page shows around its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from absurd.web.dashboard import format as formats

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
# Seconds that a browser keeps a static file without asking; its URL changes with its content.
_KEPT_SECONDS = 7 * 24 * 3600

HEADERS = {
    "Cache-Control": "no-store",
    # Not no-referrer: with that, browsers send no Origin with our own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
}


@jinja2.pass_context
def _age(context: Context, at: datetime | None) -> Markup:
    return formats.age(at, context["now"])


@jinja2.pass_context
def _elapsed(context: Context, at: datetime | None) -> Markup:
    return formats.elapsed(at, context["now"])


@jinja2.pass_context
def _due(context: Context, at: datetime | None) -> Markup:
    return formats.due(at, context["now"])


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        age=_age,
        elapsed=_elapsed,
        due=_due,
        duration=formats.duration,
        between=formats.between,
        moment=formats.moment,
        count=formats.count,
        compact=formats.compact,
        size=formats.size,
        short_id=formats.short_id,
        plural=formats.plural,
        breakable=formats.breakable,
    )
    made.globals.update(static=static_url, library_version=library_version())
    return made


def library_version() -> str:
    """The version of the library that is installed."""
    try:
        return version("absurd")
    except PackageNotFoundError:
        return ""


@cache
def _static_files() -> Mapping[str, tuple[bytes, str]]:
    """The files beside the templates, with the beginning of their hashes."""
    found = {}
    for path in sorted((_HERE / "static").iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            found[path.name] = (content, hashlib.sha256(content).hexdigest()[:12])
    return found


def static_url(name: str) -> str:
    """The place of a static file below the dashboard's root."""
    return f"static/{name}?v={_static_files()[name][1]}"


def static_file(name: str) -> Response | None:
    """A static file as an answer; ``None`` if there is none of that name."""
    found = _static_files().get(name)
    if found is None:
        return None
    headers = {"Cache-Control": f"public, max-age={_KEPT_SECONDS}", "X-Content-Type-Options": "nosniff", "ETag": f'"{found[1]}"'}
    return Response(found[0], 200, headers, media_type=_TYPES[Path(name).suffix])


_TEMPLATES = _environment()


def render(template: str, status: int, context: Mapping[str, Any]) -> HTMLResponse:
    """A page."""
    text = _TEMPLATES.get_template(template).render(context)
    # Stored text may hold what UTF-8 cannot.
    return HTMLResponse(text.encode("utf-8", "backslashreplace"), status, HEADERS)


def checked_templates() -> Sequence[str]:
    """The names of all templates, each compiled; for tests."""
    names = _TEMPLATES.list_templates()
    for name in names:
        _TEMPLATES.get_template(name)
    return names
