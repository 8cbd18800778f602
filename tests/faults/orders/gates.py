# ruff: noqa: E501  (SQL and tables are read better in long lines)
"""Gates inside the SQL functions: places between two of their statements at which a session can be stopped.

``install`` puts a gate behind every statement of a PL/pgSQL function of the schema that touches a table or takes a lock. The functions
stay the same otherwise: a gate is an ``if``, which leaves FOUND and the row count alone, and each statement of a volatile function
takes its snapshot anew as it does without. A session that has named itself (``absurd_orders.actor``) waits at a gate until the
scheduler opens it; all others walk through.
"""

from __future__ import annotations

import re

from tests.sql.calls import Connection, rows

LOCK_CLASS = 77100
"""The first key of the advisory locks of the gates; the actor's number is added. The library uses keys of another form."""

_SUPPORT = f"""
create schema absurd_orders;
create sequence absurd_orders.gate_1;
create sequence absurd_orders.gate_2;
create sequence absurd_orders.gate_3;

create function absurd_orders.gate() returns boolean language plpgsql volatile set lock_timeout = 0 as $$
declare
  v_actor text := coalesce(current_setting('absurd_orders.actor', true), '');
  v_gate integer;
begin
  if v_actor <> '' then
    -- A sequence, for it is not rolled back with the block of an exception.
    v_gate := nextval('absurd_orders.gate_' || v_actor);
    perform pg_advisory_lock_shared({LOCK_CLASS} + v_actor::integer, v_gate);
    perform pg_advisory_unlock_shared({LOCK_CLASS} + v_actor::integer, v_gate);
  end if;
  return false;
end $$;
"""

_TOUCHES = re.compile(
    r"absurd\.(runs|tasks|waits|events|tokens|checkpoints|attempts|queues|subscriptions|idempotency_keys|event_keys|event_tasks|"
    r"triggers|trigger_executions|schedules|workers)\b|advisory"
)
_FUNCTIONS = """
select pg_get_functiondef(p.oid) as definition, p.prosrc as source
from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
where n.nspname = 'absurd' and l.lanname = 'plpgsql' and p.provolatile = 'v'
order by p.proname
"""


def install(conn: Connection) -> int:
    """Puts gates into all functions; how many there are."""
    rows(conn, _SUPPORT)
    count = 0
    for found in rows(conn, _FUNCTIONS):
        source = with_gates(found["source"])
        count += source.count("absurd_orders.gate()")
        rows(conn, found["definition"].replace(found["source"], source))
    return count


def with_gates(source: str) -> str:
    """The body of a function with a gate behind each statement that touches a table or takes a lock."""
    lines: list[str] = []
    statement = ""
    inside = False
    depth = 0
    for line in source.split("\n"):
        lines.append(line)
        code = re.sub(r"'[^']*'", "''", line).split("--")[0].rstrip()
        if not inside:
            inside = code == "begin"
            continue
        statement += code + "\n"
        depth += code.count("(") - code.count(")")
        if depth == 0 and code.endswith((";", " then", " loop", "else", "begin")):
            if code.endswith(";") and _TOUCHES.search(statement) and not code.lstrip().startswith("return"):
                lines.append("if absurd_orders.gate() then null; end if;")
            statement = ""
    return "\n".join(lines)
