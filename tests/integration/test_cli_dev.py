"""dev, and commands without a database given: the embedded PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from absurd import devdb
from tests.cli import absurdctl, refused


def test_the_embedded_server_is_started_shown_used_and_stopped(short_directory: Path) -> None:
    env = {"ABSURD_HOME": str(short_directory / "home")}
    status = absurdctl("dev", "--status", "--json", env=env, code=1)
    assert (status.json()["running"], status.json()["url"]) == (False, None)
    assert absurdctl("dev", "--stop", "--json", env=env).json() == {"stopped": False}
    try:
        started = absurdctl("dev", env=env)
        url = started.out.strip()
        assert url.startswith("postgresql://")
        assert str(short_directory / "home") in started.err
        again = absurdctl("dev", "--json", env=env)
        assert again.json() == {"url": url, "running": True}
        assert again.err == ""
        shown = absurdctl("dev", "--status", env=env).out
        assert "running:  yes" in shown
        assert url in shown
        absurdctl("create-queue", "orders", env=env)
        assert "orders" in absurdctl("list-queues", "-d", url).out
        assert absurdctl("dev", "--stop", env=env).out == "✓ Stopped the embedded PostgreSQL\n"
        assert absurdctl("dev", "--status", "--json", env=env, code=1).json()["running"] is False
        assert "orders" in absurdctl("list-queues", env=env).out
    finally:
        devdb.Server(short_directory / "home").stop("immediate")


def test_dev_is_not_about_another_database(database_url: str) -> None:
    assert "leave out -d" in refused("dev", "-d", database_url)
    assert "leave out -d" in refused("-d", database_url, "dev", "--stop")
    refused("dev", "--stop", "--status", code=2)
