"""Who may see the dashboard and change something by it: tokens, sessions, forms, other origins, read-only, what is hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from fastapi import FastAPI, HTTPException, Request

from absurd import Absurd
from absurd.db import connect, run
from absurd.errors import ConfigurationError
from absurd.queries.dashboard import limit_session
from absurd.web import dashboard
from absurd.web.dashboard.pages import PAGES
from absurd.web.dashboard.render import checked_templates
from absurd.web.dashboard.security import Seal
from tests.support_dashboard import Visitor, text_of, visiting, visiting_web
from tests.support_roles import login_role, logins, url_of

TOKEN = "a-token-for-the-tests"
LISTS = [page.path[1:] for page in PAGES if "{" not in page.path and page.name not in ("schedule", "trigger")]
FORMS = [
    (page.path.rstrip("/")[1:].format(task_id="0", seq="1", value="0") + ("/" if page.path != "/" else "") + name)
    for page in PAGES
    for name in page.actions
    if page.path.count("{") <= 1
]


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    made = Absurd(database_url)
    yield made
    made.close()


@pytest.fixture
def visitor(app: Absurd) -> Iterator[Visitor]:
    with visiting(app) as made:
        yield made


def paused(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("select paused_at is not null from absurd.queues where queue_name = 'default'").fetchone()
    assert row is not None
    return bool(row[0])


def test_templates_are_all_well_formed() -> None:
    assert "base.html" in checked_templates()


def test_every_answer_forbids_foreign_and_inline_scripts_and_is_kept_by_no_cache(visitor: Visitor) -> None:
    for place, status in (("", 200), ("nothing", 404), ("events/17", 404), ("queues", 200)):
        answer = visitor.get(place, status)
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; base-uri 'none'; form-action 'self'")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"\sstyle=|\son\w+=|<script(?![^>]* src=)|https?://", answer.text), place


def test_a_form_without_the_secret_of_its_session_changes_nothing(app: Absurd, conn: psycopg.Connection[Any]) -> None:
    with visiting(app) as visitor, visiting(app) as other:
        good, foreign = visitor.csrf(), other.csrf()
        assert good != foreign
        for secret in (None, "", "x", foreign, good[:-1]):
            data = {"queue": "default"} if secret is None else {"queue": "default", "csrf": secret}
            answer = visitor.web.post("/queues/pause", data=data)
            assert answer.status_code == 403
            assert "load the page again" in text_of(answer)
        # Neither does one whose cookie is missing, or was made up.
        for cookies in ({}, {name: f"{value[:-1]}{'10'[value[-1] == '1']}" for name, value in visitor.web.cookies.items()}):
            visitor.web.cookies = cookies  # type: ignore[assignment]
            assert visitor.web.post("/queues/pause", data={"queue": "default", "csrf": good}).status_code == 403
    assert not paused(conn)


def test_every_form_is_refused_without_the_secret(visitor: Visitor) -> None:
    assert len(FORMS) >= 10
    visitor.get()
    for place in [*FORMS, "logout"]:
        answer = visitor.web.post(f"/{place}", data={"csrf": "0" * 64}, follow_redirects=False)
        assert answer.status_code == 403, place


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[bad"},
        {"Origin": "http://localhost:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_forms_of_other_origins_are_refused(visitor: Visitor, conn: psycopg.Connection[Any], headers: dict[str, str]) -> None:
    visitor.post("queues/pause", {"queue": "default"}, 403, headers=headers)
    assert not paused(conn)


def test_forms_of_our_own_origin_are_taken_also_behind_a_proxy(visitor: Visitor, conn: psycopg.Connection[Any]) -> None:
    visitor.post("queues/pause", {"queue": "default"}, headers={"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"})
    assert paused(conn)
    visitor.post(
        "queues/resume", {"queue": "default"}, headers={"Origin": "https://ops.example", "X-Forwarded-Host": "ops.example"}
    )
    assert not paused(conn)


@pytest.mark.parametrize(
    ("host", "client", "headers"),
    [
        ("evil.example", "127.0.0.1", {}),
        ("127.0.0.1.evil.example", "127.0.0.1", {}),
        ("localhost", "192.0.2.7", {}),
        ("localhost", "127.0.0.1", {"X-Forwarded-For": "192.0.2.7"}),
    ],
)
def test_without_a_token_only_this_machine_is_answered(app: Absurd, host: str, client: str, headers: dict[str, str]) -> None:
    with visiting(app, host=host, client=client) as visitor:
        for place in LISTS:
            assert "ABSURD_DASHBOARD_TOKEN" in text_of(visitor.get(place, 403, headers=headers))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080"])
def test_this_machine_is_answered_without_a_token(app: Absurd, host: str) -> None:
    with visiting(app, host=host) as visitor:
        assert "Overview" in visitor.text()


def test_a_token_is_asked_for_and_leads_back_to_where_one_wanted_to_go(app: Absurd) -> None:
    with visiting(app, token=TOKEN, host="ops.example", client="192.0.2.7") as visitor:
        answer = visitor.get("events?name=a%2Fb&queue=default", 303)
        login = visitor.follow(answer)
        assert login.status_code == 200
        assert "Token of this dashboard" in text_of(login)
        assert "Overview" not in text_of(login)
        secret = re.search(r'name="csrf" value="(\w+)"', login.text)
        assert secret is not None
        for wrong in ("", "wrong", f"{TOKEN}x", "ü"):
            refused = visitor.web.post(str(login.url), data={"csrf": secret[1], "token": wrong}, follow_redirects=False)
            assert refused.status_code == 403
            assert "not the token" in text_of(refused)
            assert wrong == "" or wrong not in refused.text
        before = dict(visitor.web.cookies)
        done = visitor.web.post(str(login.url), data={"csrf": secret[1], "token": TOKEN}, follow_redirects=False)
        assert done.status_code == 303
        cookie = done.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert dict(visitor.web.cookies) != before  # another session: one that was planted before is worth nothing
        page = visitor.follow(done)
        assert (page.status_code, page.url.path, page.url.params["name"]) == (200, "/events", "a/b")
        visitor.post("logout", {})
        visitor.get("", 303)


@pytest.mark.parametrize(
    "place", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "a//b", "..\\x"]
)
def test_the_login_leads_nowhere_else(app: Absurd, place: str) -> None:
    with visiting(app, token=TOKEN) as visitor:
        login = visitor.get(f"login?next={quote(place, safe='')}")
        secret = re.search(r'name="csrf" value="(\w+)"', login.text)
        assert secret is not None
        done = visitor.web.post(str(login.url), data={"csrf": secret[1], "token": TOKEN}, follow_redirects=False)
        assert done.headers["location"] == "./"


def test_a_token_in_a_header_shows_pages_and_a_wrong_one_none(app: Absurd) -> None:
    with visiting(app, token=TOKEN) as visitor:
        assert "Overview" in text_of(visitor.get("", headers={"Authorization": f"Bearer {TOKEN}"}))
        for wrong in ("Bearer wrong-wrong-wrong-wrong", "Basic abc", "Bearer"):
            visitor.get("", 401, headers={"Authorization": wrong})
        # A page that asks for itself again is told so, and not sent to the login.
        visitor.get("", 401, headers={"X-Absurd-Live": "1"})
        assert visitor.web.post("/queues/pause", data={}).status_code == 401


def test_sessions_hold_in_other_processes_with_the_same_token_and_not_with_another(app: Absurd) -> None:
    with visiting(app, token=TOKEN) as first, visiting(app, token=TOKEN) as second, visiting(app, token=f"{TOKEN}2") as third:
        login = first.get("login")
        secret = re.search(r'name="csrf" value="(\w+)"', login.text)
        assert secret is not None
        first.web.post("/login", data={"csrf": secret[1], "token": TOKEN})
        second.web.cookies = first.web.cookies
        assert second.csrf() == first.csrf()
        second.post("queues/pause", {"queue": "default"})
        third.web.cookies = first.web.cookies
        third.get("", 303)


def test_a_session_ends_after_a_day(app: Absurd, monkeypatch: pytest.MonkeyPatch) -> None:
    with visiting(app, token=TOKEN) as visitor:
        login = visitor.get("login")
        secret = re.search(r'name="csrf" value="(\w+)"', login.text)
        assert secret is not None
        visitor.web.post("/login", data={"csrf": secret[1], "token": TOKEN})
        cookies = dict(visitor.web.cookies)
        visitor.get()
        monkeypatch.setattr("absurd.web.dashboard.security.SESSION_SECONDS", 0)
        visitor.get("", 303, headers={"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())})


@pytest.mark.parametrize("token", ["short", "", "a blank in the token", "x" * 15, "ümlaut-in-the-token"])
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(app: Absurd, token: str) -> None:
    with pytest.raises(ConfigurationError, match="16 visible ASCII"):
        dashboard.create_app(app, token=token)


def test_the_token_comes_from_the_environment(app: Absurd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSURD_DASHBOARD_TOKEN", TOKEN)
    with visiting(app) as visitor:
        visitor.get("", 303)
    with visiting(app, auth=lambda request: True) as visitor:
        visitor.get()


def test_auth_hook_decides_plain_or_async(app: Absurd) -> None:
    async def later(request: Request) -> bool:
        if "x-nobody" in request.headers:
            raise HTTPException(303, headers={"Location": "/company-login"})
        return request.headers.get("x-user") == "ada"

    for auth in (lambda request: request.headers.get("x-user") == "ada", later):
        with visiting(app, auth=auth, host="ops.example", client="192.0.2.7") as visitor:
            visitor.get("", headers={"X-User": "ada"})
            for place in LISTS:
                assert "may not see" in text_of(visitor.get(place, 403))
            assert visitor.web.post("/queues/pause", data={}).status_code == 403
    with visiting(app, auth=later) as visitor:
        assert visitor.get("", 303, headers={"X-Nobody": "1"}).headers["location"] == "/company-login"
    with pytest.raises(ConfigurationError, match="one of them"):
        dashboard.create_app(app, token=TOKEN, auth=later)


def test_who_follows_a_link_from_elsewhere_keeps_his_session(app: Absurd) -> None:
    with visiting(app, token=TOKEN) as visitor:
        # A browser leaves the SameSite cookie out; the page has it ask again, of its own.
        answer = visitor.get("events", headers={"Sec-Fetch-Site": "cross-site", "Cookie": ""})
        assert '<meta http-equiv="refresh" content="0">' in answer.text
        assert "set-cookie" not in answer.headers


def test_read_only_shows_every_page_as_the_reader_and_no_form(app: Absurd, conn: psycopg.Connection[Any]) -> None:
    app.create_schedule("nightly", task="report", cron="0 2 * * *")
    app.subscribe("order.*", "audit")
    conn.execute("select absurd.register_trigger('inbox', 'default', 'mail', 30, 10, false, null, null, null)")
    with logins(conn) as urls:
        # The owner, who may become a reader, and a reader: neither can write, whatever the page would try.
        for database in (app.database_url, urls["reader"]):
            reader = Absurd(database)
            with visiting(reader, read_only=True) as visitor:
                for place in [*LISTS, "schedule?name=nightly", "trigger?name=inbox"]:
                    answer = visitor.get(place)
                    assert "<form" not in re.sub(r'<form class="filters".*?</form>', "", answer.text, flags=re.DOTALL), place
                    assert "read-only" in text_of(answer)
                for place in FORMS:
                    refused = visitor.post(place, {"queue": "default", "name": "nightly"}, 403)
                    assert "only shows" in text_of(refused)
                seen = conn.execute(
                    "select count(*) from pg_stat_activity where application_name = 'absurd dashboard'"
                ).fetchone()
                assert seen is not None
                assert seen[0] > 0
            reader.close()
    assert not paused(conn)


def test_session_of_a_read_only_dashboard_is_the_readers(app: Absurd, conn: psycopg.Connection[Any]) -> None:
    with logins(conn), connect(app.database_url) as session:
        run(session, limit_session(read_only=True))
        assert session.execute("select current_user").fetchone() == ("absurd_reader",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("select * from absurd.tasks")
    with connect(app.database_url) as session:
        run(session, limit_session(read_only=False))
        assert session.execute("select current_user = session_user").fetchone() == (True,)


def test_who_may_not_do_it_is_told_so(app: Absurd, conn: psycopg.Connection[Any]) -> None:
    with logins(conn) as urls:
        reader = Absurd(urls["reader"])
        with visiting(reader) as visitor:
            assert "may not do this" in text_of(visitor.post("queues/pause", {"queue": "default"}, 403))
        reader.close()


def test_a_worker_who_may_read_too_does_everything_but_pausing_queues(app: Absurd, conn: psycopg.Connection[Any]) -> None:
    task = app.spawn("greet")
    app.create_schedule("nightly", task="greet", every="1h", run_immediately=False)
    with logins(conn), login_role(conn, "absurd_worker", "absurd_reader") as name:
        operator = Absurd(url_of(conn, name))
        with visiting(operator) as visitor:
            for place in [*LISTS, "schedule?name=nightly", f"tasks/{task.task_id}"]:
                visitor.get(place)
            page = visitor.get("queues")
            assert "is for the owner of the schema" in text_of(page)
            assert "queues/pause" not in page.text
            assert "This is the copy" in visitor.press(f"tasks/{task.task_id}", "Run a copy")
            assert "is cancelled" in visitor.press(f"tasks/{task.task_id}", "Cancel")
            assert "is paused" in visitor.press("schedules", "Pause", name="nightly")
            assert "has been emitted" in text_of(visitor.follow(visitor.post("events/emit", {"name": "e", "queue": "default"})))
        operator.close()


def test_secrets_in_payloads_are_hidden_at_any_depth(app: Absurd) -> None:
    app.emit_event(
        "signed.up",
        {
            "user": "lovelace",
            "Password": "s3cret1",
            "max_tokens": 4096,
            "nested": [{"apiKey": "s3cret2", "deep": {"access_token": ["s3cret3"], "Set-Cookie": "s3cret4"}}],
        },
        source={"kind": "webhook", "name": "auth", "authorization": "s3cret5"},
    )
    app.subscribe("signed.up", "welcome", config={"secret": "s3cret6", "template": "hello"})
    app.create_schedule("nightly", task="report", cron="0 2 * * *", params={"db_password": "s3cret7", "kind": "full"})
    places = ("events", "events/1", "subscriptions", "schedules", "schedule?name=nightly")
    with visiting(app) as visitor:
        pages = "".join(visitor.get(place).text for place in places)
        assert "s3cret" not in pages
        for shown in ("4096", "lovelace", "hello", "full", "••••••"):
            assert shown in pages
    with visiting(app, redact=["user"]) as visitor:
        pages = "".join(visitor.get(place).text for place in places)
        assert "s3cret3" in pages
        assert "lovelace" not in pages
    with pytest.raises(ConfigurationError, match="list of keys"):
        dashboard.create_app(app, redact="password")


@pytest.mark.parametrize("way", ["router", "mount", "root_path"])
def test_dashboard_works_below_any_prefix(app: Absurd, conn: psycopg.Connection[Any], way: str) -> None:
    web, prefix = FastAPI(), "/ops/absurd"
    if way == "router":
        web.include_router(dashboard.router(app, token=TOKEN), prefix=prefix)
    elif way == "mount":
        web.mount(prefix, dashboard.create_app(app, token=TOKEN))
    else:  # behind a proxy that takes the prefix away
        web, prefix = dashboard.create_app(app, token=TOKEN), ""
        web.root_path = "/ops/absurd"
    app.emit_event("e", {})
    with visiting_web(web, prefix) as visitor:
        assert visitor.follow(visitor.get("events/1", 303)).status_code == 200
        login = visitor.get("login?next=events/1")
        secret = re.search(r'name="csrf" value="(\w+)"', login.text)
        assert secret is not None
        done = visitor.web.post(str(login.url), data={"csrf": secret[1], "token": TOKEN}, follow_redirects=False)
        assert "started no task" in text_of(visitor.follow(done))
        for place in ["", "queues", "events/1"]:
            page = visitor.get(place)
            links = set(re.findall(r'(?:href|src|action)="([^"#]*)"', page.text))
            assert not [link for link in links if link.startswith(("/", "http"))]
            for link in links:
                if "static" in link:
                    assert visitor.web.get(str(page.url.join(link))).status_code == 200
        visitor.get("nothing/here", 404)
        assert "is paused" in visitor.press("queues", "Pause", queue="default")
    assert paused(conn)


def test_two_dashboards_on_one_host_do_not_overwrite_each_others_sessions() -> None:
    seals = [Seal(None, "postgresql:///a"), Seal(None, "postgresql:///b"), Seal(TOKEN, "postgresql:///b")]
    assert len({seal.cookie for seal in seals}) == 3
    assert Seal(TOKEN, "postgresql:///b").cookie == seals[2].cookie


def test_oversized_and_broken_forms_are_refused(visitor: Visitor) -> None:
    visitor.get()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert visitor.web.post("/queues/pause", content=b"a=" + b"x" * 2_000_000, headers=kind).status_code == 413
    assert visitor.web.post("/queues/pause", content=b"a=%ff", headers=kind).status_code == 400
    assert visitor.web.post("/queues/pause", content=b"&".join(b"a=1" for _ in range(1000)), headers=kind).status_code == 400
    assert visitor.web.get("/queues/pause").status_code == 405


def test_database_that_cannot_be_reached_is_a_page_without_its_address() -> None:
    with visiting(Absurd("postgresql://somebody:hidden@127.0.0.1:1/nowhere")) as visitor:
        answer = visitor.get("", 503)
        assert "cannot be reached" in text_of(answer)
        assert "somebody" not in answer.text
        assert "hidden" not in answer.text
