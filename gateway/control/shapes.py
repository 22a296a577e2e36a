"""Shapes: what the API takes and gives. Requests are checked by these classes, and the OpenAPI document shows them.

A class per kind of thing, with the members that a client writes. From each are made what a change may carry
(`patch_of`) and what is answered (`view_of`).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from gateway.control.members import (
    MOST,
    Email,
    Instant,
    Moment,
    Name,
    Network,
    Permissions,
    Roles,
    RouteName,
    Title,
)


class Shape(BaseModel):
    """A JSON object: every member is known and has the type it says; a member of the wrong type is never converted."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)

    fixed: ClassVar[frozenset[str]] = frozenset({"name"})
    """Members that never change."""


class Organization(Shape):
    """Who pays: a customer, or a part of one. What belongs to it nobody of another organization can reach."""

    fixed = frozenset({"name", "parent", "operator"})

    name: Name
    title: Title = ""
    parent: Name | None = None
    """The organization above it, whose keys act on this one too."""
    operator: bool = False
    """Whether its keys act on every organization, as far as their permissions go. Only an operator can say so."""
    disabled: bool = False
    """Whether it is cut off: all its keys are refused, and those of the organizations below it too."""


class Department(Shape):
    """A part of an organization that has teams."""

    name: Name
    title: Title = ""


class Team(Shape):
    """People who work together; a role can be given to a user for one team alone."""

    name: Name
    title: Title = ""
    department: Name | None = None


class GlobalRole(Shape):
    """A role that every organization can give. One of its own with the same name stands before it; only who could give
    this one makes such.
    """

    name: Name
    title: Title = ""
    permissions: Permissions


class Role(Shape):
    """What whoever has this role may do."""

    fixed = frozenset({"name", "scope"})

    name: Name
    title: Title = ""
    scope: Literal["organization", "team"] = "organization"
    """`team`: it can be given for a team only, and reaches the keys that are made for that team."""
    permissions: Permissions


class User(Shape):
    """A person. What they may do is said by their memberships, and done with their keys or tokens."""

    name: Name
    title: Title = ""
    email: Email | None = None
    disabled: bool = False
    """Whether all keys of this user are refused."""


class ServiceAccount(Shape):
    """A program that calls."""

    name: Name
    title: Title = ""
    roles: Roles = []
    disabled: bool = False
    """Whether all keys of this account are refused."""


class Membership(Shape):
    """The roles that a user has, in the whole organization or in one team."""

    fixed = frozenset({"name", "user", "team"})

    name: Name | None = None
    """Made up where it is not given."""
    user: Name
    team: Name | None = None
    roles: Roles


class Subscription(Shape):
    """The plan that an organization is on. One of its subscriptions counts: the one that has not ended."""

    fixed = frozenset({"name", "plan"})

    name: Name | None = None
    """Made up where it is not given."""
    plan: Name
    ended_at: Moment | None = None


class Limit(Shape):
    """So much of a meter in so many seconds. Kept and published with its key; this version does not enforce it."""

    meter: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    amount: Annotated[int, Field(ge=1, le=10**15)]
    window_seconds: Annotated[int, Field(ge=1, le=366 * 86400)]


class Key(Shape):
    """An API key. It can do what its roles and those of the user or service account allow, or less."""

    fixed = frozenset({"name", "user", "service_account", "team"})

    name: Name | None = None
    """Its id in usage records; made up where it is not given."""
    title: Title = ""
    user: Name | None = None
    """The user it belongs to."""
    service_account: Name | None = None
    """The service account it belongs to."""
    team: Name | None = None
    """The team of the user that it is for; the user's roles in other teams do not count."""
    roles: Roles = []
    """Roles of its own, beside those of the user or service account."""
    permissions: Permissions | None = None
    """Its roles allow no more than these, and what is left is all it has: routes that ask for a role do not take it.
    Null: all that its roles allow, and their names."""
    routes: Annotated[list[RouteName], Field(max_length=MOST)] = []
    """Names of the only routes it can be used on; none: all. A name that no route has opens nothing: the control plane
    does not know the routes, so it takes any."""
    networks: Annotated[list[Network], Field(max_length=MOST)] = []
    """The only networks it can be used from; none: all."""
    limits: Annotated[list[Limit], Field(max_length=20)] = []
    """Limits of its own. They are kept and published with it, and not enforced by this version."""
    expires_at: Moment | None = None
    """It is refused from then on. Not in the past when it is made."""

    @model_validator(mode="after")
    def _belongs_to_one(self) -> Key:
        if self.user is not None and self.service_account is not None:
            raise ValueError("a key belongs to a user or to a service account, not to both")
        if self.team is not None and self.user is None:
            raise ValueError("a key for a team needs the user who has roles there")
        return self


class Revocation(Shape):
    """A token that is refused although it has not expired, or all tokens of a session or a subject."""

    fixed = frozenset({"name", "kind", "token"})

    name: Name | None = None
    """Made up where it is not given."""
    kind: Literal["jti", "session", "subject"]
    token: Annotated[str, Field(pattern=r"^[!-~]{1,256}$")]
    """The token's id (`jti`), the session (`sid`) or the subject (`sub`)."""
    expires_at: Moment
    """From then on it is forgotten: no earlier than the last of these tokens expires. Not in the past."""


class Rotation(Shape):
    """A new secret for a key."""

    grace_seconds: Annotated[int, Field(ge=0, le=30 * 86400)] = 86400
    """How long the secret before it goes on working."""


class Secret(Shape):
    """A secret of a key, without what makes it one."""

    prefix: str
    created_at: Instant
    expires_at: Instant | None
    """The end of its grace, if it was rotated."""


class AuditEntry(Shape):
    """Who changed what."""

    id: int
    at: Instant
    actor: str
    request: str
    """The id of the request, as `X-Request-Id` of its answer said it."""
    organization: str | None
    kind: str
    name: str
    action: Literal["create", "change", "delete"]
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class DecisionEntry(Shape):
    """What the edge decided, and how often in an hour: refusals, and what was allowed where a route wants that told."""

    id: int
    organization: str
    """The caller's; empty where decisions of several were counted together."""
    consumer: str
    route: str
    wanted: str
    """The permission that was asked for; `others` where there were too many kinds to tell apart."""
    allowed: bool
    because: str
    times: int
    first_at: Instant
    last_at: Instant


class Identity(Shape):
    """Who asks, as the API sees it."""

    name: str
    organization: str | None
    """The organization it acts for; null: every one."""
    permissions: list[str]


def patch_of(shape: type[Shape]) -> type[Shape]:
    """What a change may carry: any of the members that can change (JSON Merge Patch, RFC 7396)."""
    members: dict[str, Any] = {
        name: (field.rebuild_annotation(), None)
        for name, field in shape.model_fields.items()
        if name not in shape.fixed
    }
    return create_model(f"{shape.__name__}Patch", __base__=Shape, __doc__=f"A change of a {shape.__name__}.", **members)


def view_of(shape: type[Shape], *, called: str = "", **more: Any) -> type[Shape]:
    """What is answered: all members, `more` that nobody can write, and when it was made and changed."""
    members: dict[str, Any] = {name: (field.rebuild_annotation(), ...) for name, field in shape.model_fields.items()}
    members |= {name: (kind, ...) for name, kind in more.items()}
    members |= {"name": (Name, ...), "version": (int, ...), "created_at": (Instant, ...), "updated_at": (Instant, ...)}
    return create_model(called or f"{shape.__name__}View", __base__=Shape, __doc__=shape.__doc__, **members)
