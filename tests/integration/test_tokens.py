"""Resume tokens as tasks and clients use them."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest

from absurd import (
    Absurd,
    AsyncAbsurd,
    ConfigurationError,
    InvalidOptionError,
    PayloadTooLargeError,
    TokenError,
    ValidationError,
)
from tests.support import wait_until
from tests.support_tasks import Play, count


@dataclass
class Decision:
    """What a manager answers."""

    approved: bool
    comment: str = ""
    until: date | None = None


class Colour(enum.Enum):
    """One of two."""

    RED = "red"
    BLUE = "blue"


def _asleep(play: Play, task_id: UUID) -> None:
    play.wait_for_state(task_id, "sleeping")


def test_a2_an_answer_resumes_the_task_which_held_nothing_meanwhile(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        token = await ctx.create_token("approval", timeout="3d", title="May we?")
        play.seen.append(token.secret)
        return await ctx.await_token(token)

    with play.worker():
        handle = play.spawn()
        _asleep(play, handle.task_id)
    # No worker is there any more, no lease, nobody to hold a connection.
    assert count(conn, "select count(*) from absurd.workers") == 0
    assert count(conn, "select count(*) from absurd.runs where worker_id is not null or lease_expires_at is not null") == 0
    play.app.complete_token(play.seen[0], {"yes": [1, None]})
    with play.worker():
        assert handle.result(20) == {"yes": [1, None]}


def test_a_token_is_the_same_on_every_replay_and_in_every_attempt(play: Play) -> None:
    @play.task(max_attempts=3)
    async def task(params: Any, ctx: Any) -> Any:
        token = await ctx.create_token("approval", timeout=600)
        play.seen.append((token.id, token.secret, token.expires_at))
        if ctx.attempt == 1:
            raise OSError("crashed between making the token and waiting for it")
        first = await ctx.await_token(token)
        await ctx.sleep_for(0)
        return [first, await ctx.await_token(token)]

    with play.worker():
        handle = play.spawn()
        wait_until(lambda: len(play.seen) >= 2)
        _asleep(play, handle.task_id)
        play.app.complete_token(play.seen[0][1], "yes")
        assert handle.result(20) == ["yes", "yes"]
    assert len(play.seen) >= 4
    assert len(set(play.seen)) == 1


def test_an_answer_that_comes_before_the_wait_is_there_at_once(play: Play, conn: psycopg.Connection[Any]) -> None:
    gate = threading.Event()

    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        token = await ctx.create_token()
        play.seen.append(token.secret)
        await play.hold(gate)
        return await ctx.await_token(token)

    with play.worker():
        handle = play.spawn()
        play.app.complete_token(wait_until(lambda: play.seen)[0])
        gate.set()
        assert handle.result(20) is None
    assert count(conn, "select epoch from absurd.tasks") == 1  # it was never suspended


def test_two_tokens_of_one_name_are_two(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        tokens = [await ctx.create_token("approval") for _ in range(2)]
        play.seen[:] = [token.secret for token in tokens]
        return [await ctx.await_token(token) for token in reversed(tokens)]

    with play.worker():
        handle = play.spawn()
        _asleep(play, handle.task_id)
        for number, secret in enumerate(play.seen):
            play.app.complete_token(secret, number)
        assert handle.result(20) == [1, 0]


def test_expiry_is_a_timeout_that_holds_and_no_answer_is_taken_after_it(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        token = await ctx.create_token("approval", timeout=0.1)
        play.seen.append(token.secret)
        try:
            return await ctx.await_token(token)
        except TimeoutError as error:
            found = str(error)
        await ctx.await_event("go")
        return found

    with play.worker():
        handle = play.spawn()
        wait_until(lambda: len(play.seen) >= 2)
        with pytest.raises(TokenError, match="has expired") as refused:
            play.app.complete_token(play.seen[0], "late")
        assert refused.value.reason == "expired"
        play.app.emit_event("go")
        assert handle.result(20) == 'an answer to token "approval" did not come in time'


def test_a_wait_may_end_before_the_token_does_to_remind_somebody(play: Play) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> Any:
        token = await ctx.create_token("approval", timeout="1h")
        try:
            return await ctx.await_token(token, timeout="50ms")
        except TimeoutError:
            play.seen.append(token.secret)
        return await ctx.await_token(token)

    with play.worker():
        handle = play.spawn()
        wait_until(lambda: play.seen)
        play.app.complete_token(play.seen[0], "at last")
        assert handle.result(20) == "at last"


@pytest.mark.parametrize(
    ("declared", "wrong", "reason", "answer", "seen"),
    [
        (bool, "yes", "'yes' is not of type 'boolean'", True, "True"),
        (Literal["ship", "refund"], "keep", "'keep' is not one of", "refund", "'refund'"),
        (Colour, "green", "'green' is not one of", "blue", "<Colour.BLUE: 'blue'>"),
        (int, 1.5, "1.5 is not of type 'integer'", 2, "2"),
        (Decision, {"approved": 1}, "$.approved: 1 is not of type 'boolean'", {"approved": True}, "approved=True, comment=''"),
        (Decision, None, "None is not of type 'object'", {"approved": False, "comment": "no"}, "approved=False, comment='no'"),
        (date, "2030-02-30", "'2030-02-30' is not a 'date'", "2030-02-28", "datetime.date(2030, 2, 28)"),
        (Decision | None, [], "is not valid under any of the given schemas", None, "None"),
    ],
)
def test_an_answer_of_another_type_is_refused_with_the_reason_and_leaves_the_token_open(
    sync_play: Play, declared: Any, wrong: Any, reason: str, answer: Any, seen: str
) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> str:
        token = await ctx.create_token(type=declared)
        sync_play.seen.append(token.secret)
        return repr(await ctx.await_token(token))

    with sync_play.worker():
        handle = sync_play.spawn()
        secret = wait_until(lambda: sync_play.seen)[0]
        with pytest.raises(ValidationError) as refused:
            sync_play.app.complete_token(secret, wrong)
        assert reason in str(refused.value)
        assert sync_play.app.read_token(secret).status == "open"
        sync_play.app.complete_token(secret, answer)
        assert seen in handle.result(20)


def test_an_answer_by_sql_that_does_not_fit_is_an_error_in_the_handler(play: Play, conn: psycopg.Connection[Any]) -> None:
    @play.task()
    async def task(params: Any, ctx: Any) -> str:
        token = await ctx.create_token("approval", type=Decision)
        play.seen.append(token.secret)
        try:
            return str(await ctx.await_token(token))
        except ValidationError as error:
            return str(error)

    with play.worker():
        handle = play.spawn()
        secret = wait_until(lambda: play.seen)[0]
        conn.execute("select absurd.use_token(%s, '{}')", (secret,))
        assert 'the answer to token "approval" does not fit Decision' in handle.result(20)


def test_the_token_of_a_cancelled_task_says_so(sync_play: Play) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> None:
        token = await ctx.create_token()
        sync_play.seen.append(token.secret)
        await ctx.await_token(token)

    with sync_play.worker():
        handle = sync_play.spawn()
        _asleep(sync_play, handle.task_id)
        handle.cancel()
        with pytest.raises(TokenError, match="has ended") as refused:
            sync_play.app.complete_token(sync_play.seen[0])
        assert refused.value.reason == "ended"


def test_a_token_belongs_to_its_task_alone(play: Play) -> None:
    @play.task("maker")
    async def maker(params: Any, ctx: Any) -> None:
        play.seen.append(await ctx.create_token())

    @play.task("thief")
    async def thief(params: Any, ctx: Any) -> str:
        try:
            return str(await ctx.await_token(play.seen[0]))
        except ConfigurationError as error:
            return f"wrong: {error}"
        except Exception as error:
            return str(error)

    with play.worker():
        play.spawn("maker").result(20)
        found = play.spawn("thief").result(20)
    assert "which alone can await it" in found
    assert play.seen[0].secret not in found


def test_the_url_is_made_from_the_nearest_setting_and_its_lack_says_what_to_do(
    sync_play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ABSURD_PUBLIC_URL", raising=False)

    @sync_play.task()
    async def task(params: Any, ctx: Any) -> list[Any]:
        token = await ctx.create_token(url=params)
        try:
            return [token.url.replace(token.secret, "…"), token.secret in repr(token)]
        except ConfigurationError as error:
            return [str(error)]

    def url(given: str | None = None) -> Any:
        return sync_play.spawn(params=given).result(20)

    with sync_play.worker():
        assert "Absurd(public_url=…), in ABSURD_PUBLIC_URL, or as create_token(url=…)" in url()[0]
        monkeypatch.setenv("ABSURD_PUBLIC_URL", "https://environment.example/")
        assert url() == ["https://environment.example/tokens/…", False]
        sync_play.app.registry.public_url = "http://app.example/a"
        assert url() == ["http://app.example/a/tokens/…", False]
        assert url("http://[::1]:8000") == ["http://[::1]:8000/tokens/…", False]


@pytest.mark.parametrize("url", ["example.com", "ftp://example.com", "https://", "https://a b", "https://a?b", "https://a#b", 7])
def test_an_address_that_cannot_carry_a_path_is_refused(url: Any) -> None:
    with pytest.raises(InvalidOptionError, match="the public URL must be an http or https URL"):
        Absurd("postgresql://nowhere/x", public_url=url)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": ""}, "token name must be a non-empty string"),
        ({"timeout": -1}, "timeout must be between 0 and"),
        ({"timeout": "soon"}, "'soon' is no duration"),
        ({"title": 7}, "title must be a string"),
        ({"description": "a\x00"}, "NUL"),
        ({"type": threading.Thread}, "cannot be stored"),
        ({"url": "nonsense"}, "the public URL must be"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(sync_play: Play, options: dict[str, Any], problem: str) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> str:
        try:
            await ctx.create_token(**options)
        except (InvalidOptionError, TypeError) as error:
            return str(error)
        return "accepted"

    assert problem in sync_play.run()


def test_a_client_refuses_what_is_no_token_and_takes_the_link_too(sync_play: Play) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        token = await ctx.create_token(url="https://example.com", title="Well?", description="Say.")
        sync_play.seen.append(token)
        return await ctx.await_token(token)

    app = sync_play.app
    for nonsense in ("", "x", "a b", "\x00", "é", "x" * 5000, "https://example.com/tokens/"):
        with pytest.raises(TokenError, match="there is no such token") as refused:
            app.complete_token(nonsense)
        assert refused.value.reason == "unknown"
    with pytest.raises(InvalidOptionError, match=r"token\.secret or token\.url"):
        app.complete_token(sync_play)  # type: ignore[arg-type]
    with sync_play.worker():
        handle = sync_play.spawn()
        token = wait_until(lambda: sync_play.seen)[0]
        info = app.read_token(token.url)
        assert (info.token_id, info.task_id, info.title, info.description) == (token.id, handle.task_id, "Well?", "Say.")
        with pytest.raises(PayloadTooLargeError, match="the answer to token"):
            app.complete_token(token.url, "x" * 11_000_000)
        app.complete_token(token.url, "yes")
        with pytest.raises(TokenError) as refused:
            app.complete_token(token.url, "again")
        assert refused.value.reason == "used"
        assert handle.result(20) == "yes"


async def test_the_async_client_answers_in_the_transaction_of_its_caller(sync_play: Play) -> None:
    @sync_play.task()
    async def task(params: Any, ctx: Any) -> Any:
        token = await ctx.create_token()
        sync_play.seen.append(token.secret)
        return await ctx.await_token(token)

    app = AsyncAbsurd(sync_play.url)
    with sync_play.worker():
        handle = sync_play.spawn()
        secret = wait_until(lambda: sync_play.seen)[0]
        _asleep(sync_play, handle.task_id)
        async with await psycopg.AsyncConnection.connect(sync_play.url) as connection:
            await app.complete_token(secret, "taken back", conn=connection)
            await connection.rollback()
            assert (await app.read_token(secret)).status == "open"
            await app.complete_token(secret, "yes", conn=connection)
            await connection.commit()
        assert handle.result(20) == "yes"
    await app.close()
