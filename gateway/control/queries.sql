-- Statements of the control plane that are not made of a collection's shape (`collection.py`), read by name.
--
-- Classes of advisory locks: 7406 who publishes (0), and who takes up decisions (1); 7407 who makes a role, by its name.


-- name: act_for
select set_config('tallygate.tenant', $1, true), set_config('tallygate.actor', $2, true),
       set_config('tallygate.request', $3, true)

-- name: narrow_to
select set_config('tallygate.tenant', $1, true)

-- name: is_within_reach
select exists (select from organization where name = $1)

-- name: unknown_roles
-- Those of $2 that are no role of the organization or of all; one that is for teams counts only if $3.
select coalesce(array_agg(wanted), '{}')
from unnest($2::text[]) as wanted
where not exists (select from role where organization = $1 and name = wanted and (scope = 'organization' or $3))
  and (exists (select from role where organization = $1 and name = wanted)
       or not exists (select from global_role where name = wanted))

-- name: lock_role_name
-- Until the end of the transaction nobody else makes a role of this name, in whatever organization.
select pg_advisory_xact_lock(7407, hashtext($1))

-- name: own_roles_of_name
-- An organization that has a role of its own of this name.
select organization from role where name = $1 order by organization limit 1

-- name: uses_of_role
-- Where a role of an organization is given.
select 'membership ' || name as place from membership where organization = $1 and $2 = any (roles)
union all
select 'service account ' || name from service_account where organization = $1 and $2 = any (roles)
union all
select 'key ' || name from api_key where organization = $1 and $2 = any (roles) and revoked_at is null
limit 1

-- name: permissions_of_roles
-- What the roles of these names allow in an organization: its own first, and else those of all.
select coalesce(own.name, everybody.name) as name, coalesce(own.permissions, everybody.permissions) as permissions,
       own.name is null as of_all
from unnest($2::text[]) as wanted
left join role as own on own.organization = $1 and own.name = wanted
left join global_role as everybody on everybody.name = wanted
where own.name is not null or everybody.name is not null

-- name: roles_of_key
-- All roles that a key has, those of its user or service account included.
select key.roles || coalesce(account.roles, '{}') || coalesce((
  select array_agg(distinct granted)
  from membership, unnest(membership.roles) as granted
  where membership.organization = key.organization and membership."user" = key."user"
    and (membership.team is null or membership.team = key.team)
), '{}') as roles
from api_key as key
left join service_account as account
  on account.organization = key.organization and account.name = key.service_account
where key.organization = $1 and key.name = $2

-- name: add_secret
insert into api_secret (digest, organization, key, prefix) values ($1, $2, $3, $4)

-- name: lock_key
-- The key, if it can still be rotated.
select name from api_key
where organization = $1 and name = $2 and revoked_at is null and (expires_at is null or expires_at > now()) for update

-- name: end_older_secrets
-- Of the secrets before a rotation the one that was current lives on for its grace, the others end. Which one that was
-- no clock says: two rotations may wait for each other, and a clock may be set back.
with older as (
  select digest, row_number() over (order by expires_at is null desc, created_at desc) as place
  from api_secret where organization = $1 and key = $2
), ended as (
  delete from api_secret using older where api_secret.digest = older.digest and (older.place > 1 or $3 <= 0)
)
update api_secret set expires_at = now() + $3 * interval '1 second'
from older where api_secret.digest = older.digest and older.place = 1 and $3 > 0

-- name: touch_key
update api_key set version = version + 1, updated_at = now() where organization = $1 and name = $2

-- name: revoke_key
update api_key set revoked_at = now(), version = version + 1, updated_at = now()
where organization = $1 and name = $2 and revoked_at is null

-- name: claim_answer
insert into idempotent_answer (principal, digest, organization, fingerprint) values ($1, $2, nullif($3, '*'), $4)
on conflict do nothing returning true

-- name: earlier_answer
select fingerprint, status, headers, body from idempotent_answer where principal = $1 and digest = $2

-- name: keep_answer
update idempotent_answer set status = $3, headers = $4, body = $5 where principal = $1 and digest = $2

-- name: audit_of_organization
select row_to_json(entry)::text as document, id::text as name from audit_entry as entry
where organization = $1 and id < $2 order by id desc limit $3

-- name: audit_of_all
select row_to_json(entry)::text as document, id::text as name from audit_entry as entry
where id < $1 order by id desc limit $2

-- part: decision
select row_to_json(entry)::text as document, entry.id::text as name from (
  select id, organization, consumer, route, wanted, allowed, because, times, first_at, last_at from decision_entry
) as entry

-- name: decisions_of_organization
{decision} where organization = $1 and id < $2 order by id desc limit $3

