-- One row per queue: what people decided about it. Hot statements only read it by its key.
create table absurd.queues (
  queue_name text primary key check (octet_length(queue_name) between 1 and 57),
  created_at timestamptz not null default now(),
  paused_at timestamptz,
  max_payload_bytes integer not null default 10485760 check (max_payload_bytes between 1024 and 268435456),
  -- The policy of Absurd's published SQL surface. Storage is shared here, so partition settings are kept and reported only.
  storage_mode text not null default 'unpartitioned' check (storage_mode in ('unpartitioned', 'partitioned')),
  default_partition text not null default 'enabled' check (default_partition in ('enabled', 'disabled')),
  partition_lookahead interval not null default '28 days',
  partition_lookback interval not null default '1 day',
  cleanup_ttl interval not null default '30 days' check (cleanup_ttl >= interval '0'),
  cleanup_limit integer not null default 1000 check (cleanup_limit >= 1),
  detach_mode text not null default 'none' check (detach_mode in ('none', 'empty')),
  detach_min_age interval not null default '30 days'
);
