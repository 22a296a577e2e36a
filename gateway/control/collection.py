"""Collections: every kind of thing that the API has, and the statements that keep it.

A collection is one table whose rows have a name, a version and the members of its shape. What differs between kinds
stands here as data, so that listing, making, changing and removing are written once (`operations.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from gateway.control import shapes
from gateway.control.members import Instant
from gateway.control.shapes import Shape, patch_of, view_of


@dataclass(frozen=True)
class Collection:
    """Things of one kind. Each belongs to an organization, unless it is one `of_the_platform`."""

    name: str
    """In paths and permissions: `service-accounts`."""
    kind: str
    """In the audit log, and the name of its table: `service_account`."""
    shape: type[Shape]
    of_the_platform: bool = False
    removable: bool = True
    most: int | None = None
    """How many there can be, about, where every edge process keeps all of them in memory."""
    unique: dict[str, str] = field(default_factory=dict)
    """What else than the name there can be only one of: the index that says so, and what is said to who makes two."""
    derived: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """Members that nobody writes: their type, and the expression of SQL that they come from."""

    @cached_property
    def view(self) -> type[Shape]:
        """What is answered."""
        return view_of(self.shape, **{name: kind for name, (kind, _) in self.derived.items()})

    @cached_property
    def patch(self) -> type[Shape]:
        """What a change may carry."""
        return patch_of(self.shape)

    @property
    def said(self) -> str:
        """One of them, in a sentence."""
        return self.name.removesuffix("s").replace("-", " ")

    @property
    def collection_path(self) -> str:
        """Where they are listed and made."""
        return f"/v1/{self.name}" if self.of_the_platform else f"/v1/organizations/{{organization}}/{self.name}"

    @property
    def path(self) -> str:
        """Where one of them is."""
        return f"{self.collection_path}/{{name}}" if self.kind != "organization" else "/v1/organizations/{organization}"

    def permission(self, action: str) -> str:
        """What is needed to `read` or `write` them."""
        return f"control/{self.name}:{action}"


ORGANIZATIONS: Final = Collection(
    "organizations",
    "organization",
    shapes.Organization,
    of_the_platform=True,
    derived={
        "cut_off": (
            Annotated[bool, Field(description="Whether it, or one above it, is disabled.")],
            "is_cut_off(t.path)",
        )
    },
)
_SECRETS: Final = """(
  select coalesce(json_agg(
    json_build_object('prefix', s.prefix, 'created_at', s.created_at, 'expires_at', s.expires_at)
    order by s.expires_at is null desc, s.created_at desc
  ), '[]')
  from api_secret as s where s.organization = t.organization and s.key = t.name
)"""

_STATE: Final = """case
  when t.revoked_at is not null then 'revoked'
  when t.expires_at <= now() then 'expired'
  when is_cut_off((select path from organization where name = t.organization))
    or exists (select from user_account as u where u.organization = t.organization and u.name = t."user" and u.disabled)
    or exists (select from service_account as s
               where s.organization = t.organization and s.name = t.service_account and s.disabled) then 'cut_off'
  else 'active' end"""
_STATES: Final = Annotated[
    Literal["active", "expired", "revoked", "cut_off"],
    Field(
        description="Whether it opens anything now. `cut_off`: its organization, one above, its user or its service"
        " account is disabled."
    ),
]

KEYS: Final = Collection(
    "keys",
    "api_key",
    shapes.Key,
    removable=False,
    derived={
        "state": (_STATES, _STATE),
        "revoked_at": (Instant | None, "t.revoked_at"),
        "secrets": (list[shapes.Secret], _SECRETS),
    },
)

KEY_WITH_SECRET: Final = view_of(
    shapes.Key, called="KeyWithSecret", **{name: kind for name, (kind, _) in KEYS.derived.items()}, secret=str | None
)
"""A key and its secret, which is shown once; null where the request was a repetition."""

COLLECTIONS: Final = (
    ORGANIZATIONS,
    Collection("roles", "global_role", shapes.GlobalRole, of_the_platform=True, most=1_000),
    Collection(
        "revocations",
        "token_revocation",
        shapes.Revocation,
        of_the_platform=True,
        most=100_000,
        unique={"token_revocation_kind_token_key": "That is revoked already."},
    ),
    Collection("departments", "department", shapes.Department),
    Collection("teams", "team", shapes.Team),
    Collection("roles", "role", shapes.Role, most=1_000),
    Collection("users", "user_account", shapes.User),
    Collection("service-accounts", "service_account", shapes.ServiceAccount),
    Collection(
        "memberships",
        "membership",
        shapes.Membership,
        unique={"membership_organization_user_team_key": "The user has a membership there already: change that one."},
    ),
    Collection(
        "subscriptions",
        "subscription",
        shapes.Subscription,
        unique={"subscription_that_counts": "Another subscription counts: say in its `ended_at` when it ended, first."},
    ),
    KEYS,
)


def statements() -> dict[str, str]:
    """What is done with each collection, by names such as `team.list`.

    Their arguments begin with the organization, unless the collection is of the platform. `list`: a name to begin
    behind, and how many. `read`: the name. `are_as_many`: a number. `make`: members. `change`: name, version, members.
    `remove`: name, version; these two return nothing where it is not in this version.

    Members are a JSON object. No text of a client ever becomes part of a statement.
    """
    return {f"{each.kind}.{verb}": text for each in COLLECTIONS for verb, text in _statements(each).items()}


def _statements(of: Collection) -> dict[str, str]:
    table = of.kind
    members = ", ".join(f'"{name}"' for name in of.shape.model_fields)
    derived = "".join(f', {sql} as "{name}"' for name, (_, sql) in of.derived.items())
    first = 1 if of.of_the_platform else 2
    a, b, c = (f"${first + number}" for number in range(3))
    home, columns, values = (
        ("", members, members)
        if first == 1
        else ("organization = $1 and ", f"organization, {members}", f"$1, {members}")
    )
    whole = f"select {members}{derived}, version, created_at, updated_at from {table} as t where {home}"
    changing = ", ".join(f'"{name}"' for name in of.patch.model_fields)
    changed = f"select {changing}, t.version + 1, now() from jsonb_populate_record(t, {c})"
    return {
        "list": f"select row_to_json(r)::text as document, name from ({whole}name > {a} order by name limit {b}) as r",
        "read": f"select row_to_json(r)::text as document, version from ({whole}name = {a}) as r",
        "are_as_many": f"select count(*) >= {a} from (select from {table} where {home}true limit {a}) as r",
        "make": f"insert into {table} ({columns}) select {values} from jsonb_populate_record(null::{table}, {a})",
        "change": f"update {table} as t set ({changing}, version, updated_at) = ({changed})"
        f" where {home}name = {a} and version = {b} returning true",
        "remove": f"delete from {table} where {home}name = {a} and version = {b} returning true",
    }
