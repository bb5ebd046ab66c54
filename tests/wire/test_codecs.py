"""Lines, server-sent events and newline-delimited JSON, from bytes in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import Garbled
from wire.lines import LineSplitter
from wire.ndjson import NdjsonDecoder, json_object
from wire.sse import Event, SseDecoder, comment


def _lines(*pieces: bytes) -> list[bytes]:
    splitter = LineSplitter()
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.close()


def _events(*pieces: bytes) -> list[Event]:
    decoder = SseDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param([], [], id="Nothing is no line"),
        pytest.param([b""], [], id="An empty piece is no line"),
        pytest.param([b"a\nb\n"], [b"a", b"b"], id="A newline ends a line"),
        pytest.param([b"a\r\nb\r\n"], [b"a", b"b"], id="A carriage return before it goes too"),
        pytest.param([b"a\r", b"\nb"], [b"a", b"b"], id="The two may come apart"),
        pytest.param([b"a\r\r\n"], [b"a\r"], id="Only one carriage return goes"),
        pytest.param([b"a\rb\n"], [b"a\rb"], id="A carriage return alone ends no line"),
        pytest.param([b"a", b"b", b"", b"c\n", b"d"], [b"abc", b"d"], id="A line may come in many pieces"),
        pytest.param([b"a\r"], [b"a"], id="The last line may lack its newline"),
        pytest.param([b"\n\n"], [b"", b""], id="Empty lines count"),
        pytest.param(
            ["a\u2028b\u2029c\u0085d\v\f\x1c\n".encode()],
            ["a\u2028b\u2029c\u0085d\v\f\x1c".encode()],
            id="Nothing else that str.splitlines knows ends a line",
        ),
    ],
)
def test_bytes_are_cut_into_lines(pieces: list[bytes], expected: list[bytes]) -> None:
    assert _lines(*pieces) == expected


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", "\u2028".encode(), b"data: x"])))
def test_lines_do_not_depend_on_the_pieces(pieces: list[bytes]) -> None:
    assert _lines(*pieces) == _lines(b"".join(pieces))


def test_a_line_that_never_ends_is_given_up() -> None:
    splitter = LineSplitter(limit=4)
    assert splitter.feed(b"abcd\nabcd") == [b"abcd"]
    with pytest.raises(Garbled, match="more than 4 bytes"):
        splitter.feed(b"e")


def test_the_limit_is_one_lines_and_not_the_streams() -> None:
    splitter = LineSplitter(limit=4)
    for _ in range(5):
        assert splitter.feed(b"abc") == []
        assert splitter.feed(b"d\n") == [b"abcd"]
    assert splitter.close() == []


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(b"data: a\n\n", [(b"", b"a")], id="A blank line ends an event"),
        pytest.param(b"data:a\n\n", [(b"", b"a")], id="No space is needed after the colon"),
        pytest.param(b"data:  a \n\n", [(b"", b" a ")], id="Only the first space goes"),
        pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"", b"a"), (b"", b"b")], id="CRLF ends lines too"),
        pytest.param(b"data: a\ndata: b\ndata:\n\n", [(b"", b"a\nb\n")], id="Several data lines are one event"),
        pytest.param(b"event: error\ndata: a\n\n", [(b"error", b"a")], id="An event may have a name"),
        pytest.param(
            b"data: a\nevent:error \n\ndata: b\n\n", [(b"error", b"a"), (b"", b"b")], id="Its name is its own"
        ),
        pytest.param(b"event: ping\n\ndata: a\n\n", [(b"", b"a")], id="A name without data is no event"),
        pytest.param(b": keep-alive\n\n:\n\ndata: a\n\n", [(b"", b"a")], id="Comments are no events"),
        pytest.param(b"data: a\n: hush\ndata: b\n\n", [(b"", b"a\nb")], id="A comment amid an event is none of it"),
        pytest.param(b"id: 7\nretry: 9\ndatax: no\ndata: a\n\n", [(b"", b"a")], id="Other fields are passed over"),
        pytest.param(b"\n\n\ndata: a\n\n\n\n", [(b"", b"a")], id="More blank lines than needed are nothing"),
        pytest.param(b"data: a\n\ndata: b\n", [(b"", b"a"), (b"", b"b")], id="The last blank line may be missing"),
        pytest.param(b"data: a\n\ndata: b", [(b"", b"a"), (b"", b"b")], id="The last newline may be missing too"),
        pytest.param(b"data: a\r\n\r", [(b"", b"a")], id="The last newline may be cut in half"),
        pytest.param("data: a\u2028b\n\n".encode(), [(b"", "a\u2028b".encode())], id="A line separator ends no line"),
        pytest.param(b"event: error", [], id="A name at the very end is no event"),
    ],
)
def test_server_sent_events_are_read(stream: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    wanted = [Event(*pair) for pair in expected]
    assert _events(stream) == wanted
    assert _events(*(stream[at : at + 1] for at in range(len(stream)))) == wanted


def test_events_come_as_soon_as_they_are_complete() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\ndata: b") == [Event(b"", b"a")]
    assert decoder.close() == [Event(b"", b"b")]
    assert decoder.close() == []


def test_an_event_that_never_ends_is_given_up() -> None:
    with pytest.raises(Garbled):
        SseDecoder(limit=10).feed(b"data: much too long")


def test_a_comment_is_no_event_to_whoever_reads_it() -> None:
    assert comment(b"waiting") == b": waiting\n\n"
    assert _events(b"data: a\n\n" + comment(b"waiting")) == [Event(b"", b"a")]


def test_objects_come_line_by_line() -> None:
    decoder = NdjsonDecoder()
    assert decoder.feed(b'{"a":1}\n\n \t\r\n{"b":') == [{"a": 1}]
    assert decoder.feed(b"2}\r\n") == [{"b": 2}]
    assert decoder.feed(b'{"c":3}') == []
    assert decoder.close() == [{"c": 3}]
    assert decoder.close() == []


def test_a_bad_line_stands_in_its_place_among_the_good_ones() -> None:
    first, bad, last = NdjsonDecoder().feed(b'{"a":1}\nnonsense\n{"b":2}\n')
    assert (first, last) == ({"a": 1}, {"b": 2})
    assert isinstance(bad, Garbled)


def test_an_object_that_never_ends_is_given_up() -> None:
    with pytest.raises(Garbled):
        NdjsonDecoder(limit=10).feed(b'{"a": "much too long"}')


@pytest.mark.parametrize(
    "text", [b"", b"{", b"nonsense", b'{"a":NaN}', b'{"a":"\\ud800"}', b'{"a":"\xff"}', b"[1]", b"null"]
)
def test_what_is_no_object_is_garbled(text: bytes) -> None:
    assert isinstance(json_object(text), Garbled)
