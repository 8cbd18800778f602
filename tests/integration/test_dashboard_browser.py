"""The dashboard in a real Chromium: pages that stay up to date, light and dark, keyboard, phones, and values that want to be run.

Needs Debian's package (``apt-get install chromium``) or ``ABSURD_TEST_CHROMIUM``, the path of another. Playwright drives it;
its own browsers are not used.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from absurd import Absurd
from absurd.web import dashboard
from absurd.web.dashboard.pages import PAGES
from tests.support import wait_until
from tests.support_dashboard import HOSTILE
from tests.support_shop import shop

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("ABSURD_TEST_CHROMIUM") or shutil.which("chromium") or ""
TOKEN = "a-token-for-the-tests"
SIZES = ((1440, 900), (390, 844))
PLACES = [page.path[1:] for page in PAGES if "{" not in page.path and page.section is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="there is no Chromium: apt-get install chromium"),
]


@contextmanager
def serving(app: Absurd, **settings: Any) -> Iterator[str]:
    """The dashboard on a port of its own, in a thread; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(dashboard.create_app(app, **settings), log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
        thread.start()
        wait_until(lambda: server.started, what="the server")
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Problems(list[str]):
    """What a page complains about, and what it must never do."""

    def watch(self, page: Any) -> None:
        page.on("console", lambda said: self.append(f"console: {said.text}") if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.append(f"dialog: {dialog.message}"), dialog.dismiss()))


@pytest.fixture
def problems() -> Iterator[Problems]:
    found = Problems()
    yield found
    assert not found


@pytest.fixture
def app(database_url: str) -> Iterator[Absurd]:
    made = Absurd(database_url)

    @made.register_task("greet", max_attempts=1)
    def greet(params: Any, ctx: Any) -> Any:
        if params.get("fail"):
            raise ValueError(params["fail"])
        return ctx.await_event(params["event"]) if params.get("event") else params

    yield made
    made.close()


def fill(app: Absurd) -> None:
    """Something on every page that tries to run."""
    app.spawn("greet", {"a": HOSTILE})
    app.spawn("greet", {"fail": HOSTILE})
    app.spawn("greet", {"event": HOSTILE})
    app.subscribe(HOSTILE.replace("*", ""), HOSTILE, config={HOSTILE: HOSTILE})
    app.create_schedule(HOSTILE, task=HOSTILE, every="1h")
    # In a thread, for Playwright has an event loop in this one.
    worker = threading.Thread(target=app.run_worker_once)
    worker.start()
    worker.join()
    app.emit_event(f"{HOSTILE} {'long ' * 40}", {HOSTILE: HOSTILE * 20}, source={"kind": "http", "name": HOSTILE})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_no_page_runs_a_value_or_is_wider_than_the_screen(
    app: Absurd, chromium: Any, problems: Problems, width: int, height: int, scheme: str
) -> None:
    fill(app)
    with serving(app) as root, chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:
        page = context.new_page()
        problems.watch(page)
        for place in [*PLACES, "events/1"]:
            page.goto(root + place)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, place
            # The style sheet is there, and it is as light or dark as it should be.
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(20, 23, 26)") == (scheme == "dark"), place


def test_page_stays_up_to_date_and_keeps_what_one_is_doing(app: Absurd, chromium: Any, problems: Problems) -> None:
    app.emit_event("first", {"text": "x" * 300})
    with serving(app) as root, chromium.new_context() as context:
        page = context.new_page()
        problems.watch(page)
        page.goto(f"{root}events")
        page.click("#event-1 details summary")
        page.click("#emit summary")
        page.fill("#emit textarea", '{"half": ')
        page.focus("[data-search]")
        page.keyboard.type("fir")
        app.emit_event("second", None)
        page.wait_for_selector("#event-2")
        assert page.evaluate("document.activeElement.name") == "name"
        assert page.input_value("[data-search]") == "fir"
        assert page.input_value("#emit textarea") == '{"half": '
        assert page.evaluate("document.querySelector('#event-1 details').open && document.querySelector('#emit').open")
        # What was typed can still be sent, though the page has been replaced under it.
        page.fill("#emit textarea", '{"half": 1}')
        page.fill("#emit input[name=name]", "third")
        page.click("#emit button")
        page.wait_for_url("**/events/3")
        assert "Event number 3 has been emitted." in page.inner_text("main")
        page.goto(f"{root}queues")
        page.click("#live")
        assert page.inner_text("#live") == "paused"
        app.create_queue("later")
        page.wait_for_timeout(2500)
        assert "later" not in page.inner_text("main")
        page.click("#live")
        page.wait_for_selector("#queue-later")


def test_an_answer_that_was_on_its_way_does_not_end_a_pause(app: Absurd, chromium: Any) -> None:
    with serving(app) as root, chromium.new_context() as context:
        page = context.new_page()
        held: list[Any] = []
        page.goto(f"{root}queues")
        page.route("**/queues", lambda route: held.append(route))
        while not held:
            page.wait_for_timeout(50)
        page.click("#live")
        app.create_queue("later")
        with page.expect_response("**/queues"):
            held[0].continue_()
        page.evaluate("new Promise(resolve => setTimeout(resolve, 200))")  # whatever the page does with it
        assert page.inner_text("#live") == "paused"
        assert "later" not in page.inner_text("main")


