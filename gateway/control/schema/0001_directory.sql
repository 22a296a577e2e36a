-- Who there is, and what they may do: organizations and all that belongs to them, the audit log, and what is still to
-- be published.
--
-- A transaction of the API acts as tallygate_control for one organization, its tenant, and can reach no other one's
-- rows: row level security is forced on every table. `*` is the tenant of whoever runs the platform. The publisher
-- acts as tallygate_publisher, which reads all and changes nothing but the outbox and its own place.
do $$
begin
  begin
    if not exists (select from pg_roles where rolname = 'tallygate_publisher') then
      create role tallygate_publisher nologin;
    end if;
  exception when duplicate_object or unique_violation then
    null;
  end;
  if not pg_has_role(current_user, 'tallygate_publisher', 'member') then
    execute format('grant tallygate_publisher to %I', current_user);
  end if;
end
$$;
grant usage on schema public to tallygate_publisher;

set local role tallygate_owner;

-- The organization that this transaction acts for, or '*' for all of them; null, and then nothing is visible, where
-- nobody has said so: `set_config('tallygate.tenant', …, true)`.
create function tenant() returns text language sql stable parallel safe
  return nullif(current_setting('tallygate.tenant', true), '');

create table organization (
  name        text collate "C" not null primary key,
  title       text        not null,
  parent      text collate "C" references organization,
  path        text[]      not null,  -- itself and all above it
  operator    boolean     not null,  -- its keys act on every organization, as far as their permissions go
  disabled    boolean     not null,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now()
);
create index organization_path on organization using gin (path);

-- An organization never moves: its path is known when it is made.
create function find_path() returns trigger language plpgsql as $$
begin
  new.path := coalesce((select path from organization where name = new.parent), '{}') || new.name;
  return new;
end
$$;
create trigger organization_path before insert on organization for each row execute function find_path();

create table department (
  organization text collate "C" not null references organization,
  name        text collate "C" not null,
  title       text        not null,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  primary key (organization, name)
);

create table team (
  organization text collate "C" not null references organization,
  name        text collate "C" not null,
  title       text        not null,
  department  text collate "C",
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  primary key (organization, name),
  foreign key (organization, department) references department
);

-- A role of every organization. One of an organization's own with the same name stands before it.
create table global_role (
  name        text collate "C" not null primary key,
  title       text        not null,
  permissions text[]      not null,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now()
);

create table role (
  organization text collate "C" not null references organization,
  name        text collate "C" not null,
  title       text        not null,
  scope       text        not null check (scope in ('organization', 'team')),
  permissions text[]      not null,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  primary key (organization, name)
);

create table user_account (
  organization text collate "C" not null references organization,
  name        text collate "C" not null,
  title       text        not null,
  email       text,
  disabled    boolean     not null,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  primary key (organization, name)
);

create table service_account (
  organization text collate "C" not null references organization,
  name        text collate "C" not null,
  title       text        not null,
  roles       text[]      not null,
  disabled    boolean     not null,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  primary key (organization, name)
);

-- The roles of a user, in the whole organization or in one team.
create table membership (
  organization text collate "C" not null references organization,
  name        text collate "C" not null,
  "user"      text collate "C" not null,
  team        text collate "C",
  roles       text[]      not null,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  primary key (organization, name),
  unique nulls not distinct (organization, "user", team),
  foreign key (organization, "user") references user_account on delete cascade,
  foreign key (organization, team) references team
);

create table subscription (
  organization text collate "C" not null references organization,
  name        text collate "C" not null,
  plan        text        not null,
  ended_at    timestamptz,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  primary key (organization, name)
);
create unique index subscription_that_counts on subscription (organization) where ended_at is null;

create table api_key (
  organization text collate "C" not null references organization,
  name        text collate "C" not null,
  title       text        not null,
  "user"      text collate "C",
  service_account text collate "C",
  team        text collate "C",
  roles       text[]      not null,
  permissions text[],                -- null: all that its roles allow
  routes      text[]      not null,
  networks    text[]      not null,
  limits      jsonb       not null,
  expires_at  timestamptz,
  revoked_at  timestamptz,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  primary key (organization, name),
  foreign key (organization, "user") references user_account,
  foreign key (organization, service_account) references service_account,
  foreign key (organization, team) references team,
  check ("user" is null or service_account is null),
  check (team is null or "user" is not null)
);
create index api_key_user on api_key (organization, "user") where "user" is not null;
create index api_key_service_account on api_key (organization, service_account) where service_account is not null;

