-- What was used, and what became of every record that a segment of a journal holds.
--
-- A record is known by (segment, number). It has exactly one fate: a row in usage_event, usage_duplicate,
-- event_conflict, dead_letter or parked. All five are append-only: a correction is a new event.
set local role tallygate_owner;

create function refuse_change() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception '% of % is refused: the books are append-only', tg_op, tg_table_name
    using errcode = 'insufficient_privilege', hint = 'Book a cancel or an amend event instead.';
end
$$;

create table usage_event (
  event_day      date        not null,  -- the UTC day of the UUIDv7: makes the primary key unique over all days
  event_id       uuid        not null,
  segment        text collate "C" not null,
  number         integer     not null,
  version        smallint    not null,
  kind           text        not null check (kind in ('usage', 'cancel', 'amend')),
  ref            uuid,
  organization   text collate "C" not null,
  subscription   text        not null,
  plan_version   text        not null,
  key            text collate "C" not null,
  route          text collate "C" not null,
  upstream       text        not null,
  provider       text        not null,
  model          text        not null,
  status         smallint    not null,
  outcome        text        not null check (outcome in ('ok', 'upstream_error', 'client_gone', 'estimated')),
  admitted_at    timestamptz not null,
  occurred_at    timestamptz not null,  -- the end of use: decides the billing period
  quantities     jsonb       not null,  -- meter -> integer
  payload_hash   bytea       not null,  -- SHA-256 of the packed event
  received_at    timestamptz not null default now(),
  primary key (event_day, event_id),
  unique (segment, number, event_day),
  check ((ref is null) = (kind = 'usage'))
) partition by range (event_day);

create trigger usage_event_refuses_change before update or delete on usage_event
  for each row execute function refuse_change();
create trigger usage_event_refuses_truncate before truncate on usage_event
  for each statement execute function refuse_change();

-- Opens a day for booking. True if events of this day can be booked; false if its partition was detached, which is
-- how a day is archived. The partition is attached rather than created in place, because that does not lock out
-- those who book other days.
create function open_usage_day(day date) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  partition constant text := 'usage_event_' || to_char(day, 'YYYYMMDD');
begin
  perform pg_advisory_xact_lock(7405, 0);
  if to_regclass(partition) is not null then
    return exists (
      select from pg_inherits where inhparent = 'usage_event'::regclass and inhrelid = to_regclass(partition)
    );
  end if;
  execute format('create table %I (like usage_event including defaults including constraints)', partition);
  execute format('create trigger %I before truncate on %I for each statement execute function refuse_change()',
                 partition || '_refuses_truncate', partition);
  execute format('alter table usage_event attach partition %I for values from (%L) to (%L)',
                 partition, day, day + 1);
  execute format('grant select on %I to tallygate_worker, tallygate_control, tallygate_reader', partition);
  return true;
end
$$;
revoke execute on function open_usage_day(date) from public;
grant execute on function open_usage_day(date) to tallygate_worker;

-- Another record of an event that is booked: same id, same payload.
create table usage_duplicate (
  segment      text collate "C" not null,
  number       integer     not null,
  shard        smallint    not null,
  event_day    date        not null,
  event_id     uuid        not null,
  payload_hash bytea       not null,
  received_at  timestamptz not null default now(),
  primary key (segment, number)
);

-- A record with the id of a booked event that says something else. Somebody has to look at these.
create table event_conflict (
  segment      text collate "C" not null,
  number       integer     not null,
  shard        smallint    not null,
  event_day    date        not null,
  event_id     uuid        not null,
  payload      bytea       not null,
  payload_hash bytea       not null,
  received_at  timestamptz not null default now(),
  primary key (segment, number)
);

-- A record that cannot be booked, ever, and why.
create table dead_letter (
  segment      text collate "C" not null,
  number       integer     not null,
  shard        smallint    not null,
  reason       text        not null,
  payload      bytea       not null,
  payload_hash bytea       not null,
  received_at  timestamptz not null default now(),
  primary key (segment, number)
);

-- A sound record whose day is out of reach: older than retention, archived, or ahead of the clock.
create table parked (
  segment      text collate "C" not null,
  number       integer     not null,
  shard        smallint    not null,
  reason       text        not null,
  event_day    date,
  event_id     uuid        not null,
  payload      bytea       not null,
  payload_hash bytea       not null,
  received_at  timestamptz not null default now(),
  primary key (segment, number)
);

do $$
declare
  name text;
begin
  foreach name in array array['usage_duplicate', 'event_conflict', 'dead_letter', 'parked'] loop
    execute format('create trigger %I before update or delete on %I for each row execute function refuse_change()',
                   name || '_refuses_change', name);
    execute format('create trigger %I before truncate on %I for each statement execute function refuse_change()',
                   name || '_refuses_truncate', name);
  end loop;
end
$$;

-- Fates other than a row of usage_event; few, so that asking for them costs little.
create view aside_fate as
  select segment, number, payload_hash, received_at, 'duplicate' as fate from usage_duplicate
  union all select segment, number, payload_hash, received_at, 'conflict' from event_conflict
  union all select segment, number, payload_hash, received_at, 'dead_letter' from dead_letter
  union all select segment, number, payload_hash, received_at, 'parked' from parked;

create view record_fate as
  select segment, number, payload_hash, received_at, 'booked' as fate from usage_event
  union all select segment, number, payload_hash, received_at, fate from aside_fate;

-- What a stream held that is no record of a segment: an entry that is no frame, or a record whose place in its
-- segment is taken by another. Not counted as accounted for.
create table stream_poison (
  shard        smallint    not null,
  entry        text collate "C" not null,
  raw_hash     bytea       not null,
  reason       text        not null,
  raw          bytea       not null,
  received_at  timestamptz not null default now(),
  primary key (shard, raw_hash)
);

-- Events taken back. A cancel may come before what it cancels; the first one counts.
create table usage_cancel (
  ref          uuid        not null,
  organization text collate "C" not null,
  event_id     uuid        not null,
  primary key (ref, organization)
);

-- First-time fates of a segment's records, per shard. A segment is accounted for when the sum over its shards is its
-- number of final records. Written last in a transaction; no two shards share a row.
create table segment_count (
  segment      text collate "C" not null,
  shard        smallint    not null,
  records      integer     not null,
  updated_at   timestamptz not null default now(),
  primary key (segment, shard)
) with (fillfactor = 50);

-- Usage per hour (of occurred_at, UTC): what usage_event says, cancelled events left out.
create table usage_hour (
  organization text collate "C" not null,
  key          text collate "C" not null,
  route        text collate "C" not null,
  meter        text collate "C" not null,
  hour         timestamptz    not null,
  quantity     numeric(38, 0) not null,
  events       bigint         not null,  -- usage events that carry this meter; an amend is not one
  primary key (organization, hour, key, route, meter)
) with (fillfactor = 70);

-- Nodes and the oldest usage they still hold; copied from their heartbeats.
create table node (
  node                 text collate "C" not null primary key,
  seen_at              timestamptz not null,
  oldest_unaccounted_at timestamptz,
  segments             integer     not null,
  bytes                bigint      not null
);

grant select on all tables in schema public to tallygate_worker, tallygate_control, tallygate_reader;
grant insert on usage_event, usage_duplicate, event_conflict, dead_letter, parked, stream_poison, usage_cancel
  to tallygate_worker;
grant insert, update on segment_count, usage_hour, node to tallygate_worker;
