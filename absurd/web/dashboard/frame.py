"""What happens around every page: who asks, what is answered when something goes wrong, and forms."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import HTTPException, Request, Response

from absurd.errors import AbsurdError
from absurd.queries import inspect
from absurd.web.body import LimitedRequest
from absurd.web.dashboard.backend import DashboardBackend
from absurd.web.dashboard.errors import TITLES, explain, sentence
from absurd.web.dashboard.page import LIVE_HEADER, Done, Page, Visit
from absurd.web.dashboard.redact import Redaction
from absurd.web.dashboard.render import HEADERS, render, static_file
from absurd.web.dashboard.security import CrossSite, Gate, LoginNeeded, Seal, Session, refuse_cross_origin

# Far more than any form here has.
MAX_FIELDS = 200
# Where the login may lead to: a place within the dashboard.
_PLACE = re.compile(r"(?!/)[\w.~%/-]*(\?[\w.~%&=+/-]*)?", re.ASCII)

Answer = Callable[[], Awaitable[Response]]


class Frame:
    """Handlers of the routes."""

    def __init__(self, backend: DashboardBackend, gate: Gate, redaction: Redaction, pages: tuple[Page, ...]) -> None:
        self._backend = backend
        self._gate = gate
        self._redaction = redaction
        self._pages = pages
        self._nav = [page for page in pages if page.section is None]

    async def show(self, page: Page, request: Request) -> Response:
        """A page."""
        root = "../" * (page.path.count("/") - 1) or "./"

        async def answer() -> Response:
            seal, session = await self._admit(request)
            return await self._page(page, request, root, seal, session)

        return await self._answering(request, root, answer, page)

    async def act(self, page: Page, name: str, request: Request) -> Response:
        """A form of a page."""
        root = "../" * (page.path.count("/") - (page.path == "/")) or "./"

        async def answer() -> Response:
            seal, session = await self._admit(request)
            fields = await self._form(request, seal, session)
            if self._backend.read_only:
                raise HTTPException(403, "this dashboard only shows; nothing can be changed here")
            visit = await self._visit(request)
            visit.once = fields.get("once", "")
            try:
                done = await page.actions[name](visit, fields)
            except AbsurdError as error:
                status, text = explain(error, request)
                if status >= 500:
                    raise
                return await self._page(page, request, root, seal, session, fields, status, text)
            response = Response(None, 303, {**HEADERS, "Location": _after(page, request, root, done)})
            seal.set_message(response, request, done.message)
            return response

        return await self._answering(request, root, answer, page)

    async def login(self, request: Request) -> Response:
        """The page that asks for the token, and its form."""
        place = request.query_params.get("next", "")
        place = place if _PLACE.fullmatch(place) and "//" not in place else ""

        async def answer() -> Response:
            seal = await self._seal()
            session = seal.session(request)
            problem = None
            if self._gate.token is None or (session.logged_in and request.method == "GET"):
                return Response(None, 303, {**HEADERS, "Location": f"./{place}"})
            if request.method == "POST":
                fields = await self._form(request, seal, session)
                if self._gate.is_named(fields.get("token", "").strip()):
                    response = Response(None, 303, {**HEADERS, "Location": f"./{place}"})
                    seal.set_session(response, request, seal.new_session(logged_in=True))
                    return response
                problem = "This is not the token of this dashboard."
            context = {**self._context(request, "./", seal, session), "problem": problem}
            response = render("login.html", 200 if problem is None else 403, context)
            if session.fresh:
                seal.set_session(response, request, session)
            return response

        return await self._answering(request, "./", answer)

    async def logout(self, request: Request) -> Response:
        """Ends a session."""

        async def answer() -> Response:
            seal, session = await self._admit(request)
            await self._form(request, seal, session)
            response = Response(None, 303, {**HEADERS, "Location": "./login"})
            seal.end_session(response)
            return response

        return await self._answering(request, "./", answer)

    async def static(self, request: Request) -> Response:
        """A style sheet or script. They are no secret, and the login page needs them."""
        name = str(request.path_params["name"])
        return static_file(name) or render_problem(404, f"There is no file {name}.", "../", {})

    async def _page(
        self,
        page: Page,
        request: Request,
        root: str,
        seal: Seal,
        session: Session,
        given: Mapping[str, str] | None = None,
        status: int = 200,
        problem: str | None = None,
    ) -> Response:
        visit = await self._visit(request)
        visit.given = given or {}
        live = visit.live
        context = {
            **self._context(request, root, seal, session),
            "page": page,
            "section": page.section or page.name,
            "path": _path(page, request),
            "now": await visit.run(inspect.current_time()),
            "given": visit.given,
            "args": request.query_params,
            "message": None if live else seal.message(request),
            "problem": None if problem is None else sentence(problem),
            **await page.show(visit),
        }
        response = render(f"{page.name}.html", status, context)
        if not live:
            seal.take_message(request, response)
        if session.fresh:
            seal.set_session(response, request, session)
        return response

    async def _answering(self, request: Request, root: str, answer: Answer, page: Page | None = None) -> Response:
        try:
            return await answer()
        except CrossSite:
            return render("again.html", 200, {"root": root, "theme": _theme(request)})
        except LoginNeeded:
            if request.method != "GET" or LIVE_HEADER in request.headers or "authorization" in request.headers:
                return render_problem(401, "This dashboard asks for its token.", root, {"theme": _theme(request)})
            place = urlencode({"next": "" if page is None else _place(page, request)})
            return Response(None, 303, {**HEADERS, "Location": f"{root}login?{place}"})
        except HTTPException as error:
            if error.headers and 300 <= error.status_code < 400:
                return Response(None, error.status_code, error.headers)
            return self._problem(error, request, root)
        except Exception as error:
            return self._problem(error, request, root)

    def _problem(self, error: Exception, request: Request, root: str) -> Response:
        status, text = explain(error, request)
        return render_problem(status, sentence(text), root, {"theme": _theme(request)})

    def _context(self, request: Request, root: str, seal: Seal, session: Session) -> dict[str, Any]:
        """What every template may use."""
        return {
            "root": root,
            "nav": self._nav,
            "theme": _theme(request),
            "csrf_token": seal.csrf(session),
            "once": secrets.token_urlsafe(12),
            "read_only": self._backend.read_only,
            "may_log_out": self._gate.token is not None and session.logged_in,
            "redaction": self._redaction,
            "query": _query(request),
        }

    async def _seal(self) -> Seal:
        client = await self._backend.client()
        return Seal(self._gate.token, client.database_url)

    async def _admit(self, request: Request) -> tuple[Seal, Session]:
        seal = await self._seal()
        return seal, await self._gate.admit(request, seal)

    async def _visit(self, request: Request) -> Visit:
        return Visit(request, await self._backend.client(), self._redaction, self._backend.read_only)

    async def _form(self, request: Request, seal: Seal, session: Session) -> Mapping[str, str]:
        """The fields of a form that one of this session's pages has sent."""
        refuse_cross_origin(request)
        limited = LimitedRequest(request.scope, request.receive)
        limited.limit = self._backend.settings.max_body_bytes
        try:
            text = (await limited.body()).decode()
            fields = dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
        except ValueError as error:
            raise HTTPException(400, f"the body is no form: {error}") from None
        seal.check_form(request, session, fields)
        # Browsers send line breaks as CR LF, whatever was typed.
        return {name: value.replace("\r\n", "\n") for name, value in fields.items()}


def render_problem(status: int, text: str, root: str, context: Mapping[str, Any]) -> Response:
    """A page that only says what was wrong."""
    title = TITLES.get(status, TITLES[500])
    return render("problem.html", status, {"theme": "", **context, "root": root, "title": title, "text": text})


def _theme(request: Request) -> str:
    theme = request.cookies.get("absurd_theme")
    return theme if theme in ("light", "dark") else ""


def _path(page: Page, request: Request) -> str:
    """Where a page is, below the root."""
    return page.path.format(**{name: quote(str(value), safe="") for name, value in request.path_params.items()})[1:]


def _place(page: Page, request: Request) -> str:
    """The same with its query, of which the forms of a page keep theirs: so it is shown again as it was."""
    query = _query(request)
    return _path(page, request) + (f"?{query}" if query else "")


def _query(request: Request) -> str:
    """The query of the URL, fit for a header: whoever sends it need not have quoted it."""
    return quote(request.scope["query_string"], safe="%&=+/:,;@!$'()*~-._?")


def _after(page: Page, request: Request, root: str, done: Done) -> str:
    """Where to go after an action: where it says, or back to its page as it was."""
    return root + (_place(page, request) if done.to is None else done.to)
