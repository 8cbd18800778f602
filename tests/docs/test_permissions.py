"""The roles of docs/deployment.md and docs/security.md are enough for a worker and a client, and needed to begin with."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from absurd import Absurd, Context, DatabaseError, schema
from tests.docs.pages import ROOT, read_blocks

Conn = psycopg.Connection[Any]


@pytest.fixture
def names() -> dict[str, str]:
    """What the roles of the page are called here: roles are the whole server's."""
    return {role: f"{role}_{uuid.uuid4().hex[:12]}" for role in ("app", "worker", "dashboard")}


@pytest.fixture
def roles(conn: Conn, names: dict[str, str]) -> Iterator[None]:
    for name in names.values():
        conn.execute(f"create role {name} login".encode())
    yield
    for name in names.values():
        conn.execute(f"drop owned by {name}; drop role {name}".encode())


def statements(page: str) -> str:
    (block,) = [block.text for block in read_blocks(ROOT / "docs" / page) if block.language == "sql"]
    return block


def test_the_documented_roles_run_tasks(conn: Conn, database_url: str, names: dict[str, str], roles: None) -> None:
    def login(role: str) -> Absurd:
        return Absurd(make_conninfo(**{**conninfo_to_dict(database_url), "user": names[role]}))

    app = login("worker")

    @app.register_task("work")
    def work(params: Any, ctx: Context) -> list[Any]:
        doubled = ctx.step("double", lambda: params * 2)
        ctx.emit_event("doubled", doubled)
        children = ctx.spawn_many("child", [1, 2])
        return [ctx.await_event("doubled"), *ctx.gather(*children), ctx.transaction("one", lambda c: 1)]

    @app.register_task("child")
    def child(params: Any, ctx: Context) -> int:
        ctx.sleep_for(0.05)
        return int(params)

    with pytest.raises(DatabaseError, match="Grant the role"):
        app.spawn(work, 21)
    schema.create_roles(conn)
    written = statements("deployment.md")
    assert written == statements("security.md")
    for role, name in names.items():
        made = f"create role {role} login password '…' in role "
        assert made in written
        conn.execute(f"grant {written.partition(made)[2].partition(';')[0]} to {name}".encode())
    app.create_queue("mine")
    with app.worker(poll_interval=0.1), login("app") as producer, login("dashboard") as reader:
        assert producer.spawn("work", 21).result(timeout=20) == [42, 1, 2, 1]
        with pytest.raises(DatabaseError, match="Grant the role"):
            reader.spawn("work", 21)
    app.close()
