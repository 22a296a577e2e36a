"""Claims: what an issuer says about whoever holds a token, and the consumer that this makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, Field

from gateway.consumers import SUBSCRIPTION
from gateway.directory.claimed import Claimed
from gateway.json_path import Steps, value_at
from gateway.options import Options
from gateway.projection import RevocationKind

Claims: TypeAlias = Mapping[str, Any]
Revocable: TypeAlias = tuple[tuple[RevocationKind, str], ...]
"""What a token can be revoked by before it ends: kinds, and what each of them is called."""

_DOT: Final = re.compile(r"(?<!\\)\.")
_LATEST: Final = 253402300800  # the end of the year 9999; what is beyond was not meant as seconds
LONGEST_TEXT: Final = 256
"""Characters of a claim that is a text; a longer one is not believed to be a name."""
_MOST_WORDS: Final = 500
_NAMES: Final = (str, int)
_FACTS: Final = (str, int, float, bool)


def steps_of(path: str) -> Steps:
    r"""`realm_access.roles` as its members; `\.` is a dot inside a name. Raises ValueError for an empty one."""
    steps = tuple(step.replace("\\.", ".") for step in _DOT.split(path))
    if not all(steps) or len(steps) > 16:
        raise ValueError(rf"not the path of a claim: {path!r} (write names with dots between them, and \. inside one)")
    return steps


def _claim_path(path: str) -> str:
    steps_of(path)
    return path


ClaimPath: TypeAlias = Annotated[str, AfterValidator(_claim_path)]
r"""The way to a claim: names with dots between them; `\.` is a dot inside a name."""
ClaimPaths: TypeAlias = ClaimPath | list[ClaimPath]
"""One path, or several."""
OneOrMore: TypeAlias = str | Annotated[list[str], Field(min_length=1)]
"""An option: an issuer or an audience, or several."""


class ClaimsOptions(Options):
    r"""What claims say about a caller. A claim is named by its path, such as `app_metadata.organization_id`; `\.` is a
    dot inside a name, a number a place in a list (from 0). Of several paths the first counts that is there; of `roles`,
    `scopes` and `permissions` all do.

    What goes into a header field or a usage record is visible ASCII, at most 128 characters; else the token is refused.
    """

    organization: ClaimPaths
    """Who pays. A token without it is refused."""
    name: ClaimPaths = "sub"
    """Who calls, as it appears in logs and upstream. A token without it is refused."""
    user: ClaimPaths = "sub"
    """The person behind it."""
    subscription: ClaimPaths = []
    """The subscription that usage is booked on."""
    roles: ClaimPaths = []
    """Roles: a list, or a text that is one role. What each may do is said by the section `roles`; where there is a
    section `directory`, by the control plane alone, for the token's organization."""
    scopes: ClaimPaths = ["scope", "scp"]
    """Scopes: a list, or a text with spaces between them."""
    permissions: ClaimPaths = []
    """Permissions: a list, or a text with spaces between them."""
    attributes: dict[str, ClaimPath] = {}
    """Other facts about the caller, for conditions: name and path of each. They are text, numbers, true or false."""
    token_id: ClaimPaths = ["jti"]
    """The token itself, which can be revoked; Entra calls it `uti`."""
    session: ClaimPaths = ["sid", "session_id"]
    """The session, which can be revoked."""
    subject: ClaimPaths = "sub"
    """Whose token it is: all of somebody's can be revoked."""


class ClaimMapping:
    """Makes a consumer of claims, by the paths that the configuration names."""

    def __init__(self, options: ClaimsOptions) -> None:
        self._organization = paths_of(options.organization)
        self._name = paths_of(options.name)
        self._user = paths_of(options.user)
        self._subscription = paths_of(options.subscription)
        self._roles = paths_of(options.roles)
        self._scopes = paths_of(options.scopes)
        self._permissions = paths_of(options.permissions)
        self._attributes = {name: [steps_of(path)] for name, path in options.attributes.items()}
        self._revocable: dict[RevocationKind, list[Steps]] = {
            "jti": paths_of(options.token_id),
            "session": paths_of(options.session),
            "subject": paths_of(options.subject),
        }

    def claimed(self, claims: Claims) -> Claimed:
        """Who the claims describe. Raises ValueError for claims that cannot stand where they are to go."""
        subscription = text_at(claims, self._subscription)
        if not SUBSCRIPTION.fullmatch(subscription):
            raise ValueError("a subscription that cannot be written down")
        attributes = {name: text_at(claims, paths, _FACTS) for name, paths in self._attributes.items()}
        return Claimed(
            text_at(claims, self._name),
            text_at(claims, self._organization),
            subscription,
            user=text_at(claims, self._user),
            roles=frozenset(_words(claims, self._roles)),
            scopes=frozenset(_words(claims, self._scopes, apart=True)),
            permissions=tuple(_words(claims, self._permissions, apart=True)),
            attributes={name: text for name, text in attributes.items() if text},
        )

    def revocable(self, claims: Claims) -> Revocable:
        """What the token can be revoked by. Raises ValueError for a claim that is no name."""
        named = [(kind, text_at(claims, paths)) for kind, paths in self._revocable.items()]
        return tuple((kind, text) for kind, text in named if text)


def paths_of(paths: ClaimPaths) -> list[Steps]:
    """The option, made ready."""
    return [steps_of(path) for path in ([paths] if isinstance(paths, str) else paths)]


def text_at(claims: Claims, paths: list[Steps], kinds: tuple[type, ...] = _NAMES) -> str:
    """The first of these claims that is there and not empty; nothing if none is.

    Raises ValueError for one of another kind.
    """
    value = next((found for steps in paths if (found := value_at(claims, steps)) not in (None, "")), "")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if type(value) not in kinds or len(text) > LONGEST_TEXT:
        raise ValueError("a claim that is not a text of reasonable length")
    return text


def moment_of(claims: Claims, name: str) -> float | None:
    """A NumericDate: seconds since the epoch (RFC 7519 §2). Raises ValueError for anything else."""
    if name not in claims:
        return None
    moment = claims[name]
    if isinstance(moment, bool) or not isinstance(moment, int | float) or not 0 <= moment < _LATEST:
        raise ValueError(f"`{name}` is not a moment in seconds")
    return float(moment)


def is_for(claims: Claims, audiences: frozenset[str] | None) -> bool:
    """Whether `aud` (RFC 7519 §4.1.3) names one of these; None: whoever it names. Raises ValueError for no audience."""
    audience = claims.get("aud", [])
    audience = [audience] if isinstance(audience, str) else audience
    if not isinstance(audience, list) or not all(isinstance(each, str) for each in audience):
        raise ValueError("`aud` is neither text nor a list of texts")
    return audiences is None or not audiences.isdisjoint(audience)


def _words(claims: Claims, paths: list[Steps], *, apart: bool = False) -> list[str]:
    """All words of these claims, each once. A text is one word or, if `apart`, several. Raises ValueError."""
    words: list[str] = []
    for steps in paths:
        found = value_at(claims, steps)
        if isinstance(found, str):
            words += found.split() if apart else [found]
        elif isinstance(found, list) and all(isinstance(word, str) for word in found):
            words += found
        elif found is not None:
            raise ValueError("a claim that is neither text nor a list of texts")
    if len(words) > _MOST_WORDS or any(len(word) > LONGEST_TEXT for word in words):
        raise ValueError("a claim with too many words, or too long ones")
    return list(dict.fromkeys(words))
