"""What a change reads does not grow with the number of keys: no statement of a revocation walks through them all."""

from __future__ import annotations

import pytest

from gateway.control.database import PUBLISHER, QUERIES
from gateway.postgres import Database
from tests.fixtures.postgres import run_sql

MANY = """
set session_replication_role = replica;
insert into organization (name, title, path, operator, disabled)
  select 'o' || n, '', array['o' || n], false, n % 10 = 0 from generate_series(1, 200) as n;
insert into user_account (organization, name, title, disabled) select name, 'u', '', false from organization;
insert into service_account (organization, name, title, roles, disabled)
  select name, 's', '', '{}', false from organization;
insert into api_key (organization, name, title, "user", service_account, roles, routes, networks, limits)
  select 'o' || 1 + n % 200, 'k' || n, '', case when n % 3 = 1 then 'u' end, case when n % 3 = 2 then 's' end,
         '{}', '{}', '{}', '[]'
  from generate_series(1, 20000) as n;
insert into api_secret (digest, organization, key, prefix)
  select sha256(name::bytea), organization, name, '' from api_key;
analyze
"""


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("digests_of_keys", "'{o1}', '{k200}'"),
        ("digests_of_users", "'{o1}', '{u}'"),
        ("digests_of_service_accounts", "'{o1}', '{s}'"),
        ("digests_of_organizations", "'{o1}'"),
        ("secrets_of_digests", "array[sha256('k200')]"),
        ("published_secret", "sha256('k200')"),
    ],
)
@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
async def test_through_an_index(database_url: str, query: str, arguments: str, plan: str) -> None:
    await run_sql(database_url, MANY)
    async with Database(database_url, PUBLISHER, QUERIES) as database, database.session() as session:
        await session.raw.execute(f"set plan_cache_mode = {plan}; prepare asked as {QUERIES[query]}")
        rows = await session.raw.fetch(f"explain execute asked({arguments})")
        text = "\n".join(row[0] for row in rows)
        assert "Seq Scan on api_" not in text, text
        assert await session.raw.fetch(f"execute asked({arguments})"), query
