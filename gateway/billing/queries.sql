-- All statements of the billing worker, reconcile and the reports. `gateway.billing.database` reads them by name.
--
-- Classes of advisory locks: 7401 a shard's transaction, 7402 a shard's owner, 7403 a worker's presence,
-- 7404 migration, 7405 opening of days.


-- name: lock_migration
select pg_advisory_lock(7404, 0)

-- name: create_schema_migration
create table if not exists schema_migration (
  name       text        not null primary key,
  checksum   text        not null,
  applied_at timestamptz not null default now()
)

-- name: applied_migrations
select name, checksum from schema_migration order by name

-- name: record_migration
-- Runs after the file, as whoever the file left in charge.
insert into schema_migration (name, checksum) values ($1, $2)


-- name: open_day
select open_usage_day($1)

-- name: lock_shard
-- First in every transaction that accounts for records, so that all others of this shard wait.
select pg_advisory_xact_lock(7401, $1)

-- name: known_aside
-- Fates other than booked of the records in these stretches of segments.
select fate.segment, fate.number, fate.payload_hash
from unnest($1::text[], $2::integer[], $3::integer[]) as stretch (segment, low, high)
join aside_fate as fate on fate.segment = stretch.segment and fate.number between stretch.low and stretch.high

-- name: book_events
-- Books events that are not booked yet and returns those that it booked, with whether each was cancelled before it
-- came. An event is passed over if its id is booked or if its place in its segment is. What many events of a batch
-- have in common is sent once: `shared` is the place, from 1, of an event's part among those.
with booked as (
  insert into usage_event (
    event_id, number, ref, admitted_at, occurred_at, quantities, payload_hash,
    event_day, segment, version, kind, organization, subscription, plan_version, key, route,
    upstream, provider, model, status, outcome
  )
  select
    event_id, number, ref,
    timestamptz 'epoch' + admitted_at * interval '1 microsecond',
    timestamptz 'epoch' + occurred_at * interval '1 microsecond',
    quantities, payload_hash,
    event_day, segment, version, kind, organization, subscription, plan_version, key, route,
    upstream, provider, model, status, outcome
  from unnest(
    $1::integer[], $2::uuid[], $3::integer[], $4::uuid[], $5::bigint[], $6::bigint[], $7::jsonb[], $8::bytea[]
  ) as event (shared, event_id, number, ref, admitted_at, occurred_at, quantities, payload_hash)
  join unnest(
    $9::date[], $10::text[], $11::smallint[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
    $17::text[], $18::text[], $19::text[], $20::text[], $21::smallint[], $22::text[]
  ) with ordinality as common (
    event_day, segment, version, kind, organization, subscription, plan_version, key, route,
    upstream, provider, model, status, outcome, place
  ) on common.place = event.shared
  on conflict do nothing
  returning event_id, organization
)
select booked.event_id, usage_cancel.ref is not null as cancelled
from booked
left join usage_cancel on usage_cancel.ref = booked.event_id and usage_cancel.organization = booked.organization

-- name: booked_by_id
-- One day at a time, so that the planner looks at one partition.
select event_id, segment, number, payload_hash from usage_event where event_day = $1 and event_id = any($2::uuid[])

-- name: booked_by_place
select segment, number, payload_hash from usage_event
where event_day = $1 and (segment, number) in (select * from unnest($2::text[], $3::integer[]))

-- name: note_cancels
-- Returns the events that are cancelled for the first time.
insert into usage_cancel (ref, organization, event_id)
select * from unnest($1::uuid[], $2::text[], $3::uuid[])
on conflict do nothing
returning ref, organization

-- name: cancelled_events
-- What booked events said, so that it can be taken out of the roll-ups.
select event_id, organization, key, route, kind, (extract(epoch from occurred_at) * 1000000)::bigint as occurred_at,
       quantities
from usage_event
where event_day = $1 and event_id = any($2::uuid[])

-- name: add_to_hours
-- In the order of the key, so that two transactions never wait for each other in a circle.
insert into usage_hour as kept (organization, key, route, meter, hour, quantity, events)
select organization, key, route, meter, timestamptz 'epoch' + hour * interval '1 hour', quantity, events
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::numeric[], $7::bigint[])
  as change (organization, key, route, meter, hour, quantity, events)
order by organization, hour, key, route, meter
on conflict (organization, hour, key, route, meter) do update
set quantity = kept.quantity + excluded.quantity, events = kept.events + excluded.events

-- name: add_duplicates
insert into usage_duplicate (segment, number, shard, event_day, event_id, payload_hash)
select segment, number, $1, event_day, event_id, payload_hash
from unnest($2::text[], $3::integer[], $4::date[], $5::uuid[], $6::bytea[])
  as record (segment, number, event_day, event_id, payload_hash)
on conflict do nothing
returning segment, number

-- name: add_conflicts
insert into event_conflict (segment, number, shard, event_day, event_id, payload, payload_hash)
select segment, number, $1, event_day, event_id, payload, payload_hash
from unnest($2::text[], $3::integer[], $4::date[], $5::uuid[], $6::bytea[], $7::bytea[])
  as record (segment, number, event_day, event_id, payload, payload_hash)
on conflict do nothing
returning segment, number

-- name: add_dead_letters
insert into dead_letter (segment, number, shard, reason, payload, payload_hash)
select segment, number, $1, reason, payload, payload_hash
from unnest($2::text[], $3::integer[], $4::text[], $5::bytea[], $6::bytea[])
  as record (segment, number, reason, payload, payload_hash)
on conflict do nothing
returning segment, number

-- name: add_parked
insert into parked (segment, number, shard, reason, event_day, event_id, payload, payload_hash)
select segment, number, $1, reason, event_day, event_id, payload, payload_hash
from unnest($2::text[], $3::integer[], $4::text[], $5::date[], $6::uuid[], $7::bytea[], $8::bytea[])
  as record (segment, number, reason, event_day, event_id, payload, payload_hash)
on conflict do nothing
returning segment, number

-- name: add_poison
insert into stream_poison (shard, entry, raw_hash, reason, raw)
select $1, entry, raw_hash, reason, raw
from unnest($2::text[], $3::bytea[], $4::text[], $5::bytea[]) as poison (entry, raw_hash, reason, raw)
on conflict do nothing
returning entry

-- name: count_records
-- Last in the transaction. A segment whose records were all replays is counted up by nothing, and so returned too:
-- a count that Redis lost is published again.
insert into segment_count as kept (segment, shard, records)
select segment, $1, records from unnest($2::text[], $3::integer[]) as seen (segment, records)
order by segment
on conflict (segment, shard) do update set records = kept.records + excluded.records, updated_at = now()
returning segment, records
