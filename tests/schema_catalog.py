"""What PostgreSQL's catalogue says about the schema, as lines that can be compared: fresh = migrated."""

from __future__ import annotations

from typing import Any

import psycopg

QUERIES = (
    """
    select format('relation %s %s %s %s', c.relkind, c.relname, c.relpersistence, c.reloptions)
    from pg_class c where c.relnamespace = 'absurd'::regnamespace and c.relkind <> 'i'
    """,
    # The order of columns may differ: a migration can only append one.
    """
    select format('column %s.%s %s not null %s default %s generated %s collation %s storage %s compression %s',
      c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
      pg_get_expr(d.adbin, d.adrelid), a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attcompression)
    from pg_attribute a join pg_class c on c.oid = a.attrelid
      left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where c.relnamespace = 'absurd'::regnamespace and c.relkind in ('r', 'p', 'v', 'c') and a.attnum > 0 and not a.attisdropped
    """,
    """
    select format('constraint %s.%s %s', coalesce(k.conrelid::regclass::text, ''), k.conname, pg_get_constraintdef(k.oid))
    from pg_constraint k where k.connamespace = 'absurd'::regnamespace
    """,
    "select format('index %s', pg_get_indexdef(i.indexrelid)) from pg_index i join pg_class c on c.oid = i.indexrelid"
    " where c.relnamespace = 'absurd'::regnamespace",
    "select format('trigger %s', pg_get_triggerdef(t.oid)) from pg_trigger t join pg_class c on c.oid = t.tgrelid"
    " where c.relnamespace = 'absurd'::regnamespace and not t.tgisinternal",
    "select format('view %s %s', c.relname, pg_get_viewdef(c.oid)) from pg_class c"
    " where c.relnamespace = 'absurd'::regnamespace and c.relkind in ('v', 'm')",
    "select format('sequence %s %s %s %s %s', c.relname, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqcache)"
    " from pg_sequence s join pg_class c on c.oid = s.seqrelid where c.relnamespace = 'absurd'::regnamespace",
    "select format('type %s %s %s', t.typname, t.typtype, array(select e.enumlabel from pg_enum e where e.enumtypid = t.oid"
    " order by e.enumsortorder)) from pg_type t where t.typnamespace = 'absurd'::regnamespace",
    "select format('function %s %s', p.proacl, pg_get_functiondef(p.oid)) from pg_proc p"
    " where p.pronamespace = 'absurd'::regnamespace and p.prokind in ('f', 'p')",
    "select format('comment %s %s', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description) from pg_description d"
    " where pg_describe_object(d.classoid, d.objoid, d.objsubid) ~ 'absurd\\.'",
    "select format('version %s', version) from absurd.schema_version",
)


def describe(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the whole schema as sorted lines: tables, columns, defaults, constraints, indexes, functions with bodies."""
    with conn.transaction():
        conn.execute("set local search_path = pg_catalog")
        return sorted(str(row[0]) for query in QUERIES for row in conn.execute(query.encode()))