-- name: decisions_of_all
{decision} where id < $1 order by id desc limit $2

-- name: published_secret
select * from published_secret where digest = $1

-- name: is_operator
select operator from organization where name = $1

-- part: secret
select * from published_secret

-- name: lock_publishing
select pg_try_advisory_lock(7406, 0)

-- name: publication
select generation, sequence from publication

-- name: keep_publication
update publication set generation = $1, sequence = $2

-- name: outbox
select id, kind, organization, name, digest, extract(epoch from created_at)::float8 as created_at
from outbox order by id limit $1

-- name: forget_published
delete from outbox where id = any ($1::bigint[])

-- name: forget_outbox
-- In a transaction with a snapshot: all that it sees, and nothing that was committed since.
delete from outbox

-- name: secrets_of_digests
select found.* from unnest($1::bytea[]) as wanted (digest)
cross join lateral (select * from published_secret where digest = wanted.digest offset 0) as found

-- name: digests_of_keys
-- Through the index, one after the other: a plan that joins everything takes seconds where there are a million keys.
select secret.digest
from unnest($1::text[], $2::text[]) as wanted (organization, name)
cross join lateral (
  select digest from api_secret where organization = wanted.organization and key = wanted.name offset 0
) as secret

-- name: digests_of_users
select secret.digest
from unnest($1::text[], $2::text[]) as wanted (organization, name)
cross join lateral (
  select name from api_key where organization = wanted.organization and "user" = wanted.name offset 0
) as key
cross join lateral (
  select digest from api_secret where organization = wanted.organization and key = key.name offset 0
) as secret

-- name: digests_of_service_accounts
select secret.digest
from unnest($1::text[], $2::text[]) as wanted (organization, name)
cross join lateral (
  select name from api_key where organization = wanted.organization and service_account = wanted.name offset 0
) as key
cross join lateral (
  select digest from api_secret where organization = wanted.organization and key = key.name offset 0
) as secret

-- name: digests_of_organizations
select digest from api_secret where organization = any ($1::text[])

-- name: digests_of_roles
-- Of those keys that a role was given to.
select digest from published_secret where organization = any ($1::text[]) and roles && $2::text[]

-- name: digests_of_global_roles
select digest from published_secret where roles && $1::text[]

-- name: all_secrets
-- Those that are long gone are left out.
{secret}
where coalesce(revoked_at, expires_at, extract(epoch from now())) > extract(epoch from now() - interval '30 days')
order by digest

-- part: organization
-- Disabled is who is so for itself, or by one above it.
select organization.name, coalesce(subscription.name, '') as subscription, coalesce(subscription.plan, '') as plan,
       exists (select from organization as above where above.name = any (organization.path) and above.disabled)
         as disabled
from organization
left join subscription on subscription.organization = organization.name and subscription.ended_at is null

-- name: organizations
{organization}
where organization.name = any ($1::text[])

-- name: secrets_between
-- As all of them, of one hash: from $1 on, and before $2 unless that is empty.
{secret}
where digest >= $1 and (digest < $2 or $2 = '')
  and coalesce(revoked_at, expires_at, extract(epoch from now())) > extract(epoch from now() - interval '30 days')

-- name: organizations_between
{organization}
where sha256(convert_to(organization.name, 'UTF8')) >= $1
  and (sha256(convert_to(organization.name, 'UTF8')) < $2 or $2 = '')

-- name: all_organizations
-- In the order of the SHA-256 of their names.
{organization}
order by sha256(convert_to(organization.name, 'UTF8'))

-- name: roles_of_organizations
-- Roles of these organizations, and under the name '' those of all.
select organization, name, scope, permissions from role where organization = any ($1::text[])
union all
select '', name, 'organization', permissions from global_role

-- name: revocations
select kind || ':' || token as token, extract(epoch from expires_at)::bigint as expires_at
from token_revocation where expires_at > now()

-- name: revocations_named
select kind || ':' || token as token, extract(epoch from expires_at)::bigint as expires_at
from token_revocation where kind || ':' || token = any ($1::text[]) and expires_at > now()

-- name: forget_audit
-- How many entries are gone: of whole days that ended more than $1 seconds ago, $2 at most.
select forget_audit(make_interval(secs => $1), $2)

-- name: forget_answers
delete from idempotent_answer where created_at < now() - interval '1 day'

-- name: forget_revocations
delete from token_revocation where expires_at < now()

-- name: take_decisions
select take_decisions($1, $2, to_timestamp($3), to_timestamp($4), $5)

-- name: forget_decisions
delete from decision_entry where hour < now() - interval '30 days'

-- name: forget_senders
delete from decision_sender where at < now() - interval '1 day'
