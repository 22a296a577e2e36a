-- All statements of the billing worker, reconcile and the reports, read by name; a part stands in others where its name
-- does, in braces.
--
-- Classes of advisory locks: 7401 a shard's transaction, 7402 a shard's owner, 7403 a worker's presence,
-- 7404 migration, 7405 opening of days.


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

-- part: insert_events
-- What many events of a batch have in common is sent once: `shared` is its place, from 1, among those.
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

-- part: cancelled_before
select coalesce(array_agg(booked.event_id), '{}')
from booked
join usage_cancel on usage_cancel.ref = booked.event_id and usage_cancel.organization = booked.organization

-- name: book_new_events
-- Books events of which none is booked and every place in its segment is free, as is usual; fails if that is not so.
-- Returns those of them that were cancelled before they came.
with booked as (
  {insert_events}
  returning event_id, organization
)
select ({cancelled_before}) as cancelled, null::uuid[] as booked

-- name: book_events
-- Books events, and passes over those whose id is booked or whose place is taken; takes half as long again.
-- Returns those that were cancelled before they came, and the ids it booked, or null if that is all of them.
with booked as (
  {insert_events}
  on conflict do nothing
  returning event_id, organization
)
select ({cancelled_before}) as cancelled,
       case when count(*) < cardinality($2::uuid[]) then coalesce(array_agg(event_id), '{}') end as booked
from booked

-- name: booked_by_id
-- One day at a time, so that the planner looks at one partition.
select event_id, segment, number, payload_hash from usage_event where event_day = $1 and event_id = any($2::uuid[])

-- name: booked_places
-- Those of these places that a booked event has.
select event.segment, event.number
from unnest($1::text[], $2::integer[]) as place (segment, number)
join usage_event as event on event.segment = place.segment and event.number = place.number

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
-- In the order of the key, so that two transactions never wait for each other in a circle. Quantities come as text:
-- a sum may be larger than a bigint, and asyncpg takes longer to pack a numeric than all the rest of the row.
insert into usage_hour as kept (organization, key, route, meter, hour, quantity, events)
select organization, key, route, meter, timestamptz 'epoch' + hour * interval '1 hour', quantity::numeric, events
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[])
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


-- name: forget_segments
select forget_segments($1::double precision * interval '1 second', $2)


-- Rebook.

-- name: set_aside_after
-- Parked records and dead letters in the order of their places, without those that a rebooking has set aside again.
select segment, number, payload
from (
  select segment, number, payload, payload_hash from parked
  union all select segment, number, payload, payload_hash from dead_letter
) as aside
where (segment, number) > ($2, $3) and segment not like $1 || '/%' and not exists (
  select from dead_letter as again
  where again.segment like $1 || '/%' and again.payload_hash = aside.payload_hash
)
order by segment, number
limit $4

-- name: day_is_open
select exists (
  select from pg_inherits
  where inhparent = 'usage_event'::regclass
    and inhrelid = to_regclass('usage_event_' || to_char($1::date, 'YYYYMMDD'))
)


-- name: join_workers
-- All workers hold this lock together; who holds it is a worker.
select pg_advisory_lock_shared(7403, 0)

-- name: look_around
-- A row per worker and shard it owns; one without a shard for a worker that owns none.
with held as (
  select pid, classid, objid from pg_locks
  where locktype = 'advisory' and granted
    and database = (select oid from pg_database where datname = current_database())
)
select worker.pid, shard.objid::bigint as shard, worker.pid = pg_backend_pid() as own
from held as worker
left join held as shard on shard.pid = worker.pid and shard.classid = 7402
where worker.classid = 7403

-- name: claim_shard
select pg_try_advisory_lock(7402, $1)

-- name: release_shard
select pg_advisory_unlock(7402, $1)

-- name: keep_heartbeats
insert into node as kept (node, seen_at, oldest_unaccounted_at, segments, bytes)
select
  node, timestamptz 'epoch' + seen_at * interval '1 microsecond',
  timestamptz 'epoch' + oldest_unaccounted_at * interval '1 microsecond', segments, bytes
from unnest($1::text[], $2::bigint[], $3::bigint[], $4::integer[], $5::bigint[])
  as beat (node, seen_at, oldest_unaccounted_at, segments, bytes)
order by node
on conflict (node) do update
set seen_at = excluded.seen_at, oldest_unaccounted_at = excluded.oldest_unaccounted_at,
    segments = excluded.segments, bytes = excluded.bytes
where excluded.seen_at > kept.seen_at


-- Reconcile. Each of these reads the books whole, in one snapshot.

-- name: fates_of_segment
select number, payload_hash from record_fate where segment = $1

-- name: fate_totals
select fate, count(*) as records from record_fate group by fate

-- name: doubled_events
select event_id::text as event_id, count(*) as times from usage_event group by event_id having count(*) > 1

-- name: uneven_segments
-- Segments whose records do not have one fate each from 0 on. One that received some lately may be on its way.
select segment, count(*) as fates, count(distinct number) as places, max(number) + 1 as extent,
       max(received_at) > now() - $1::integer * interval '1 second' as moving
from record_fate
group by segment
having count(*) <> count(distinct number) or count(distinct number) <> max(number) + 1
order by segment

-- name: miscounted_segments
select segment, coalesce(fate.records, 0) as fates, coalesce(counted.records, 0) as counted
from (select segment, count(*) as records from record_fate group by segment) as fate
full join (select segment, sum(records) as records from segment_count group by segment) as counted using (segment)
where coalesce(fate.records, 0) <> coalesce(counted.records, 0)
order by segment

-- name: wrong_hours
-- Hours of usage_hour that differ from what usage_event says.
with event as (
  select organization, key, route, meter, date_trunc('hour', occurred_at, 'UTC') as hour,
         sum(amount::numeric) as quantity, count(*) filter (where kind = 'usage') as events
  from usage_event, jsonb_each_text(quantities) as metered (meter, amount)
  where kind <> 'cancel' and not exists (
    select from usage_cancel
    where usage_cancel.ref = usage_event.event_id and usage_cancel.organization = usage_event.organization
  )
  group by organization, key, route, meter, date_trunc('hour', occurred_at, 'UTC')
)
select organization, key, route, meter, hour,
       coalesce(event.quantity, 0) as quantity, coalesce(event.events, 0) as events,
       coalesce(usage_hour.quantity, 0) as rolled_quantity, coalesce(usage_hour.events, 0) as rolled_events
from event
full join usage_hour using (organization, key, route, meter, hour)
where (coalesce(event.quantity, 0), coalesce(event.events, 0))
   <> (coalesce(usage_hour.quantity, 0), coalesce(usage_hour.events, 0))
order by hour, organization, key, route, meter

-- name: nodes
select node, extract(epoch from now() - seen_at)::bigint as silent_seconds, oldest_unaccounted_at, segments
from node
order by node

-- name: parked_and_booked_since
select count(*)
from parked
join usage_event using (event_day, event_id)

-- name: poison_total
select count(*) from stream_poison


-- Reports.

-- name: usage_of_organization
select
  case $2 when 'day' then to_char(hour at time zone 'UTC', 'YYYY-MM-DD') when 'route' then route else key end as label,
  meter, sum(quantity) as quantity
from usage_hour
where organization = $1
  and ($3::date is null or hour >= $3::date::timestamp at time zone 'UTC')
  and ($4::date is null or hour < ($4::date + 1)::timestamp at time zone 'UTC')
group by 1, 2
order by 1, 2
