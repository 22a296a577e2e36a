from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.path import normalized_path
from gateway.problem import BadRequest


@pytest.mark.parametrize(
    ("path", "normalized"),
    [
        ("/", "/"),
        ("/a/b/", "/a/b/"),
        ("/a//b", "/a//b"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/./b/.", "/a/b/"),
        ("/%61%2f%7e", "/a%2F~"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a.b/c", "/a.b/c"),
    ],
)
def test_a_path_is_read_one_way_however_it_is_spelled(path: str, normalized: str):
    assert normalized_path(path) == normalized


@pytest.mark.parametrize("path", ["/a/..;/b", "/a/..;x=1/b", "/a/%2e%2E;/b", "/a/..%3bx/b", "/.;/a", "/a%2f..;/b"])
def test_a_path_that_climbs_for_servlets_only_is_refused(path: str):
    with pytest.raises(BadRequest):
        normalized_path(path)


@pytest.mark.parametrize("path", ["/..", "/a/../..", "/%zz", "/%", "/%00"])
def test_a_path_that_cannot_be_read_is_refused(path: str):
    with pytest.raises(BadRequest):
        normalized_path(path)


@given(st.lists(st.sampled_from(["a", ".", "..", "%2e", "%7E", "%2f", ""])).map(lambda parts: "/" + "/".join(parts)))
def test_once_read_a_path_stays(path: str):
    try:
        once = normalized_path(path)
    except BadRequest:
        return
    assert normalized_path(once) == once
    assert not {".", ".."} & set(once.split("/"))
