-- What is no longer needed once the days of a segment's events are archived.
set local role tallygate_owner;

create index segment_count_updated_at on segment_count (updated_at);

-- Forgets the counts of segments that nobody asked about for that long and of which no record is left in the books:
-- their days are archived. Looks at `most` at once. Returns how many it forgot.
create function forget_segments(older_than interval, most integer) returns bigint
language sql security definer set search_path = public, pg_temp as $$
  with old as (
    select segment, shard from segment_count
    where updated_at < now() - older_than
      and not exists (select from aside_fate where aside_fate.segment = segment_count.segment)
    order by updated_at
    limit most
  ), forgotten as (
    delete from segment_count using old
    where segment_count.segment = old.segment and segment_count.shard = old.shard
      and not exists (select from usage_event where usage_event.segment = old.segment)
    returning 1
  )
  select count(*) from forgotten
$$;
revoke execute on function forget_segments(interval, integer) from public;
grant execute on function forget_segments(interval, integer) to tallygate_worker;
