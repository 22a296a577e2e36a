"""Load report: what a target says in a response about how busy it is, in ORCA's text form.

`endpoint-load-metrics: TEXT cpu_utilization=0.3, application_utilization=0.8, named_metrics.queue=4`: the field and the
form are Envoy's and gRPC's ("Open Request Cost Aggregation", envoyproxy/envoy issue 6614; gRPC proposals A51 and A58).
"""

from __future__ import annotations

import re
from typing import Final

FIELD: Final = "endpoint-load-metrics"
"""The header field; meant for the gateway, not for clients."""

_LONGEST: Final = 1024
_NUMBER: Final = re.compile(r"\d{1,6}(?:\.\d{1,18})?")
_SAYS_MOST: Final = ("application_utilization", "cpu_utilization")


def utilization(report: str) -> float | None:
    """How busy the target is: 0 not at all, 1 fully, more than that overloaded. None if the report does not say.

    What the application says of itself counts for more than what its CPU says; 0 is how ORCA says nothing.
    """
    form, _, text = report[:_LONGEST].partition(" ")
    if form != "TEXT":
        return None
    said = dict(_pair(item) for item in text.split(","))
    for name in _SAYS_MOST:
        number = said.get(name, "")
        if _NUMBER.fullmatch(number) and float(number) > 0:
            return float(number)
    return None


def _pair(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    return name.strip(), value.strip()
