-- One row: the version of the installed schema, for clients that must know whether they fit.
create table absurd.schema_version (
  only_row boolean primary key default true check (only_row),
  version text not null,
  installed_at timestamptz not null default now()
);
