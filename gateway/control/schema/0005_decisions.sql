-- Decisions of the edge, beside the audit log of changes: who was refused what, and how often, hour by hour.
--
-- A flood of them makes numbers larger, not the table: an hour has at most 200 kinds of an organization and 5,000 in all,
-- and what is beyond is counted together as 'others'; rows are kept for 30 days.
set local role tallygate_owner;

create table decision_entry (
  id          bigint      not null generated always as identity primary key,
  hour        timestamptz not null,
  organization text collate "C" not null,  -- empty where it is of several
  consumer    text        not null,
  route       text        not null,
  wanted      text        not null,
  allowed     boolean     not null,
  because     text        not null,
  times       bigint      not null,
  first_at    timestamptz not null,
  last_at     timestamptz not null,
  unique (hour, organization, consumer, route, wanted, allowed, because)
);
create index decision_entry_organization on decision_entry (organization, id);

-- How far each edge process was heard: what it sends again, because it does not know whether it arrived, is known.
create table decision_sender (
  sender      text        not null primary key,
  number      bigint      not null,
  at          timestamptz not null default now()
);

-- Takes up a frame; false where it was taken up before. One at a time, so that the limits hold.
create function take_decisions(sent_by text, numbered bigint, began timestamptz, ended timestamptz, entries jsonb)
returns boolean language plpgsql security definer set search_path = public, pg_temp as $$
declare
  -- A clock that is ahead makes no hours that are never forgotten.
  until constant timestamptz := least(ended, now());
  since constant timestamptz := least(began, until);
  this  constant timestamptz := date_trunc('hour', until, 'UTC');
  each record;
  in_all bigint;
  of_one bigint;
begin
  perform pg_advisory_xact_lock(7406, 1);
  insert into decision_sender as known (sender, number) values (sent_by, numbered)
    on conflict (sender) do update set number = numbered, at = now() where known.number < numbered;
  if not found then
    return false;
  end if;
  select count(*) into in_all from decision_entry where hour = this;
  for each in
    select * from jsonb_to_recordset(entries) as entry (
      organization text, consumer text, route text, wanted text, allowed boolean, because text, times bigint
    )
  loop
    update decision_entry as known
    set times = known.times + each.times, first_at = least(first_at, since), last_at = greatest(last_at, until)
    where hour = this and organization = each.organization and consumer = each.consumer and route = each.route
      and wanted = each.wanted and allowed = each.allowed and because = each.because;
    continue when found;
    select count(*) into of_one from decision_entry where hour = this and organization = each.organization;
    if in_all >= 5000 or of_one >= 200 then
      each.organization := case when of_one > 0 then each.organization else '' end;
      each.consumer := '';
      each.route := '';
      each.wanted := 'others';
      each.because := '';
    else
      in_all := in_all + 1;
    end if;
    insert into decision_entry as known
      (hour, organization, consumer, route, wanted, allowed, because, times, first_at, last_at)
    values (
      this, each.organization, each.consumer, each.route, each.wanted, each.allowed, each.because, each.times, since, until
    )
    on conflict (hour, organization, consumer, route, wanted, allowed, because) do update
    set times = known.times + each.times, first_at = least(known.first_at, since), last_at = greatest(known.last_at, until);
  end loop;
  return true;
end
$$;
revoke execute on function take_decisions(text, bigint, timestamptz, timestamptz, jsonb) from public;
grant execute on function take_decisions(text, bigint, timestamptz, timestamptz, jsonb) to tallygate_publisher;

do $$
declare
  each text;
begin
  foreach each in array array['decision_entry', 'decision_sender'] loop
    execute format('alter table %I enable row level security', each);
    execute format('alter table %I force row level security', each);
    execute format('create policy recorder on %I to tallygate_owner using (true)', each);
    execute format('create policy publisher on %I for select to tallygate_publisher using (true)', each);
    execute format('create policy ageing on %I for delete to tallygate_publisher using (true)', each);
    execute format('grant select, delete on %I to tallygate_publisher', each);
  end loop;
end
$$;
create policy tenant on decision_entry for select to tallygate_control
  using (organization = tenant() or tenant() = '*');
grant select on decision_entry to tallygate_control, tallygate_reader;
grant select on decision_sender to tallygate_reader;
