-- An organization is cut off while it, or one above it, is disabled: nobody goes on through a department. What is said
-- of those below is not changed by it, so that enabling the one above brings back who was not disabled for itself.
set local role tallygate_owner;

create index organization_disabled on organization (name) where disabled;

-- These functions look up from where a tenant stands, and down from where it acts.
create policy standing on organization for select to tallygate_owner using (true);

-- Whether an organization is cut off: itself and all above it are given.
create function is_cut_off(line text[]) returns boolean
language sql stable security definer set search_path = public, pg_temp as $$
  select exists (select from organization where name = any (line) and disabled)
$$;
revoke execute on function is_cut_off(text[]) from public;
grant execute on function is_cut_off(text[]) to tallygate_control;

-- The change of one is a change of all below it: they are published with it.
create function publish_those_below() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  insert into outbox (kind, organization, name)
  select 'organization', name, name from organization where path @> array[new.name] and name <> new.name;
  return null;
end
$$;
revoke execute on function publish_those_below() from public;
create trigger organization_standing after update on organization
  for each row when (old.disabled <> new.disabled) execute function publish_those_below();

-- As it was, but for `revoked_at`: an organization above counts too.
create or replace view published_secret with (security_invoker) as
select
  secret.digest, secret.organization, secret.key, key."user", key.service_account, key.team,
  key.permissions, key.routes, key.networks, key.limits::text as limits, key.version,
  coalesce(account.roles, '{}') || key.roles || coalesce(member.roles, '{}') as roles,
  extract(epoch from least(key.expires_at, secret.expires_at))::bigint as expires_at,
  extract(epoch from coalesce(
    key.revoked_at,
    standing.disabled_at,
    case when person.disabled then person.updated_at end,
    case when account.disabled then account.updated_at end
  ))::bigint as revoked_at,
  coalesce(subscription.name, '') as subscription, coalesce(subscription.plan, '') as plan
from api_secret as secret
join api_key as key on key.organization = secret.organization and key.name = secret.key
join organization as home on home.name = secret.organization
cross join lateral (
  select min(above.updated_at) as disabled_at from organization as above
  where above.disabled and above.name = any (home.path)
) as standing
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
