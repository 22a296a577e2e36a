from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from gateway import forwarding
from gateway.header_options import FieldName, FieldValue, RequestFieldName, ResponseFieldName
from gateway.http1.grammar import HOP_BY_HOP


@pytest.mark.parametrize("name", sorted(forwarding._NEVER_UPSTREAM))
def test_what_forwarding_takes_out_cannot_be_set(name: str):
    """Else a configuration would say something that never happens."""
    with pytest.raises(ValueError, match=r"the gateway sets it|write dashes"):
        TypeAdapter(RequestFieldName).validate_python(name.title())


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP | {"content-length", "host"}))
def test_what_frames_a_message_cannot_be_set(name: str):
    with pytest.raises(ValueError, match="the gateway sets it"):
        TypeAdapter(ResponseFieldName).validate_python(name)


@pytest.mark.parametrize("kind", [RequestFieldName, ResponseFieldName, FieldName])
def test_other_names_can(kind: object):
    for name in ("X-Real-Name", "authorization", "Cache-Control", "x.y"):
        assert TypeAdapter(kind).validate_python(name) == name
    for name in ("", "a b", "a:", "ü", "a\r\nb"):
        with pytest.raises(ValueError, match="not the name of a header field"):
            TypeAdapter(kind).validate_python(name)


def test_a_value_holds_no_control_character():
    assert TypeAdapter(FieldValue).validate_python("a\tbü") == "a\tbü"
    for value in ("a\r\nb", "\x00", "€"):
        with pytest.raises(ValueError, match="not the value of a header field"):
            TypeAdapter(FieldValue).validate_python(value)
