"""Re-applies the functions of the schema: new ones appear, changed ones are replaced, vanished ones go.

``create or replace`` keeps a function's identity, its privileges and whatever depends on it, so it is used wherever PostgreSQL
allows it. Which functions the release wants, and with which signatures, is not read from the text of the files but learned from
PostgreSQL: the whole schema is installed anew beside the present one, looked at, and rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from absurd.errors import SchemaError

Connection = psycopg.Connection[Any]

FUNCTIONS = """
    select p.oid::bigint as oid,
      p.proname || '(' || oidvectortypes(p.proargtypes) || ')' as signature,
      concat_ws(' ', p.prokind, pg_get_function_identity_arguments(p.oid), '→', pg_get_function_result(p.oid)) as shape,
      p.pronargdefaults::integer as defaults,
      format('drop routine %s', p.oid::regprocedure) as drop_statement
    from pg_proc p
    where p.pronamespace = 'absurd'::regnamespace
"""

# What rests on a function and goes with it: how to take it away, and how to put it back.
DEPENDENTS = """
    with dependency as (
      select distinct d.classid, d.objid, d.objsubid
      from pg_depend d
      where d.refclassid = 'pg_proc'::regclass and d.refobjid = any(%(functions)s::bigint[]::oid[])
        and d.deptype in ('n', 'a') and not (d.classid = 'pg_proc'::regclass and d.objid = any(%(functions)s::bigint[]::oid[]))
    )
    select coalesce(
        (select pg_describe_object('pg_class'::regclass, r.ev_class, 0) from pg_rewrite r
          where d.classid = 'pg_rewrite'::regclass and r.oid = d.objid),
        pg_describe_object(d.classid, d.objid, d.objsubid)) as description,
      case d.classid
        when 'pg_attrdef'::regclass then (
          select format('alter table %%s alter column %%I drop default', f.adrelid::regclass, a.attname)
          from pg_attrdef f join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum
          where f.oid = d.objid and a.attgenerated = '')
        when 'pg_constraint'::regclass then (
          select format('alter table %%s drop constraint %%I', c.conrelid::regclass, c.conname)
          from pg_constraint c where c.oid = d.objid and c.conrelid <> 0)
        when 'pg_trigger'::regclass then (
          select format('drop trigger %%I on %%s', t.tgname, t.tgrelid::regclass) from pg_trigger t where t.oid = d.objid)
        when 'pg_rewrite'::regclass then (
          select format('drop view %%s', c.oid::regclass)
          from pg_rewrite r join pg_class c on c.oid = r.ev_class where r.oid = d.objid and c.relkind = 'v')
        when 'pg_class'::regclass then (
          select format('drop index %%s', c.oid::regclass) from pg_class c where c.oid = d.objid and c.relkind = 'i')
      end as drop_statement,
      case d.classid
        when 'pg_attrdef'::regclass then (
          select format('alter table %%s alter column %%I set default %%s', f.adrelid::regclass, a.attname,
            pg_get_expr(f.adbin, f.adrelid))
          from pg_attrdef f join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum where f.oid = d.objid)
        when 'pg_constraint'::regclass then (
          select format('alter table %%s add constraint %%I %%s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
          from pg_constraint c where c.oid = d.objid)
        when 'pg_trigger'::regclass then pg_get_triggerdef(d.objid)
        when 'pg_rewrite'::regclass then (
          select format('create view %%s %%s as %%s', c.oid::regclass,
            'with (' || array_to_string(c.reloptions, ', ') || ')', pg_get_viewdef(c.oid))
          from pg_rewrite r join pg_class c on c.oid = r.ev_class where r.oid = d.objid)
        when 'pg_class'::regclass then pg_get_indexdef(d.objid)
      end as create_statement
    from dependency d
"""


@dataclass(frozen=True, slots=True)
class Function:
    """One function, and what ``create or replace`` may not change about it."""

    oid: int
    signature: str
    shape: str
    defaults: int
    drop_statement: str

    def becomes(self, wanted: Function) -> bool:
        """Whether ``create or replace`` turns this function into ``wanted``."""
        return self.shape == wanted.shape and self.defaults <= wanted.defaults


@dataclass(frozen=True, slots=True)
class Dependent:
    """Something outside the functions that uses one: a default, a constraint, a trigger, a view, an index."""

    description: str
    drop_statement: str | None
    create_statement: str | None


def replace_functions(conn: Connection, *, apply_all: Callable[[], None], apply: Callable[[], None]) -> None:
    """Make the functions of the installed schema those of this release.

    Args:
        conn: a connection in a transaction that no other change of the schema runs beside.
        apply_all: installs the whole schema into a database without one.
        apply: creates or replaces the functions.
    """
    wanted = _wanted(conn, apply_all)
    doomed = [
        function
        for signature, function in _present(conn).items()
        if signature not in wanted or not function.becomes(wanted[signature])
    ]
    dependents = _dependents(conn, doomed)
    for dependent in dependents:
        _execute(conn, dependent.drop_statement, dependent)
    for function in doomed:
        _drop(conn, function)
    apply()
    for dependent in dependents:
        _execute(conn, dependent.create_statement, dependent)


def _wanted(conn: Connection, apply_all: Callable[[], None]) -> Mapping[str, Function]:
    """The functions of a fresh installation, which is made beside the present one and rolled back."""
    with conn.transaction(force_rollback=True):
        conn.execute("alter schema absurd rename to absurd_present")
        apply_all()
        return _present(conn)


def _present(conn: Connection) -> Mapping[str, Function]:
    with conn.cursor(row_factory=class_row(Function)) as cursor:
        return {function.signature: function for function in cursor.execute(FUNCTIONS)}


def _dependents(conn: Connection, functions: list[Function]) -> list[Dependent]:
    with conn.cursor(row_factory=class_row(Dependent)) as cursor:
        return cursor.execute(DEPENDENTS, {"functions": [function.oid for function in functions]}).fetchall()


def _execute(conn: Connection, statement: str | None, dependent: Dependent) -> None:
    if statement is None:
        raise SchemaError(
            f"{dependent.description} uses a function of the schema absurd that changes with this upgrade. "
            "Drop it, upgrade, and create it again."
        )
    try:
        conn.execute(statement.encode())
    except psycopg.Error as error:
        raise SchemaError(
            f"{dependent.description} uses a function of the schema absurd that changes with this upgrade, and cannot follow: "
            f"{error.diag.message_primary}. Drop it, upgrade, and create it again."
        ) from error


def _drop(conn: Connection, function: Function) -> None:
    try:
        conn.execute(function.drop_statement.encode())
    except psycopg.errors.DependentObjectsStillExist as error:
        raise SchemaError(
            f"The function absurd.{function.signature} changes with this upgrade, but something else in the database uses it: "
            f"{error.diag.message_detail}. Drop that, upgrade, and create it again."
        ) from error
