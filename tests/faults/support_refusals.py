"""A database that refuses writes: real triggers raise an error of any kind, a number of times, for some connections."""

from __future__ import annotations

from typing import Any

import psycopg

TERMINATED = "terminated"
"""Instead of an SQLSTATE: the session is ended, as by an administrator."""


def refuse(
    conn: psycopg.Connection[Any], table: str, state: str, times: int, application: str = "absurd worker: writer", skip: int = 0
) -> None:
    """Has the next ``times`` writes to a table of the schema fail with an SQLSTATE, after ``skip`` that pass."""
    # A sequence is no part of the transaction that is undone, so that it counts what was refused.
    conn.execute(f"create sequence public.refused_{table}".encode())
    act = f"raise exception 'refused on purpose' using errcode = '{state}'"
    if state == TERMINATED:
        act = "perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(10)"
    conn.execute(
        f"""
        create function public.refuse_{table}() returns trigger language plpgsql security definer as $$
        declare
          n bigint;
        begin
          if current_setting('application_name') like '{application}%' then
            n := nextval('public.refused_{table}');
            if n > {skip} and n <= {skip + times} then
              {act};
            end if;
          end if;
          return null;
        end $$;
        create trigger refuse before insert or update or delete on absurd.{table}
          for each statement execute function public.refuse_{table}()""".encode()
    )


def refused(conn: psycopg.Connection[Any], table: str, times: int, skip: int = 0) -> int:
    """How many writes have been refused."""
    row = conn.execute(f"select case when is_called then last_value else 0 end from public.refused_{table}".encode()).fetchone()
    assert row is not None
    return int(min(max(row[0] - skip, 0), times))
