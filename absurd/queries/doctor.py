"""What ``absurdctl doctor`` asks: of the server and its catalogue, which everybody may read, and of our tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from absurd.queries.query import Query, Row


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One row about the server and the session. ``clock`` is the server's, now."""

    version: int
    version_text: str
    database: str
    user: str
    superuser: bool
    in_recovery: bool
    clock: datetime
    connections: int
    max_connections: int
    reserved: int
    schema_owner: str | None
    owners: list[str]
    """Of the schema, its tables, types and functions: one, if all is well."""
    superusers: list[str]
    """Those of the owners that are such."""
    listens: bool
    """Whether it can be reached otherwise than by a socket."""
    roles: int
    sees_sessions: bool


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One of our tables: its size, its dead rows, and when it was vacuumed last."""

    name: str
    total_bytes: int
    live: int
    dead: int
    threshold: float
    vacuumed_at: datetime | None
    vacuumed_seconds: float | None
    frozen_age: int
    freeze_max_age: int
    autovacuum: bool


@dataclass(frozen=True, slots=True)
class Holder:
    """Something that keeps vacuum from removing dead rows, or holds locks."""

    kind: str
    pid: int | None
    user: str | None
    application: str | None
    state: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """One queue: who serves it, and whether it grows without end."""

    queue_name: str
    paused_at: datetime | None
    workers: int
    oldest_ready_at: datetime | None
    keeps_tasks: bool
    keeps_events: bool
    cleaned_at: datetime | None
    ended: int
    untaken: int


@dataclass(frozen=True, slots=True)
class Late:
    """What should have happened and has not."""

    what: str
    queue_name: str | None
    name: str | None
    count: int
    since: datetime | None
    detail: str | None


def server_facts() -> Query[ServerFacts]:
    """About the server."""
    sql = """
        with owners as (
          select r.rolname, r.rolsuper
          from pg_namespace n
          cross join lateral (
            select n.nspowner union select relowner from pg_class where relnamespace = n.oid
            union select typowner from pg_type where typnamespace = n.oid
            union select proowner from pg_proc where pronamespace = n.oid
          ) as o(role)
          join pg_roles r on r.oid = o.role
          where n.nspname = 'absurd'
        )
        select current_setting('server_version_num')::int, current_setting('server_version'), current_database(),
          session_user::text, current_setting('is_superuser') = 'on', pg_is_in_recovery(), clock_timestamp(),
          (select count(*)::int from pg_stat_activity where backend_type = 'client backend'),
          current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int,
          (select pg_get_userbyid(nspowner)::text from pg_namespace where nspname = 'absurd'),
          array(select rolname::text from owners order by 1), array(select rolname::text from owners where rolsuper order by 1),
          current_setting('listen_addresses') <> '',
          (select count(*)::int from pg_roles where rolname in ('absurd_producer', 'absurd_worker', 'absurd_reader')),
          current_setting('is_superuser') = 'on' or pg_has_role('pg_read_all_stats', 'usage')"""
    return Query(sql, (), lambda rows: ServerFacts(*rows[0]))


def settings() -> Query[dict[str, str]]:
    """The settings of this session that matter; times in milliseconds."""
    sql = """
        select name, setting from pg_settings where name in (
          'fsync', 'full_page_writes', 'synchronous_commit', 'autovacuum', 'track_counts', 'idle_in_transaction_session_timeout',
          'idle_session_timeout', 'statement_timeout', 'lock_timeout', 'transaction_timeout', 'default_transaction_isolation',
          'default_transaction_read_only')"""
    return Query(sql, (), lambda rows: dict(rows))


def table_facts() -> Query[list[TableFacts]]:
    """Our tables, the largest first."""
    sql = """
        select c.relname::text, pg_total_relation_size(c.oid), coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0),
          coalesce(o.options ->> 'autovacuum_vacuum_threshold', current_setting('autovacuum_vacuum_threshold'))::float8
            + coalesce(o.options ->> 'autovacuum_vacuum_scale_factor', current_setting('autovacuum_vacuum_scale_factor'))::float8
            * greatest(c.reltuples, 0),
          v.at, extract(epoch from clock_timestamp() - v.at)::float8, age(c.relfrozenxid),
          current_setting('autovacuum_freeze_max_age')::int, coalesce((o.options ->> 'autovacuum_enabled')::boolean, true)
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        left join pg_stat_all_tables s on s.relid = c.oid
        cross join lateral (
          select jsonb_object_agg(split_part(x, '=', 1), split_part(x, '=', 2)) as options from unnest(c.reloptions) x) o
        cross join lateral (select greatest(s.last_vacuum, s.last_autovacuum) as at) v
        where n.nspname = 'absurd' and c.relkind = 'r'
        order by 2 desc"""
    return Query(sql, (), lambda rows: [TableFacts(*row) for row in rows])


def old_holders(seconds: float) -> Query[list[Holder]]:
    """Transactions, prepared transactions and replication slots of this database that are older than so many seconds."""
    sql = """
        select 'transaction', a.pid, a.usename::text, a.application_name, a.state,
          extract(epoch from clock_timestamp() - a.xact_start)::float8
        from pg_stat_activity a
        where a.xact_start < clock_timestamp() - make_interval(secs => %s) and a.pid <> pg_backend_pid()
          and (a.datname = current_database() or a.backend_xmin is not null) and a.backend_type <> 'autovacuum worker'
        union all
        select 'prepared transaction', null, p.owner::text, p.gid, null,
          extract(epoch from clock_timestamp() - p.prepared)::float8
        from pg_prepared_xacts p
        where p.database = current_database() and p.prepared < clock_timestamp() - make_interval(secs => %s)
        union all
        select 'replication slot', r.active_pid, null, r.slot_name::text, case when r.active then 'active' else 'inactive' end, 0
        from pg_replication_slots r
        where age(coalesce(r.xmin, r.catalog_xmin)) > 1000000
        order by 6 desc limit 20"""
    return Query(sql, (seconds, seconds), lambda rows: [Holder(*row) for row in rows])


def queue_facts() -> Query[list[QueueFacts]]:
    """Our queues."""
    sql = """
        select queue_name, paused_at, workers, oldest_ready_at, keeps_tasks, keeps_events, cleaned_at, ended, untaken
        from absurd.doctor_queues()"""
    return Query(sql, (), lambda rows: [QueueFacts(*row) for row in rows])


def late_work() -> Query[list[Late]]:
    """What should have happened and has not."""

    def decode(rows: list[Row]) -> list[Late]:
        return [Late(*row) for row in rows]

    return Query("select what, queue_name, name, count, since, detail from absurd.doctor_work()", (), decode)
