"""A PgBouncer of the test's own, before the server of the tests. In CI there must be one: Debian's package `pgbouncer`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from absurd.devdb.account import choose_account
from tests.support import wait_until


def find_pgbouncer() -> str:
    """The program. Skips the test where there is none; fails it in CI."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        reason = "there is no pgbouncer; apt-get install pgbouncer"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def pgbouncer(url: str, mode: str, pool_size: int = 20) -> Iterator[str]:
    """The URL by which a database is reached through a PgBouncer in this mode, for a while."""
    program, target = find_pgbouncer(), conninfo_to_dict(url)
    directory = Path(tempfile.mkdtemp(prefix="absurd-bouncer-", dir="/tmp"))
    directory.chmod(0o755)
    port = _free_port()
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"""[databases]
* = host={target["host"]} port={target.get("port", 5432)} user={target["user"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = 200
log_connections = 0
log_disconnections = 0
"""
    )
    # As whom the server runs: PgBouncer refuses root too, and has to reach the server's socket.
    account = choose_account()
    with (directory / "log").open("w") as log:
        process = subprocess.Popen([*account.prefix, program, str(settings)], stdout=log, stderr=log, **account.options())
        through = make_conninfo(
            host="127.0.0.1", port=port, user=str(target["user"]), dbname=str(target["dbname"]), sslmode="disable"
        )
        try:
            wait_until(lambda: _answers(through, process, directory), what="an answer of pgbouncer")
            yield through
        finally:
            process.terminate()
            process.wait(20)
            shutil.rmtree(directory, ignore_errors=True)


def _answers(url: str, process: subprocess.Popen[bytes], directory: Path) -> bool:
    assert process.poll() is None, (directory / "log").read_text()
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=5) as conn:
        return conn.execute("select 1").fetchone() == (1,)
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
