"""Key: what `Idempotency-Key` says (draft-ietf-httpapi-idempotency-key-header, §2.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.problem import IdempotencyKeyInvalid

_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\]){1,255})"')
_BARE: Final = re.compile(r"[!#-+\--:<-\[\]-~]{1,255}")
_ESCAPED: Final = re.compile(r'\\(["\\])')


def read_key(values: Sequence[str]) -> str | None:
    """The key, or None if there is no such field. Raises IdempotencyKeyInvalid.

    The draft wants a string of RFC 8941, in quotes; what most clients send today, the same without them, is read too.
    """
    if not values:
        return None
    if len(values) > 1:
        raise IdempotencyKeyInvalid("The field may come once.")
    quoted = _QUOTED.fullmatch(values[0])
    if quoted is not None:
        return _ESCAPED.sub(r"\1", quoted[1])
    if _BARE.fullmatch(values[0]):
        return values[0]
    raise IdempotencyKeyInvalid('Write 1 to 255 visible ASCII characters in quotes, such as "8e03978e-40d5-43e8".')
