"""The grants of docs/deployment.md are enough for a worker and a client, and no more than needed to begin with."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from absurd import Absurd, Context, DatabaseError
from tests.docs.pages import ROOT, read_blocks

Conn = psycopg.Connection[Any]


@pytest.fixture
def role(conn: Conn) -> Iterator[str]:
    name = f"absurd_role_{uuid.uuid4().hex[:12]}"
    conn.execute(f"create role {name} login".encode())
    yield name
    conn.execute(f"drop owned by {name}; drop role {name}".encode())


def test_role_with_the_documented_grants_runs_tasks(conn: Conn, database_url: str, role: str) -> None:
    app = Absurd(make_conninfo(**{**conninfo_to_dict(database_url), "user": role}))

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
    (grants,) = [block.text for block in read_blocks(ROOT / "docs" / "deployment.md") if block.language == "sql"]
    conn.execute(grants.replace("to worker", f"to {role}").encode())
    app.create_queue("mine")
    with app.worker(poll_interval=0.1):
        assert app.spawn(work, 21).result(timeout=20) == [42, 1, 2, 1]
    app.close()