def test_two_clicks_on_a_button_make_one_copy(app: Absurd, chromium: Any, problems: Problems) -> None:
    task = app.spawn("greet", {"a": 1})
    with serving(app) as root, chromium.new_context() as context:
        page = context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"{root}tasks/{task.task_id}")
        mark = "document.querySelector('form[action*=copy] input[name=once]').value"
        first = page.evaluate(mark)
        with page.expect_response(lambda answer: answer.request.headers.get("x-absurd-live") == "1"):
            pass
        page.wait_for_function("document.getElementById('live').dataset.state === 'on'")
        assert page.evaluate(mark) == first
        page.dblclick("text=Run a copy")
        page.wait_for_url(lambda url: str(task.task_id) not in url)
        page.goto(f"{root}tasks")
        assert page.locator("main tbody tr").count() == 2


def test_questions_are_asked_before_and_no_means_no(app: Absurd, chromium: Any) -> None:
    with serving(app) as root, chromium.new_context() as context:
        page = context.new_page()
        asked: list[str] = []
        answers = iter([False, True])
        page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept() if next(answers) else dialog.dismiss()))
        page.goto(f"{root}queues")
        page.click("text=Pause")
        page.wait_for_timeout(300)
        assert "is paused" not in page.inner_text("main")
        page.click("text=Pause")
        page.wait_for_selector(".message")
        assert "Queue default is paused" in page.inner_text("main")
        assert len(asked) == 2


def test_everything_works_without_javascript(app: Absurd, chromium: Any) -> None:
    with serving(app) as root, chromium.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{root}queues")
        page.click("text=Pause")
        assert "Queue default is paused" in page.inner_text("main")
        page.click("text=Resume")
        page.goto(f"{root}events")
        page.click("#emit summary")
        page.fill("#emit input[name=name]", "by.hand")
        page.click("#emit button")
        assert "has been emitted" in page.inner_text("main")
        assert not page.is_visible("#theme")


def test_keyboard_and_theme(app: Absurd, chromium: Any, problems: Problems) -> None:
    with serving(app) as root, chromium.new_context(color_scheme="light") as context:
        page = context.new_page()
        problems.watch(page)
        page.goto(f"{root}events")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.name") == "name"
        page.keyboard.type("a/b")
        assert page.input_value("[data-search]") == "a/b"
        page.click("#theme")
        page.goto(f"{root}waits")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


def test_login_and_a_link_from_another_site(app: Absurd, chromium: Any, problems: Problems) -> None:
    with serving(app, token=TOKEN) as root, chromium.new_context() as context:
        page = context.new_page()
        problems.watch(page)
        page.goto(f"{root}queues")
        assert "Token of this dashboard" in page.inner_text("main")
        page.fill("input[name=token]", TOKEN)
        page.click("text=Log in")
        page.wait_for_url("**/queues")
        # Another site: localhost is not 127.0.0.1. Its link leads to the page all the same, with the session.
        other = root.replace("127.0.0.1", "localhost")
        page.goto(f"{other}login")
        page.evaluate("(to) => { const link = document.createElement('a'); link.href = to; link.id = 'away'; "
                      "link.textContent = 'away'; document.body.append(link); }", f"{root}queues")  # fmt: skip
        page.click("#away")
        page.wait_for_selector("#queue-default")
        page.click("text=log out")
        page.wait_for_url("**/login")
        page.goto(root)
        assert "Token of this dashboard" in page.inner_text("main")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pictures_of_every_page_for_the_documentation(
    database_url: str, chromium: Any, problems: Problems, width: int, height: int, tmp_path: Path
) -> None:
    """Written to the directory ``ABSURD_PICTURES`` if that is set: docs/images for those of the docs."""
    directory = Path(os.environ.get("ABSURD_PICTURES") or tmp_path)
    with (
        shop(database_url) as app,
        serving(app) as root,
        chromium.new_context(viewport={"width": width, "height": height}) as context,
    ):
        released = app.dispatch_event(
            "order.released:6003", {"by": "ada"}, queue="orders", source={"kind": "http", "name": "dashboard"}
        )
        page = context.new_page()
        problems.watch(page)
        page.goto(f"{root}tasks?state=sleeping&name=order.fulfil")
        task = page.locator("main table a[href*='tasks/']").nth(1).get_attribute("href").lstrip("./")
        for name, place in [
            *((place or "overview", place) for place in PLACES),
            ("task", task),
            ("event", f"events/{released.seq}"),
        ]:
            page.goto(root + place)
            path = directory / f"dashboard-{name}-{width}.png"
            page.screenshot(path=path)
            assert path.stat().st_size > 5000
