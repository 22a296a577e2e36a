"""Conditions: what they say, that nothing in them can go wrong, and that a missing fact opens nothing."""

from __future__ import annotations

import operator
import random
import re
import time
from copy import copy
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Clock
from gateway.conditions import Condition, parse_condition
from gateway.consumers import Consumer
from gateway.exchange import Exchange, Request
from gateway.expressions import DEEPEST, LONGEST, Comparison, Joined, Literal, Name, Node, Not, parse_expression
from gateway.facts import Facts, fact
from gateway.headers import Headers

ANN = Consumer(
    "ann",
    "acme",
    key="k1",
    user="u-7",
    roles=frozenset({"reader", "admin"}),
    scopes=frozenset({"books.read"}),
    attributes={"department": "sales", "empty": ""},
)
# A Wednesday, 23:30 in London and on Thursday, 1:30, in Berlin.
WHEN = int(datetime(2026, 7, 1, 22, 30, tzinfo=UTC).timestamp() * 1_000_000)
FACTS = Facts(
    ANN,
    method="DELETE",
    path="/books/7",
    host="api.example.com",
    client="10.1.2.3",
    parameters={"id": "7", "owner": "u-7"},
    resource={"owner": "u-7", "size": 12, "price": 9.5, "tags": frozenset({"red"}), "none": frozenset()},
    micros=WHEN,
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('user == "u-7"', True),
        ("user == 'u-8'", False),
        ("user != 'u-8'", True),
        ("consumer == 'ann' and organization == 'acme' and key == 'k1'", True),
        ("param.owner == user", True),
        ("resource.owner == user", True),
        ("'admin' in roles", True),
        ("'root' in roles or 'books.read' in scopes", True),
        ("'root' not in roles", True),
        ("not 'admin' in roles", False),
        ("attribute.department in ('sales', 'law')", True),
        ("attribute.empty == ''", True),
        ("method in ('GET', 'HEAD')", False),
        ("method == 'PURGE' or method != 'M-SEARCH'", True),
        ("hour < 24 and 23 > hour", True),
        ("path == '/books/7' and host == 'api.example.com'", True),
        ("client in '10.0.0.0/8'", True),
        ("client in ('192.168.0.0/16', 'fd00::/8')", False),
        ("client not in '10.1.2.3'", False),
        ("hour == 22 and hour('Europe/Berlin') == 0", True),
        ("hour('Europe/London') < 23", False),
        ("weekday == 'wed' and weekday('Europe/Berlin') == 'thu'", True),
        ("weekday in ('sat', 'sun')", False),
        ("date >= '2026-07-01' and date < '2026-07-02'", True),
        ("date('Europe/Berlin') == '2026-07-02'", True),
        ("hour in (21, 22)", True),
        ("resource.size <= 12 and resource.price > 9", True),
        ("resource.price == 9.5", True),
        ("'red' in resource.tags and 'blue' not in resource.tags", True),
        ("not (user == 'x' or user == 'y') and (method == 'GET' or method == 'DELETE')", True),
        ("user == 'x' and user == 'y' or user == 'u-7'", True),
        ("user == 'u-7' or user == 'x' and user == 'y'", True),
        ("5 < resource.size", True),
        # What is not known, and what is not alike:
        ("resource.missing == user", None),
        ("not resource.missing == user", None),
        ("resource.missing != user", None),
        ("resource.missing == resource.missing", None),
        ("attribute.missing in ('a', 'b')", None),
        ("attribute.missing not in ('a', 'b')", None),
        ("resource.owner < 3", None),
        ("resource.tags == 'red'", None),
        ("'u' in resource.owner", None),
        ("resource.tags in roles", None),
        ("resource.size in ('12', '13')", None),
        ("resource.size not in ('12', '13')", None),
        ("resource.owner in (7, 8)", None),
        ("resource.owner not in (7, 8)", None),
        ("resource.size in resource.tags", None),
        ("resource.size not in resource.tags", None),
        ("resource.size in resource.none", None),
        ("resource.size not in resource.none", None),
        ("resource.owner in resource.none", False),
        ("resource.tags in resource.none", None),
        ("resource.size in (12, 13.5)", True),
        ("resource.price not in (12, 13.5)", True),
        ("resource.missing == 1 or user == 'u-7'", True),
        ("resource.missing == 1 and user == 'x'", False),
        ("resource.missing == 1 and user == 'u-7'", None),
    ],
)
def test_what_a_condition_says(text: str, holds: bool | None) -> None:
    assert parse_condition(text).holds(FACTS) is holds


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'the end' stands where a fact"),
        ("user", "'the end' stands where one of =="),
        ("user = 'x'", "\"= 'x'\" cannot be read"),
        ("user == 'x", '"\'x" cannot be read'),
        ("user == 'x' 'y'", "does not fit here"),
        ("(user == 'x'", "'the end' stands where ')' should"),
        ("usr == 'x'", 'unknown fact usr (did you mean "user"?)'),
        ("header.x == 'x'", "unknown fact header.x"),
        ("param. == 'x'", "unknown fact param."),
        ("hour == '9'", "compares text with a number"),
        ("user == 9", "compares text with a number"),
        ("user < 'x'", "only numbers and dates have an order"),
        ("param.day < date", "only numbers and dates have an order"),
        ("date < '2026-02-30'", "a date is written as 2026-01-31"),
        ("date < '20260101'", "a date is written as"),
        *((f"hour {rest}", "an hour is one of 0 to 23") for rest in ("== 25", "!= 24", "in (9, 24)", "== 9.5")),
        *((f"hour('UTC') {rest}", "an hour is one of 0 to 23") for rest in ("not in (24)", "< 0", "> 23", ">= 24")),
        ("23 < hour", "an hour is one of 0 to 23"),
        ("method == 'get'", 'a method is written in capital letters (did you mean "GET"?)'),
        ("method not in ('GET', 'Head')", '(did you mean "HEAD"?)'),
        ("'' == method", "a method is written in capital letters (write GET, POST, …)"),
        ("method < 'GET'", "only numbers and dates have an order"),
        ("method == 3", "compares text with a number"),
        ("weekday == 'monday'", "a day of the week is one of mon,"),
        ("roles == 'x'", "asked with `in`"),
        ("client == '10.0.0.1'", "asked with `in`"),
        ("roles in ('a')", "`in` needs one thing before it"),
        ("user in 'abc'", "`in` needs one thing before it"),
        ("1 in roles", "compares text with a number"),
        ("hour in ('a', 1)", "compares text with a number"),
        ("user in (user)", "a list holds text and numbers alone"),
        ("client in '10.0.0.0/33'", "is no network"),
        ("client in 10", "is no network"),
        ("client in roles", "is no network"),
        ("hour('Nowhere/Land') == 1", "unknown time zone 'Nowhere/Land'"),
        ("hour('../../etc/passwd') == 1", "unknown time zone"),
        ("hour('localtime') == 1", "unknown time zone 'localtime'"),
        ("hour('posixrules') == 1", "unknown time zone"),
        ("hour(9) == 1", "takes a time zone in quotes"),
        ("user('Europe/Berlin') == 'x'", "only date, hour, weekday take a time zone"),
        ("__import__('os') == 'x'", "only date, hour, weekday"),
        ("user == 'x' if True", "'if' does not fit here"),
        ("user == 'a\nb'", "cannot be read"),
        ("not " * 20 + "user == 'x'", f"at most {DEEPEST} deep"),
        ("(" * 400, f"at most {DEEPEST} deep"),
        ("user == '" + "x" * LONGEST + "'", f"at most {LONGEST} characters"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        parse_condition(text)


@pytest.mark.parametrize(
    ("moment", "zone", "hour"),
    [
        ("2026-10-25T00:30:00+00:00", "Europe/Berlin", 2),
        ("2026-10-25T01:30:00+00:00", "Europe/Berlin", 2),  # the same hour again
        ("2026-10-25T02:30:00+00:00", "Europe/Berlin", 3),
        ("2026-03-29T00:59:59+00:00", "Europe/Berlin", 1),
        ("2026-03-29T01:00:00+00:00", "Europe/Berlin", 3),  # there is no hour between
        ("2026-07-01T00:00:00+00:00", "Asia/Kathmandu", 5),
        ("2026-07-01T00:00:00+00:00", "Pacific/Kiritimati", 14),
    ],
)
def test_hours_are_those_that_clocks_show(moment: str, zone: str, hour: int) -> None:
    facts = Facts(micros=int(datetime.fromisoformat(moment).timestamp() * 1_000_000))
    assert parse_condition(f"hour('{zone}') == {hour}").holds(facts)
    assert not parse_condition(f"hour('{zone}') != {hour}").holds(facts)


@pytest.mark.parametrize(
    "text",
    ["υser == 'x'", "ｕser == 'x'", "user ＝＝ 'x'", "user == “x”", "user\u00a0== 'x'", "hour == ٣", "hour == ９"],
)
def test_what_looks_alike_is_not_the_same(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|unknown fact"):
        parse_condition(text)


@pytest.mark.parametrize("text", ["user == 'x' " + "and user == 'x' " * 30, "(" * 15 + "user == 'x'" + ")" * 15])
def test_what_is_long_or_deep_is_read_quickly_or_refused(text: str) -> None:
    began = time.perf_counter()
    for _ in range(100):
        parse_condition(text[:LONGEST].rpartition(" and")[0] or text)
    assert time.perf_counter() - began < 2


def test_a_caller_without_a_user_is_nobodys_equal() -> None:
    facts = Facts(Consumer("job", "acme"), resource={"owner": ""})
    assert parse_condition("resource.owner == user").holds(facts) is None
    assert parse_condition("'admin' in roles").holds(facts) is False


@pytest.mark.parametrize("odd", [True, 7, 7.5, ["sales"], {"a": 1}, b"sales", ("sales",), frozenset({"sales"})])
@pytest.mark.parametrize(
    "text",
    [
        *("attribute.x == 'sales'", "attribute.x != 'sales'", "attribute.x == attribute.department"),
        *("attribute.x in ('sales', 'law')", "attribute.x not in ('sales', 'law')"),
        *("attribute.x in scopes", "attribute.x not in scopes", "attribute.x in roles", "attribute.x not in roles"),
    ],
)
def test_a_fact_of_an_odd_type_says_nothing(odd: object, text: str) -> None:
    """Attributes may come from a token's claims."""
    attributes = {"x": odd, "department": "sales"}
    facts = Facts(Consumer("ann", "acme", roles=frozenset({"a"}), attributes=attributes))  # type: ignore[arg-type]
    assert parse_condition(text).holds(facts) is None


@pytest.mark.parametrize("client", ["", "unknown", "10.0.0", "10.0.0.1:80"])
def test_a_client_that_is_no_address_is_neither_inside_nor_outside(client: str) -> None:
    for text in ("client in '10.0.0.0/8'", "client not in '10.0.0.0/8'", "client not in ('0.0.0.0/0', '::/0')"):
        assert parse_condition(text).holds(Facts(client=client)) is None


def test_facts_of_an_exchange() -> None:
    request = Request("GET", "/a/%2e%2e/books?x=1", Headers({"x-tallygate-consumer": "eve"}))
    request.host, request.client = "API.Example.com.:8080", "10.0.0.1"
    exchange = Exchange(request, Clock())
    exchange.consumer, exchange.parameters = ANN, {"id": "7"}
    facts = Facts.of(exchange)
    assert (facts.path, facts.host, facts.client) == ("/books", "api.example.com", "10.0.0.1")
    assert parse_condition("consumer == 'ann' and param.id == '7' and method == 'GET'").holds(facts)
    assert parse_condition("date > '2026-01-01'").holds(facts)
    request.target = "/../x"
    assert Facts.of(exchange).path is None


LITERALS = (
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters='"'), max_size=8)
    | st.sampled_from(["GET", "DELETE", "mon", "u-7"])
    | st.integers(0, 30)
    | st.integers(0, 10**15 - 1)
    | st.integers(0, 10**9).map(lambda number: number / 10_000)
).map(Literal)
PLAIN = "user organization method path client roles scopes hour weekday date param.id attribute.department"
NAMED = f"{PLAIN} attribute.missing resource.owner resource.size resource.tags resource.missing"
NAMES = st.sampled_from([*map(Name, NAMED.split()), Name("hour", "Europe/Berlin"), Name("date", "UTC")])
SIDES = NAMES | LITERALS
COMPARISONS = st.builds(Comparison, SIDES, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), SIDES) | st.builds(
    Comparison,
    SIDES,
    st.sampled_from(["in", "not in"]),
    SIDES | st.lists(LITERALS, min_size=1, max_size=3).map(tuple),
)
NODES: st.SearchStrategy[Node] = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(Joined, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=4,
)
ANYTHING = st.builds(
    Facts,
    st.sampled_from([None, ANN, Consumer("job", "x")]),
    method=st.none() | st.text(max_size=3),
    path=st.none() | st.text(max_size=3),
    client=st.none() | st.text(max_size=3) | st.sampled_from(["10.0.0.1", "::1"]),
    parameters=st.dictionaries(st.just("id"), st.text(max_size=3)),
    resource=st.dictionaries(
        st.sampled_from(["owner", "size", "tags"]),
        st.text(max_size=3) | st.integers() | st.floats(allow_nan=True) | st.frozensets(st.text(max_size=2)),
    ),
    micros=st.none() | st.integers(0, 4 * 10**15),
)


