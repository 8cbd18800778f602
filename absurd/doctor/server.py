"""The server: version, settings, connections, clock, what stands before it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from absurd.db.pooler import Pooling
from absurd.devdb.cluster import SUPERUSER
from absurd.doctor.finding import Finding, ago, error, ok, warning
from absurd.queries.doctor import ServerFacts

LEAST_VERSION = 150_000
# The part of the connections from which on it is time to think of more, and from which on the next worker may get none.
MANY_CONNECTIONS, TOO_MANY_CONNECTIONS = 0.8, 0.95
# Seconds by which two clocks may differ. Nothing durable depends on a worker's clock; logs and people do.
CLOCK_SECONDS = 5.0
# Seconds: statements of a worker under load, and transactions of handlers, have to fit into these.
SHORT_STATEMENT, SHORT_LOCK, SHORT_IDLE = 10.0, 1.0, 60.0


def check_server(facts: ServerFacts) -> Iterator[Finding]:
    """Version, role of the server, connections."""
    if facts.version < LEAST_VERSION:
        yield error("server", f"PostgreSQL {facts.version_text}", "absurd needs 15 or newer.", "Upgrade the server.")
    if facts.in_recovery:
        yield error(
            "server",
            "this server is a standby and only reads",
            "No task can be spawned, claimed or finished here.",
            "Name the primary, or all servers: postgresql://…@db1,db2/app?target_session_attrs=read-write",
        )
    share = facts.connections / max(facts.max_connections - facts.reserved, 1)
    what = f"{facts.connections} of {facts.max_connections} connections are in use ({facts.reserved} are reserved for superusers)"
    why = "A worker keeps four and takes more for ctx.transaction; without a free one it cannot start or reconnect."
    todo = "Start fewer processes, put clients behind a pooler, or: alter system set max_connections = …; and restart PostgreSQL"
    if share >= TOO_MANY_CONNECTIONS:
        yield error("connections", what, why, todo)
    elif share >= MANY_CONNECTIONS:
        yield warning("connections", what, why, todo)
    else:
        yield ok("connections", what)


def check_clock(clock: datetime, began: datetime, ended: datetime) -> Iterator[Finding]:
    """The server's clock against this machine's, between whose two moments it was read."""
    off = max((began - clock).total_seconds(), (clock - ended).total_seconds(), 0.0)
    if off > CLOCK_SECONDS:
        yield warning(
            "clock",
            f"the clocks of the database and of this machine differ by {ago(off)}",
            "Tasks go by the database's clock, logs and moments that programs compute by this one's.",
            "Have both synchronised: timedatectl set-ntp true",
        )
    else:
        yield ok("clock", "the clocks of the database and of this machine agree")


def check_settings(found: dict[str, str], facts: ServerFacts) -> Iterator[Finding]:
    """What the server is told to do, for sessions of this role."""
    problems = [*_durability(found), *_vacuum(found), *_timeouts(found, facts.user), *_defaults(found)]
    yield from problems
    if not problems:
        yield ok("settings", "fsync, full_page_writes, synchronous_commit, autovacuum and the timeouts are as they should be")


def _durability(found: dict[str, str]) -> Iterator[Finding]:
    for name, harm in (
        ("fsync", "After a crash of the machine the whole database may be unreadable."),
        ("full_page_writes", "A crash in the middle of a write may leave damaged pages."),
    ):
        if found[name] == "off":
            todo = f"alter system set {name} = on; select pg_reload_conf();"
            yield error("settings", f"{name} is off", harm, todo)
    if found["synchronous_commit"] == "off":
        yield warning(
            "settings",
            "synchronous_commit is off",
            "A crash of PostgreSQL loses spawns and steps of its last moments that were acknowledged: steps run again.",
            "alter system set synchronous_commit = on; select pg_reload_conf();",
        )


def _vacuum(found: dict[str, str]) -> Iterator[Finding]:
    for name in ("autovacuum", "track_counts"):
        if found[name] == "off":
            todo = f"alter system set {name} = on; select pg_reload_conf();"
            why = "Dead rows are never removed: claims walk past those of all runs that have ended, and become slower."
            yield error("settings", f"{name} is off, so that nothing is vacuumed", why, todo)


def _timeouts(found: dict[str, str], user: str) -> Iterator[Finding]:
    for name, least, harm in (
        (
            "statement_timeout",
            SHORT_STATEMENT,
            "Statements of workers and retention may be cancelled under load and are repeated.",
        ),
        ("lock_timeout", SHORT_LOCK, "Clients that meet a locked row get an error instead of waiting for a moment."),
        (
            "idle_in_transaction_session_timeout",
            SHORT_IDLE,
            "A ctx.transaction whose function takes longer loses its connection.",
        ),
        ("transaction_timeout", SHORT_IDLE, "A ctx.transaction that takes longer is cancelled, again and again."),
        ("idle_session_timeout", SHORT_IDLE, "Idle workers and pools lose their connections and have to make new ones."),
    ):
        seconds = int(found.get(name, "0")) / 1000
        if 0 < seconds < least:
            todo = f'alter role "{user}" set {name} = 0;  -- or {least:.0f} s and more; then start workers anew'
            yield warning("settings", f"{name} is {seconds:g} s for the role {user}", harm, todo)


def _defaults(found: dict[str, str]) -> Iterator[Finding]:
    if found["default_transaction_read_only"] == "on":
        yield error(
            "settings",
            "default_transaction_read_only is on",
            "Nothing can be spawned or finished.",
            "alter database … set default_transaction_read_only = off;",
        )


def check_pooling(pooling: Pooling) -> Iterator[Finding]:
    """What stands between."""
    if pooling is Pooling.TRANSACTION:
        yield warning(
            "pooler",
            "this URL leads to a connection pooler in transaction mode",
            "Clients work with it: spawns, emits, results. Workers refuse it: they need notifications and session locks.",
            "Give workers, schedulers and listeners a URL that leads to PostgreSQL, or to a pool with pool_mode=session.",
        )
    elif pooling is Pooling.SESSION:
        yield ok("pooler", "a connection pooler in session mode; each worker process takes four of its connections or more")
    else:
        yield ok("pooler", "none: this URL leads to PostgreSQL itself")


def check_roles(facts: ServerFacts) -> Iterator[Finding]:
    """Who owns the schema, and as whom programs log in."""
    if facts.superusers == [SUPERUSER] and not facts.listens:
        yield ok("roles", f"an embedded server: all belongs to its superuser {SUPERUSER}, and nobody else may connect")
    elif facts.superusers:
        yield warning(
            "roles",
            f"the schema or something in it belongs to the superuser {', '.join(facts.superusers)}",
            "Its functions run as their owner: whoever finds a hole in one of them has the whole server.",
            f'create role absurd_owner nologin; grant create on database "{facts.database}" to absurd_owner; '
            "alter schema absurd owner to absurd_owner; "
            "select absurd.adopt_objects('absurd_owner'::regrole);  -- in this database, as a superuser: see docs/security.md",
        )
    elif len(facts.owners) > 1:
        yield warning(
            "roles",
            f"the schema belongs to {facts.schema_owner}, and what is in it to {', '.join(facts.owners)}",
            "An upgrade replaces all functions, which only the owner of each may do.",
            f"select absurd.adopt_objects('\"{facts.schema_owner}\"'::regrole);  -- in this database, as a superuser",
        )
    elif facts.roles < 3:
        yield warning(
            "roles",
            "the roles absurd_producer, absurd_worker and absurd_reader are not there",
            "Every program logs in as the owner of the schema then, and may delete everything.",
            "absurdctl migrate --roles, and grant one of them to the role of each program",
        )
    else:
        yield ok(
            "roles", f"the schema belongs to {facts.schema_owner}; absurd_producer, absurd_worker and absurd_reader are there"
        )
