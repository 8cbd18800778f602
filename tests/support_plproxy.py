"""Three servers with the schema and a PL/Proxy router before them. In CI there must be Debian's `postgresql-15-plproxy`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from absurd import devdb, schema
from absurd.devdb.account import choose_account
from tests.cli import ROOT

BINARIES = Path("/usr/lib/postgresql/15/bin")
EXTENSION = Path("/usr/share/postgresql/15/extension/plproxy.control")
SMALL = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "max_connections": "40",
}
INSTALL = ROOT / "deploy" / "plproxy" / "install.sh"
NAMES = ("a", "b", "c")


def require_plproxy() -> None:
    """Skips the test where there is no PL/Proxy; fails it in CI."""
    if EXTENSION.exists() and (BINARIES / "initdb").exists() and shutil.which("psql"):
        return
    reason = "there is no PL/Proxy for PostgreSQL 15; apt-get install postgresql-15-plproxy"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True, slots=True)
class Routed:
    """The router and its servers, by name."""

    router: str
    shards: dict[str, str]
    servers: dict[str, devdb.Server]


@contextmanager
def routed_servers(directory: Path) -> Iterator[Routed]:
    """Starts them all, for a while, and makes them what deploy/plproxy/install.sh makes of them."""
    require_plproxy()
    servers = {name: devdb.Server(directory / name, binaries=BINARIES, settings=SMALL) for name in ("router", *NAMES)}
    with ExitStack() as stack:
        for server in servers.values():
            stack.callback(server.stop, "immediate")
        _create(servers)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda server: server.start(), servers.values()))
        at = {name: make_conninfo(**conninfo_to_dict(server.url())) for name, server in servers.items()}
        install(at["router"], {name: at[name] for name in NAMES})
        yield Routed(at["router"], {name: at[name] for name in NAMES}, {name: servers[name] for name in NAMES})


def _create(servers: dict[str, devdb.Server]) -> None:
    """Makes one data directory, and the others of it: quicker than four."""
    first = servers[NAMES[0]]
    with first:
        pass
    _copy(first, servers["router"])
    with first, psycopg.connect(first.url(), autocommit=True) as conn:
        schema.install(conn)
    for name in NAMES[1:]:
        _copy(first, servers[name])


def _copy(first: devdb.Server, other: devdb.Server) -> None:
    other.directory.mkdir()
    shutil.copytree(first.data, other.data)
    choose_account(first.data).own_tree(other.data)


def apply_again(router: str) -> None:
    """Brings the router up to date once more, as install.sh does for a newer release."""
    files = [option for name in ("router.sql", "functions.sql") for option in ("-f", str(INSTALL.parent / name))]
    subprocess.run(
        ["psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", router, *files], check=True, stdout=subprocess.DEVNULL
    )


def install(router: str, shards: dict[str, str]) -> str:
    """Runs install.sh; what it says."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["sh", str(INSTALL), router, *(f"{name}={conninfo}" for name, conninfo in shards.items())]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
