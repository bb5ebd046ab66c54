"""Forms: what they say and where it lies, whatever pieces they come in, and how a broken one is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.forms import BOUNDARY, CONTENT_TYPE, body, part, read
from wire.errors import BadRequest
from wire.multipart import HEAD, MAX_HELD, MAX_PARTS, Form, FormReader, is_form

TRICKY = [b"", b"\r\n", b"--", b"\r\n--", f"\r\n--{BOUNDARY[:-1]}".encode(), b"\r\r\n\n--", b"\x00\xff" * 40]
"""Contents that look like a boundary, nearly."""


def in_pieces(raw: bytes, cuts: list[int], content_type: str = CONTENT_TYPE) -> Form:
    reader = FormReader(content_type)
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    for start, end in pairwise(edges):
        reader.feed(raw[start:end])
    return reader.close()


def test_a_form_says_what_its_fields_say_and_where_everything_lies() -> None:
    raw = body(
        part("model", "whisper-1"), part("file", b"RIFF", "a.wav", Content_Type="audio/wav"), part("prompt", "Grüße")
    )
    form = read(raw)
    assert [(one.name, one.text, one.is_file) for one in form.parts] == [
        ("model", "whisper-1", False),
        ("file", None, True),
        ("prompt", "Grüße", False),
    ]
    assert [raw[one.start : one.end] for one in form.parts] == [b"whisper-1", b"RIFF", "Grüße".encode()]
    assert form.size == len(raw)
    assert form.parts[1].head == b"RIFF"


def test_of_a_file_only_the_beginning_is_held() -> None:
    form = read(body(part("file", bytes(range(200)), "a.bin")))
    assert form.parts[0].head == bytes(range(HEAD))
    assert form.parts[0].size == 200


@pytest.mark.parametrize("content", TRICKY)
def test_a_form_that_comes_byte_by_byte_is_the_same(content: bytes) -> None:
    raw = body(part("file", content, "a.wav"), part("model", "m"), part("file", content * 2, "b.wav"))
    whole = read(raw)
    assert in_pieces(raw, list(range(len(raw)))) == whole
    for cut in range(len(raw)):
        assert in_pieces(raw, [cut]) == whole
    files = [one for one in whole.parts if one.is_file]
    assert [raw[one.start : one.end] for one in files] == [content, content * 2]


@settings(max_examples=200, deadline=None)
@given(
    contents=st.lists(
        st.lists(st.sampled_from([b"a", b"\r", b"\n", b"-", BOUNDARY[:5].encode(), *TRICKY])), max_size=4
    ),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
)
def test_every_value_lies_where_the_form_says_whatever_the_pieces(contents: list[list[bytes]], cuts: list[int]) -> None:
    values = [b"".join(words) for words in contents]
    values = [value for value in values if f"\r\n--{BOUNDARY}".encode() not in b"\r\n" + value]
    raw = body(*(part(f"f{number}", value, "x") for number, value in enumerate(values)), part("model", "m"))
    form = in_pieces(raw, cuts)
    assert [raw[one.start : one.end] for one in form.parts] == [*values, b"m"]


@pytest.mark.parametrize(
    ("boundary", "header"),
    [
        ("simple", "multipart/form-data; boundary=simple"),
        ("----WebKitFormBoundaryAbC0123", "multipart/form-data; boundary=----WebKitFormBoundaryAbC0123"),
        ("with space:and=more", 'multipart/form-data; boundary="with space:and=more"'),
    ],
)
def test_a_boundary_goes_on_as_it_came(boundary: str, header: str) -> None:
    raw = body(part("model", "m"), boundary=boundary)
    given_header = f'Multipart/Form-Data; charset=utf-8; boundary="{boundary}"'
    form = read(raw, given_header)
    assert form.content_type == header
    assert read(raw, form.content_type) == form


def test_what_stands_before_and_after_a_form_is_counted_but_not_read() -> None:
    raw = b"\r\n" + body(part("model", "m")) + b"epilogue"
    form = read(raw)
    assert form.size == len(raw)
    assert raw[form.parts[0].start : form.parts[0].end] == b"m"


def test_a_field_that_is_too_long_is_carried_unread() -> None:
    form = read(body(part("a", "x" * (MAX_HELD - 10)), part("b", "y" * 11), part("c", "z" * 10)))
    assert [(one.name, one.text is None, one.size) for one in form.parts] == [
        ("a", False, MAX_HELD - 10),
        ("b", True, 11),
        ("c", False, 10),
    ]


def test_a_header_that_comes_in_pieces_and_in_any_case_is_read() -> None:
    raw = body(b"CONTENT-Disposition: Form-Data; NAME=model\r\nX-Empty:\r\n\r\nm")
    assert in_pieces(raw, list(range(len(raw)))).parts[0].name == "model"


def test_only_multipart_is_a_form() -> None:
    assert is_form("multipart/form-data; boundary=x")
    assert is_form(" Multipart/mixed")
    assert not is_form("application/json")
    assert not is_form("")


M = part("model", "m")


@pytest.mark.parametrize(
    ("content_type", "says"),
    [
        ("multipart/mixed; boundary=x", "must be multipart/form-data"),
        ("multipart/form-data", "no boundary"),
        ("multipart/form-data; boundary=", "no boundary"),
        ('multipart/form-data; boundary="ends with a blank "', "no boundary"),
        ("multipart/form-data; boundary=b\u00f6se", "no boundary"),
        (f"multipart/form-data; boundary={'x' * 71}", "no boundary"),
        ("multipart/form-data; boundary*=utf-8''x", "no boundary"),
    ],
)
def test_a_content_type_that_cannot_be_a_form_is_refused(content_type: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        FormReader(content_type)


@pytest.mark.parametrize(
    ("raw", "says", "param"),
    [
        (b"", "last boundary is missing", None),
        (b"\r\n\r\n", "last boundary is missing", None),
        (body(M)[:-4], "last boundary is missing", None),
        (body(M, end=b"\r\n"), "last boundary is missing", None),
        (b'{"model":"m"}', "malformed at byte 0: part 1", None),
        (body(M, boundary="another"), "malformed at byte 2: part 1", None),
        (body(M).replace(b"\r\n", b"\n"), "malformed at byte", None),
        (body(M, b'Content Disposition: form-data; name="b"\r\n\r\nx'), "part 2 cannot be read", None),
        (body(M, b"\r\nno headers"), "no name on part 2", None),
        (body(b"Content-Type: text/plain\r\n\r\nx"), "no name on part 1", None),
        (body(b"Content-Disposition: form-data\r\n\r\nx"), "no name on part 1", None),
        (body(b'Content-Disposition: attachment; name="a"\r\n\r\nx'), "no name on part 1", None),
        (body(b'Content-Disposition: form-data; name="\xff"\r\n\r\nx'), "name of part 1 .* is not UTF-8", None),
        (body(part("prompt", b"\xff\xfe")), "'prompt' is not UTF-8", "prompt"),
        (body(part("file", "UklGRg==", "a.wav", Content_Transfer_Encoding="base64")), "'file' is encoded", "file"),
        (body(part("a", "x", X="y" * 5000)), "malformed at byte .* part 1", None),
        (body(part("a", "x", **{f"X{number}": "y" for number in range(20)})), "malformed at byte .* part 1", None),
        (body(*(part("a", "x") for _ in range(MAX_PARTS + 1))), f"more than {MAX_PARTS} parts", None),
    ],
)
def test_a_broken_form_is_refused_in_clear_words(raw: bytes, says: str, param: str | None) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        read(raw)
    assert caught.value.param == param
    with pytest.raises(BadRequest):
        in_pieces(raw, list(range(len(raw))))


def test_the_place_of_a_mistake_is_one_in_the_whole_body() -> None:
    raw = body(M, b"Content Disposition: x\r\n\r\nx")
    reader = FormReader(CONTENT_TYPE)
    reader.feed(raw[:60])
    with pytest.raises(BadRequest, match=f"at byte {raw.index(b' Disposition: x')}"):
        reader.feed(raw[60:])