-- What opens the gateway: a key has one, and for a while after its rotation two. The secret itself is nowhere.
create table api_secret (
  digest      bytea       not null primary key check (length(digest) = 32),
  organization text collate "C" not null,
  key         text collate "C" not null,
  prefix      text        not null,  -- its first characters, to tell it from others
  expires_at  timestamptz,           -- of a secret that was rotated: the end of its grace
  created_at  timestamptz not null default now(),
  foreign key (organization, key) references api_key
);
create index api_secret_key on api_secret (organization, key);

create table token_revocation (
  name        text collate "C" not null primary key,
  kind        text        not null check (kind in ('jti', 'session', 'subject')),
  token       text collate "C" not null,
  expires_at  timestamptz not null,
  version     integer     not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  unique (kind, token)
);

-- The answer to a creation, for whoever repeats it. Secrets are left out of it.
create table idempotent_answer (
  principal   text        not null,
  digest      bytea       not null,  -- SHA-256 of the idempotency key
  organization text collate "C",
  fingerprint bytea       not null,  -- of the request
  status      smallint,              -- null while the first one is under way
  headers     jsonb,
  body        text,
  created_at  timestamptz not null default now(),
  primary key (principal, digest)
);
create index idempotent_answer_age on idempotent_answer (created_at);

create table audit_entry (
  id          bigint      not null generated always as identity primary key,
  at          timestamptz not null default clock_timestamp(),
  actor       text        not null,
  request     text        not null,
  organization text collate "C",
  kind        text        not null,
  name        text        not null,
  action      text        not null check (action in ('create', 'change', 'delete')),
  before      jsonb,
  after       jsonb
);
create index audit_entry_organization on audit_entry (organization, id);

-- What has changed and is not published yet. It says where to look, not what is there: publishing twice does no harm.
create table outbox (
  id          bigint      not null generated always as identity primary key,
  kind        text        not null,
  organization text collate "C",
  name        text collate "C" not null,
  digest      bytea,
  created_at  timestamptz not null default clock_timestamp()
);

-- How far the publisher is: the generation and sequence that Redis has at least.
create table publication (
  only_one    boolean     not null primary key default true check (only_one),
  generation  text        not null,
  sequence    bigint      not null
);
insert into publication (generation, sequence) values ('', 0);

-- Every change of these tables leaves an entry in the audit log and one in the outbox, in the same transaction; no
-- statement can forget to. Of a secret not even the digest is told.
create function record_change() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  earlier constant jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - 'digest' end;
  later   constant jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - 'digest' end;
  written constant jsonb := coalesce(later, earlier);
  home    constant text := case tg_table_name when 'organization' then written ->> 'name'
                           else written ->> 'organization' end;
  called  constant text := coalesce(written ->> 'key', written ->> 'name');
  affected constant text := case tg_table_name when 'membership' then written ->> 'user'
                            when 'token_revocation' then (written ->> 'kind') || ':' || (written ->> 'token')
                            else called end;
begin
  insert into audit_entry (actor, request, organization, kind, name, action, before, after) values (
    coalesce(nullif(current_setting('tallygate.actor', true), ''), session_user),
    coalesce(current_setting('tallygate.request', true), ''),
    home, tg_table_name, called,
    case tg_op when 'INSERT' then 'create' when 'UPDATE' then 'change' else 'delete' end, earlier, later
  );
  insert into outbox (kind, organization, name, digest) values (
    tg_table_name, home, affected,
    (coalesce(to_jsonb(new), to_jsonb(old)) ->> 'digest')::bytea
  );
  perform pg_notify('tallygate_outbox', '');
  return null;
end
$$;
revoke execute on function record_change() from public;

create function refuse_rewriting() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception '% of the audit log is refused: it is append-only', tg_op using errcode = 'insufficient_privilege';
end
$$;
create trigger audit_entry_refuses_change before update or delete on audit_entry
  for each row execute function refuse_rewriting();
create trigger audit_entry_refuses_truncate before truncate on audit_entry
  for each statement execute function refuse_rewriting();

do $$
declare
  each text;
