from __future__ import annotations

import gzip
import sys
import zlib
from typing import get_args

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from gateway.coding import Coding, CodingUnavailable, decoded, encoder

CODINGS = get_args(Coding)
PIECES = st.lists(st.binary(max_size=2000), max_size=6)


@pytest.mark.parametrize("coding", CODINGS)
@given(PIECES, st.binary(max_size=50))
def test_what_is_encoded_can_be_decoded(coding: Coding, pieces: list[bytes], end: bytes):
    stream = encoder(coding)()
    sent = b"".join([*(stream.encode(piece, False) for piece in pieces), stream.encode(end, True)])
    body = b"".join(pieces) + end
    assert decoded(coding, sent, len(body) + 1) == body
    others = {"gzip": gzip.decompress, "br": brotli.decompress, "zstd": zstd.decompress}
    assert others[coding](sent) == body


@pytest.mark.parametrize("coding", CODINGS)
def test_every_piece_can_be_decoded_when_it_is_there(coding: Coding):
    decoders = {"gzip": zlib.decompressobj(31).decompress, "zstd": zstd.ZstdDecompressor().decompress}
    decode = decoders.get(coding) or brotli.Decompressor().process
    stream = encoder(coding)()
    for place in range(5):
        piece = b"line %d\n" % place
        assert decode(stream.encode(piece, False)) == piece


@pytest.mark.parametrize("coding", [*CODINGS, "deflate", "x-gzip"])
@given(st.binary(max_size=64))
def test_noise_is_nothing_or_little(coding: str, noise: bytes):
    body = decoded(coding, noise, 1000)
    assert body is None or len(body) <= 1000


@pytest.mark.parametrize("coding", CODINGS)
def test_what_would_be_too_large_is_nothing(coding: Coding):
    bomb = encoder(coding)().encode(b"0" * 2**22, True)
    assert len(bomb) < 8192
    assert decoded(coding, bomb, 2**20) is None
    assert decoded(coding, bomb[:-3], 2**23) is None


def test_deflate_is_read_with_and_without_its_head():
    raw = zlib.compressobj(wbits=-15)
    assert decoded("deflate", zlib.compress(b"abc"), 10) == b"abc"
    assert decoded("deflate", raw.compress(b"abc") + raw.flush(), 10) == b"abc"
    assert decoded("identity", b"abc", 1) == b"abc"
    assert decoded("compress", b"abc", 10) is None


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_a_library_that_is_missing_is_named(coding: Coding, monkeypatch: pytest.MonkeyPatch):
    for name in ("brotli", "backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CodingUnavailable, match=r"pip install 'tallygate\[compress\]'"):
        encoder(coding)
    assert decoded(coding, b"abc", 10) is None
    assert encoder("gzip")
