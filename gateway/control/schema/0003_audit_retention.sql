-- The audit log may forget what is older than an operator wants to keep (`control.audit_retention`), and nothing else:
-- days at a time, no younger than a month, by this one function, which says in the log what it took away.
set local role tallygate_owner;

create index audit_entry_at on audit_entry (at);

create policy retention_looks on audit_entry for select to tallygate_owner using (true);
create policy retention on audit_entry for delete to tallygate_owner using (at < now() - interval '30 days');

create or replace function refuse_rewriting() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'DELETE' and current_user = 'tallygate_owner' and old.at < now() - interval '30 days' then
    return old;
  end if;
  raise exception '% of the audit log is refused: it is append-only', tg_op using errcode = 'insufficient_privilege';
end
$$;

-- Forgets entries of UTC days that ended longer ago than `older_than`, the oldest `most` of them. Returns how many.
create function forget_audit(older_than interval, most integer) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  ended constant timestamptz := date_trunc('day', now() - older_than, 'UTC');
  gone bigint;
begin
  if older_than < interval '30 days' or older_than is null then
    raise exception 'the audit log is kept for 30 days at least' using errcode = 'invalid_parameter_value';
  end if;
  with old as (
    select id from audit_entry where at < ended order by at limit most
  ), forgotten as (
    delete from audit_entry using old where audit_entry.id = old.id returning 1
  )
  select count(*) into gone from forgotten;
  if gone > 0 then
    insert into audit_entry (actor, request, kind, name, action, before) values (
      'retention', '', 'audit_entry', to_char(ended at time zone 'UTC', 'YYYY-MM-DD'), 'delete',
      jsonb_build_object('entries', gone, 'before', ended)
    );
  end if;
  return gone;
end
$$;
revoke execute on function forget_audit(interval, integer) from public;
grant execute on function forget_audit(interval, integer) to tallygate_publisher;
