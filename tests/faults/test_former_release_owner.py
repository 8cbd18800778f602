"""The release before this one, as the owner of the schema, who is no superuser: after the upgrade its programs go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd import Absurd, schema
from tests.faults.report import record
from tests.support import wait_until
from tests.support_roles import login_role, url_of

BASELINES = Path(__file__).parents[1] / "baselines"
TIMEOUT = 120.0  # seconds; only reached by a test that fails
TASKS = 5
WORKER = """
import sys, absurd
app = absurd.Absurd(sys.argv[1])

@app.register_task("order", max_attempts=3)
def order(params, ctx):
    total = ctx.step("total", lambda: params["a"] + 1)
    ctx.transaction("book", lambda conn: conn.execute("insert into bookings values (%s)", (total,)) and None)
    child = ctx.spawn("pack", {"n": total})
    ctx.emit_event("ordered", {"n": total})
    ctx.sleep_for(0.05)
    token = ctx.create_token("approve")
    ctx.emit_event("asked", {"secret": token.secret})
    paid = ctx.await_event(f"paid {params['a']}", timeout=60)
    return {"paid": paid, "packed": ctx.await_task(child), "answer": ctx.await_token(token)}

@app.register_task("pack")
def pack(params, ctx):
    return params["n"]

@app.register_task("noted")
def noted(params, ctx):
    return params["event_payload"]

app.subscribe("ordered", "noted")
app.create_schedule("often", task="pack", every=3600, params={"n": 0}, replace=True)
app.start_worker(concurrency=4, poll_interval=0.2, grace_seconds=2)
"""
CLIENT = """
import json, sys, time, psycopg, absurd
app = absurd.Absurd(sys.argv[1])
handles = [app.spawn("order", {"a": n}, idempotency_key=f"order {n}") for n in range(int(sys.argv[2]))]
for n in range(len(handles)):
    app.emit_event(f"paid {n}", n)
answered = set()
deadline = time.monotonic() + 90
while len(answered) < len(handles) and time.monotonic() < deadline:
    with psycopg.connect(sys.argv[1], autocommit=True) as conn:
        for (secret,) in conn.execute("select payload ->> 'secret' from absurd.events where event_name = 'asked'").fetchall():
            if secret not in answered:
                app.complete_token(secret, "yes")
                answered.add(secret)
    time.sleep(0.05)
print(json.dumps({"file": absurd.__file__, "results": [handle.result(timeout=60) for handle in handles]}))
app.close()
"""


@pytest.fixture(scope="module")
def former_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the library as it was released last, unpacked as pip does."""
    (wheel,) = BASELINES.glob("absurd-*.whl")
    directory = tmp_path_factory.mktemp("former")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture
def owner(empty_conn: psycopg.Connection[Any]) -> Iterator[str]:
    """The URL of a database that is empty, for a role that may make a schema in it and nothing else."""
    with login_role(empty_conn) as name:
        empty_conn.execute(f"grant create on database {empty_conn.info.dbname} to {name}".encode())
        empty_conn.execute(f"create table bookings (total int); grant insert, select on bookings to {name}".encode())
        yield url_of(empty_conn, name)


def _start(release: Path, program: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(release)}, cwd=release, text=True, **options)


@pytest.mark.parametrize(
    ("fresh", "roles"),
    [
        pytest.param(True, False, id="installed, alone", marks=pytest.mark.full),
        pytest.param(True, True, id="installed, with the roles"),
        pytest.param(False, False, id="upgraded, alone"),
        pytest.param(False, True, id="upgraded, with the roles", marks=pytest.mark.full),
    ],
)
def test_the_former_release_works_as_the_owner_of_the_new_schema(
    empty_conn: psycopg.Connection[Any], owner: str, former_release: Path, tmp_path: Path, fresh: bool, roles: bool
) -> None:
    with psycopg.connect(owner, autocommit=True) as conn:
        if fresh:
            schema.install(conn)
        else:
            conn.execute((BASELINES / "1.sql").read_bytes())
            schema.migrate(conn)
    if roles:
        schema.create_roles(empty_conn)  # by whoever may make roles; the schema stays its owner's
    log = tmp_path / "worker.log"
    with log.open("w") as file:
        worker = _start(former_release, WORKER, owner, stderr=file, stdout=file)
        try:
            registered = "select count(*) from absurd.workers"
            wait_until(lambda: worker.poll() is not None or empty_conn.execute(registered.encode()).fetchone() == (1,), TIMEOUT)
            assert worker.poll() is None, log.read_text()
            client = _start(former_release, CLIENT, owner, str(TASKS), stdout=subprocess.PIPE)
            said = json.loads(client.communicate(timeout=TIMEOUT)[0])
        finally:
            worker.terminate()
            worker.wait(TIMEOUT)
    assert said["file"].startswith(str(former_release))
    assert said["results"] == [{"paid": n, "packed": n + 1, "answer": "yes"} for n in range(TASKS)]
    assert empty_conn.execute("select total from bookings order by 1").fetchall() == [(n + 1,) for n in range(TASKS)]
    owners = "select distinct pg_get_userbyid(proowner) from pg_proc where pronamespace = 'absurd'::regnamespace"
    assert empty_conn.execute(owners.encode()).fetchall() == [(psycopg.conninfo.conninfo_to_dict(owner)["user"],)]
    assert "Traceback" not in log.read_text(), log.read_text()
    assert "permission denied" not in log.read_text(), log.read_text()
    # What is left over, and new work, is this release's: as the same role.
    with Absurd(owner) as app:

        @app.register_task("order")
        def order(params: Any, ctx: Any) -> Any:
            return ctx.step("total", lambda: params["a"])

        @app.register_task("pack")
        def pack(params: Any, ctx: Any) -> Any:
            return params

        @app.register_task("noted")
        def noted(params: Any, ctx: Any) -> Any:
            return params

        with app.worker():
            assert app.spawn("order", {"a": 1}).result(timeout=TIMEOUT) == 1
    record("releases mixed: the former one as owner", ["one end", "transactions once", "events once"], tasks=TASKS)
