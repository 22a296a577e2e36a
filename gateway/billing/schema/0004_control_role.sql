-- The control plane has no business with usage: the role that it acts as read that of every organization, and reads
-- none of it from now on. What reads usage acts as `tallygate_reader`.
set local role tallygate_owner;

do $$
declare
  each regclass;
begin
  for each in
    select oid from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v') and not relrowsecurity
      and relowner = 'tallygate_owner'::regrole
      and has_table_privilege('tallygate_control', oid, 'select')
  loop
    execute format('revoke select on %s from tallygate_control', each);
  end loop;
end
$$;

create or replace function open_usage_day(day date) returns boolean
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
  execute format('grant select on %I to tallygate_worker, tallygate_reader', partition);
  return true;
end
$$;