@given(node=NODES)
def test_a_tree_written_out_reads_as_the_same_tree(node: Node) -> None:
    if len(str(node)) <= LONGEST:
        assert parse_expression(str(node)) == node


@given(node=NODES, facts=ANYTHING)
def test_whatever_can_be_read_has_the_answer_of_the_logic(node: Node, facts: Facts) -> None:
    condition = readable(node)
    if condition is not None:
        assert condition.holds(facts) is TRUTHS[truth(node, facts)]


@given(node=NODES, facts=ANYTHING, seed=st.integers())
def test_more_knowledge_never_takes_an_answer_back(node: Node, facts: Facts, seed: int) -> None:
    """What holds, or does not, though facts are missing, is the same once they are known: no guess was made."""
    condition = readable(node)
    if condition is None:
        return
    less = copy(facts)
    hidden = random.Random(seed).choice(["consumer", "method", "path", "client", "micros", "resource", "parameters"])
    setattr(less, hidden, {} if hidden in ("resource", "parameters") else None)
    guess = condition.holds(less)
    assert guess is None or guess is condition.holds(facts)


@given(text=st.text(max_size=60) | st.text(alphabet="()'\"<>=!,. andornthsuiu159", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        condition = parse_condition(text)
    except ValueError:
        return
    assert condition.holds(FACTS) in (True, False, None)


def readable(node: Node) -> Condition | None:
    try:
        return Condition(node)
    except ValueError:
        return None


TRUTHS = {0: False, 1: None, 2: True}


def truth(node: Node, facts: Facts) -> int:
    """What a tree says by Kleene's tables: 0 is false, 2 is true, 1 lies between them."""
    if isinstance(node, Not):
        return 2 - truth(node.inner, facts)
    if isinstance(node, Joined):
        return (min if node.word == "and" else max)(truth(part, facts) for part in node.parts)
    if node.sign == "not in":
        return 2 - truth(Comparison(node.left, "in", node.right), facts)
    left, right = seen(node.left, facts), seen(node.right, facts)
    if left is None or right is None or node.left == Name("client"):
        return 1 if left is None else located(left, node.right)
    if node.sign == "in":
        alike = isinstance(right, list | frozenset) and all(is_text(left) is is_text(each) for each in right or [""])
        return 2 * (left in right) if alike and not isinstance(left, frozenset) else 1  # type: ignore[operator]
    if isinstance(left, frozenset) or isinstance(right, frozenset) or is_text(left) is not is_text(right):
        return 1
    sign = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}[node.sign]
    return 2 * getattr(operator, sign)(left, right)


def is_text(value: object) -> bool:
    return isinstance(value, str)


def seen(side: Literal | Name | tuple[Literal, ...], facts: Facts) -> object:
    if isinstance(side, tuple):
        return [each.value for each in side]
    return side.value if isinstance(side, Literal) else fact(side.name, side.zone).read(facts)


def located(address: object, right: object) -> int:
    try:
        parsed = ip_address(str(address))
    except ValueError:
        return 1
    networks = right if isinstance(right, tuple) else (right,)
    return 2 * any(parsed in ip_network(each.value) for each in networks)