begin
  foreach each in array array[
    'organization', 'department', 'team', 'global_role', 'role', 'user_account', 'service_account', 'membership',
    'subscription', 'api_key', 'api_secret', 'token_revocation'
  ] loop
    execute format('create trigger %I after insert or update or delete on %I
                      for each row execute function record_change()', each || '_is_recorded', each);
  end loop;

  foreach each in array array[
    'organization', 'department', 'team', 'global_role', 'role', 'user_account', 'service_account', 'membership',
    'subscription', 'api_key', 'api_secret', 'token_revocation', 'idempotent_answer', 'audit_entry', 'outbox',
    'publication'
  ] loop
    execute format('alter table %I enable row level security', each);
    execute format('alter table %I force row level security', each);
    execute format('create policy publisher on %I for select to tallygate_publisher using (true)', each);
    execute format('grant select on %I to tallygate_publisher', each);
  end loop;

  foreach each in array array[
    'department', 'team', 'role', 'user_account', 'service_account', 'membership', 'subscription', 'api_key',
    'api_secret', 'idempotent_answer'
  ] loop
    execute format('create policy tenant on %I to tallygate_control
                      using (organization = tenant() or tenant() = ''*'')', each);
  end loop;

  -- These are everybody's to read and the platform's to change.
  foreach each in array array['global_role', 'token_revocation'] loop
    execute format('create policy platform on %I to tallygate_control using (tenant() = ''*'')', each);
  end loop;
end
$$;

create policy everybody_reads on global_role for select to tallygate_control using (tenant() is not null);

-- An organization sees itself and those below it, and changes itself; those below are made and changed by whoever acts
-- for the one above.
create policy reach on organization for select to tallygate_control
  using (name = tenant() or tenant() = '*' or path @> array[tenant()]);
create policy founding on organization for insert to tallygate_control
  with check (tenant() = '*' or (path @> array[tenant()] and not operator));
create policy change on organization for update to tallygate_control
  using (name = tenant() or tenant() = '*') with check (tenant() = '*' or not operator);
create policy removal on organization for delete to tallygate_control using (name = tenant() or tenant() = '*');

create policy tenant on audit_entry for select to tallygate_control
  using (organization = tenant() or tenant() = '*');
create policy recorder on audit_entry for insert to tallygate_owner with check (true);
create policy recorder on outbox for insert to tallygate_owner with check (true);
create policy published on outbox for delete to tallygate_publisher using (true);
create policy place on publication for update to tallygate_publisher using (true);
create policy ageing on idempotent_answer for delete to tallygate_publisher using (true);
create policy ageing on token_revocation for delete to tallygate_publisher using (true);

-- What the edge has to know of each secret; roles are names still, as what they allow is the same for many.
create view published_secret with (security_invoker) as
select
  secret.digest, secret.organization, secret.key, key."user", key.service_account, key.team,
  key.permissions, key.routes, key.networks, key.limits::text as limits, key.version,
  coalesce(account.roles, '{}') || key.roles || coalesce(member.roles, '{}') as roles,
  extract(epoch from least(key.expires_at, secret.expires_at))::bigint as expires_at,
  extract(epoch from coalesce(
    key.revoked_at,
    case when home.disabled then home.updated_at end,
    case when person.disabled then person.updated_at end,
    case when account.disabled then account.updated_at end
  ))::bigint as revoked_at,
  coalesce(subscription.name, '') as subscription, coalesce(subscription.plan, '') as plan
from api_secret as secret
join api_key as key on key.organization = secret.organization and key.name = secret.key
join organization as home on home.name = secret.organization
left join subscription on subscription.organization = secret.organization and subscription.ended_at is null
left join user_account as person on person.organization = key.organization and person.name = key."user"
left join service_account as account
  on account.organization = key.organization and account.name = key.service_account
left join lateral (
  select array_agg(distinct granted) as roles
  from membership, unnest(membership.roles) as granted
  where membership.organization = key.organization and membership."user" = key."user"
    and (membership.team is null or membership.team = key.team)
) as member on key."user" is not null;

grant select on published_secret to tallygate_publisher;
grant select on organization, department, team, global_role, role, user_account, service_account, membership,
  subscription, api_key, api_secret, token_revocation, idempotent_answer, audit_entry to tallygate_control;
grant insert, update, delete on organization, department, team, global_role, role, user_account, service_account,
  membership, subscription, token_revocation, idempotent_answer to tallygate_control;
grant insert, update on api_key to tallygate_control;
grant insert, update, delete on api_secret to tallygate_control;
grant delete on outbox, idempotent_answer, token_revocation to tallygate_publisher;
grant update on publication to tallygate_publisher;
grant select on organization, department, team, global_role, role, user_account, service_account, membership,
  subscription, api_key, api_secret, token_revocation, idempotent_answer, audit_entry, outbox, publication,
  published_secret to tallygate_reader;
