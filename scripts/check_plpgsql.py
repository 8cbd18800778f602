"""Runs plpgsql_check over every PL/pgSQL function of the schema, on a throw-away server.

Needs a PostgreSQL with the extension, on Debian: apt-get install postgresql-15-plpgsql-check. `--bin` names its programs.
Errors fail, and so do warnings, also those about security. Two kinds are printed as hints and do not fail: those about speed
(the volatility of a function is also a promise about what it may do later) and those about what is never read (a variable that
only receives what `perform` cannot run, a parameter that its callers' interface has).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import class_row

from absurd import devdb, schema

DEFAULT_BINARIES = Path("/usr/lib/postgresql/15/bin")
HINTS = frozenset({"performance", "warning extra"})
CHECK = """
    select p.oid::regprocedure::text as function, c.lineno, c.level, c.sqlstate, c.message, c.hint
    from pg_proc p
    join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
    left join pg_trigger t on t.tgfoid = p.oid
    cross join lateral plpgsql_check_function_tb(p.oid, coalesce(t.tgrelid, 0)::regclass,
      fatal_errors => false, extra_warnings => true, performance_warnings => true, security_warnings => true,
      compatibility_warnings => true) c
    where p.pronamespace = 'absurd'::regnamespace
    order by 1, 2
"""
COUNT = """
    select count(*) from pg_proc p join pg_language l on l.oid = p.prolang
    where p.pronamespace = 'absurd'::regnamespace and l.lanname = 'plpgsql'
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that plpgsql_check has to say."""

    function: str
    lineno: int | None
    level: str
    sqlstate: str | None
    message: str
    hint: str | None

    def __str__(self) -> str:
        return f"{self.level}: {self.function}, line {self.lineno}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def main() -> int:
    """Check all functions; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=DEFAULT_BINARIES, help=f"PostgreSQL's programs, default {DEFAULT_BINARIES}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="absurd-check-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)  # for the account that root's server may run as
        with devdb.Server(directory, binaries=options.bin, settings={"fsync": "off"}) as server:
            count, findings = check(server.url())
    failures = [finding for finding in findings if finding.level not in HINTS]
    for finding in findings:
        print(finding)
    print(f"plpgsql_check: {count} functions, {len(failures)} failures, {len(findings) - len(failures)} hints")
    return 1 if failures or not count else 0


def check(url: str) -> tuple[int, list[Finding]]:
    """Install the schema and return how many functions there are, and what is to be said about them."""
    connection: psycopg.Connection[Any]
    with psycopg.connect(url, autocommit=True) as connection:
        schema.install(connection)
        connection.execute("create extension plpgsql_check")
        row = connection.execute(COUNT.encode()).fetchone()
        with connection.cursor(row_factory=class_row(Finding)) as cursor:
            return (row[0] if row else 0), cursor.execute(CHECK.encode()).fetchall()


if __name__ == "__main__":
    sys.exit(main())
