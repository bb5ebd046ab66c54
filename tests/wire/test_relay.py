"""Replies that are passed on, and transcripts that are written here: whole, in events, cut, or no answer at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent, TranscriptionVerbose
from openai.types.audio.transcription import Transcription

from tests.wire.forms import WAV, read, recording
from wire.answer import Opening, Streamed, Whole
from wire.dialects import DIALECTS, Facets
from wire.errors import DONE, ContextTooLong, Cut, Fault, Garbled, UpstreamFault, fault_frame
from wire.media import MediaRequest, check_images, check_speech, check_transcription, check_translation
from wire.openai import FINISHED, Delta, Finished, Reading, Usage, usage_object
from wire.relay import MAX_SHORT, RelayedReply
from wire.surfaces import IMAGES, SPEECH, TRANSCRIPTION, TRANSLATION, Surface

EVENTS = "text/event-stream; charset=utf-8"
JSON = "application/json"
DELTA = b'data: {"type":"transcript.text.delta","delta":"Hel"}\n\n'
DONE_EVENT = (
    b'data: {"type":"transcript.text.done","text":"Hello","usage":{"type":"tokens","input_tokens":14,'
    b'"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":45,"total_tokens":59}}\n\n'
)


def readings(content_type: str, *pieces: bytes, whole: bool = False) -> list[Reading]:
    reply = RelayedReply(content_type, whole=whole)
    return [reading for piece in pieces for reading in reply.feed(piece)] + reply.close()


def raw(found: Iterable[Reading]) -> bytes:
    return b"".join(reading.delta["raw"] for reading in found if isinstance(reading, Delta))


def usages(found: Iterable[Reading]) -> list[dict[str, Any]]:
    return [reading.usage for reading in found if isinstance(reading, Usage)]


def fault(found: list[Reading]) -> Fault:
    assert isinstance(found[-1], Fault)
    return found[-1]


# -- the reading


def test_sound_passes_byte_for_byte_as_it_comes() -> None:
    reply = RelayedReply("audio/mpeg", whole=False)
    assert reply.feed(b"\xff\xfb") == [Delta({"raw": b"\xff\xfb"})]
    assert reply.feed(b"") == []
    assert reply.feed(b'\n\n"error"') == [Delta({"raw": b'\n\n"error"'})]
    assert reply.close() == [FINISHED]
    assert reply.close() == reply.feed(b"x") == []


STREAM = b": comment\n\n" + DELTA + b"event: x\r\ndata: 1\r\n\r\n" + DONE_EVENT


def test_of_events_only_whole_ones_pass() -> None:
    reply = RelayedReply(EVENTS, whole=False)
    assert reply.feed(DELTA[:20]) == []
    assert reply.feed(DELTA[20:] + DELTA[:5]) == [Delta({"raw": DELTA})]
    assert reply.feed(b"") == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_whatever_pieces_they_come_in(size: int) -> None:
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    found = readings(EVENTS, *pieces)
    assert raw(found) == STREAM
    assert found[-2:] == [Usage(usage_object(14, 45)), FINISHED]
    for reading in found:
        assert not isinstance(reading, Delta) or reading.delta["raw"].endswith((b"\n\n", b"\n\r\n"))


def test_a_last_event_without_its_blank_line_gets_one() -> None:
    assert raw(readings(EVENTS, DELTA, b"data: 1\n")) == DELTA + b"data: 1\n\n\n"


def test_a_short_json_is_held_until_it_is_known_to_be_no_error() -> None:
    reply = RelayedReply(JSON, whole=False)
    assert reply.feed(b'{"text":') == []
    assert reply.feed(b'"x"}') == []
    assert reply.close() == [Delta({"raw": b'{"text":"x"}'}), FINISHED]


def test_a_long_json_passes_as_it_comes() -> None:
    reply = RelayedReply(JSON, whole=True)
    start = b'{"error":{"message":"' + b"x" * MAX_SHORT
    assert reply.feed(start) == [Delta({"raw": start})]
    end = b'"},"usage":{"prompt_tokens":7}}'
    assert reply.feed(end) == [Delta({"raw": end}), Usage(usage_object(7, 0))]
    assert reply.close() == [FINISHED]


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (b'{"text":"x","usage":{"input_tokens":1,"output_tokens":2}}', usage_object(1, 2)),
        (b'{"text":"x","usage" : {"prompt_tokens":3,"completion_tokens":4}, "b": 1}', usage_object(3, 4)),
        (b'{"text":"x","usage":{"output_tokens":2}}', usage_object(0, 2)),
        (b'{"text":"x","usage":{"type":"duration","seconds":9}}', None),
        (b'{"text":"\\"usage\\":{\\"input_tokens\\":1}"}', None),
        (b'{"text":"usage","usage":null}', None),
        (b'{"text":"x","usage":{"input_tokens":', None),
    ],
)
def test_the_usage_is_read_where_the_reply_has_one(tail: bytes, usage: dict[str, int] | None) -> None:
    for start in (b"", b" " * 3000, b" " * 5000):
        found = readings(JSON, start[:4000], start[4000:], tail)
        assert usages(found) == ([usage] if usage else [])
        assert isinstance(found[-1], Finished)


COUNTED = b'"usage":{"input_tokens":7,"output_tokens":100,"input_tokens_details":{"text_tokens":7}}'
LONG = b'"data":[{"b64_json":"' + b"A" * (2 * MAX_SHORT) + b'"}]'


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000, 1_000_000])
@pytest.mark.parametrize(
    "body",
    [
        b'{"created":1,' + COUNTED + b"," + LONG + b"}",
        b'{"created":1,' + LONG + b"," + COUNTED + b"}",
        b'\n {"a":"\\\\","b\\"c":[1,{"d":"]}"}], "usage" :\n' + COUNTED[8:] + b" ," + LONG + b', "usage": null}\n',
    ],
    ids=["before it", "after it", "between things that look like an end"],
)
def test_of_a_large_answer_the_usage_is_read_wherever_it_stands(body: bytes, size: int) -> None:
    found = readings(JSON, *(body[at : at + size] for at in range(0, len(body), size)), whole=True)
    assert raw(found) == body
    assert usages(found) == [usage_object(7, 100)]
    assert found[-1] == FINISHED


def test_what_a_server_counted_before_its_large_answer_broke_off_is_known() -> None:
    reply = RelayedReply(JSON, whole=True)
    assert usages(reply.feed(b"{" + COUNTED + b"," + LONG[:-10])) == [usage_object(7, 100)]


SPOKEN = b'he said "usage": {"input_tokens": 900000000, "output_tokens": 5} and left'
QUOTED = orjson.dumps(SPOKEN.decode())


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain; charset=utf-8", SPOKEN),
        ("text/plain", b'{"text":"x",' + COUNTED + b"}"),
        ("application/x-subrip", b"1\n00:00:00,000 --> 00:00:01,000\n" + SPOKEN),
        ("audio/mpeg", SPOKEN),
        ("", SPOKEN),
        (JSON, SPOKEN),
        (JSON, b"[{" + COUNTED + b"}]"),
        (JSON, b'"' + SPOKEN + b'"'),
        (JSON, b'{"text":' + QUOTED + b"}"),
        (JSON, b'{"text":"' + SPOKEN + b'", "b": 1}'),  # a server that does not escape
        (JSON, b'{"text":"\\\\\\"' + QUOTED[1:] + b"}"),
        (JSON, b'{"text":"usage","usage":' + QUOTED + b"}"),
        (JSON, b'{"text":"usage","usage":[{"input_tokens":9}]}'),
        (JSON, b'{"duration":1.5,"text":"x","words":[{"word":"x",' + COUNTED + b'}],"segments":[{"text":' + QUOTED + b"}]}"),
        (JSON, b'{"x":{' + COUNTED + b'},"us":{"age":{"usage":{"input_tokens":1}}}}'),
        (JSON, b'{"\\"usage":{"input_tokens":1},"usage\\"":{"input_tokens":1}}'),
        (EVENTS, b"data: " + SPOKEN + b"\n\n"),
        (EVENTS, b"data: x\ndata: " + COUNTED + b"\n\n"),
        (EVENTS, b": {" + COUNTED + b"}\n\nevent: {" + COUNTED + b"}\ndata: 1\n\n"),
        (EVENTS, b'data: {"type":"transcript.text.delta","delta":' + QUOTED + b"}\n\n"),
        (EVENTS, b'data: {"type":"transcript.text.done","text":' + QUOTED + b',"logprobs":[{' + COUNTED + b"}]}\n\n"),
        (EVENTS, b'data: {"type":"transcript.text.done","text":' + QUOTED + b"}"),
        (EVENTS, b'data: {"type":"transcript.text.done","text":"x","usage":{"type":"duration","seconds":9}}\n\n'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_words_are_not_taken_for_a_usage(content_type: str, body: bytes, long: bool) -> None:
    if long:  # then it is not held, and parsed as it passes
        body = b" " * (MAX_SHORT + 1) + body if content_type == JSON else body + b"\n\n" + DELTA * 2000
    for size in (len(body), 1000, 1 if not long else 3001):
        found = readings(content_type, *(body[at : at + size] for at in range(0, len(body), size)))
        assert usages(found) == []
        assert raw(found).startswith(body)
        assert found[-1] == FINISHED


def test_what_is_no_json_has_no_usage() -> None:
    sloppy = b'{"text":"he said ", "usage": {"input_tokens": 900000000}, "and left"}'
    assert usages(readings(JSON, sloppy)) == usages(readings(EVENTS, b"data: " + sloppy + b"\n\n")) == []


def test_of_several_events_the_last_that_counts_is_believed() -> None:
    first = b'data: {"type":"x","usage":{"input_tokens":1,"output_tokens":1}}\n\n'
    other = b'data: {"type":"y","text":' + QUOTED + b',"usage":null}\n\n'
    for pieces in ([first + DONE_EVENT + other], [first, DONE_EVENT, other]):
        assert usages(readings(EVENTS, *pieces))[-1] == usage_object(14, 45)


def test_an_event_with_a_large_image_has_its_usage_read() -> None:
    event = b'data: {"type":"image_generation.completed",' + COUNTED + b',"b64_json":"' + b"A" * 20_000_000 + b'"}\n\n'
    found = readings(EVENTS, event)
    assert usages(found) == [usage_object(7, 100)]
    assert raw(found) == event


@pytest.mark.parametrize(
    ("content_type", "body", "says"),
    [
        (JSON, b'{"error":{"message":"no voice"}}', "internal error"),
        (JSON, b'{"error":{"message":"model x not found","code":404}}', "model x not found"),
        ("application/problem+json", b'{"error":"out of memory"}', "internal error"),
        (EVENTS, b'data: {"error":{"message":"model x not found","code":404}}\n\n', "model x not found"),
        (
            EVENTS,
            DELTA + b'event: error\ndata: {"type":"error","message":"model x not found","code":404}\n\n',
            "not found",
        ),
        (EVENTS, b'data: {"error":{"message":"model x not found","code":404}}', "model x not found"),
    ],
)
def test_an_error_with_status_200_is_a_failure(content_type: str, body: bytes, says: str) -> None:
    for pieces in ([body], [body[:9], body[9:]]):
        found = fault(readings(content_type, *pieces))
        assert isinstance(found, UpstreamFault)
        assert says in found.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"text":"he said \\"error\\": x"}',
        b'{"error":null,"text":"x"}',
        b'{"a":{"error":"x"}}',
        b'{"error":',
    ],
)
def test_what_only_looks_like_an_error_passes(body: bytes) -> None:
    assert raw(readings(JSON, body)) == body
    event = b"data: " + body + b"\n\n"
    assert raw(readings(EVENTS, event)) == event


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/xhtml+xml"])
def test_a_web_page_is_no_answer(content_type: str) -> None:
    assert isinstance(fault(readings(content_type, b"<html>")), Garbled)


@pytest.mark.parametrize("content_type", ["audio/mpeg", JSON, EVENTS, ""])
def test_an_empty_answer_is_a_cut(content_type: str) -> None:
    assert isinstance(fault(readings(content_type)), Cut)


def test_an_empty_text_is_what_silence_sounds_like() -> None:
    assert readings("text/plain; charset=utf-8") == [FINISHED]


def test_an_answer_that_never_ends_is_given_up_where_it_is_held() -> None:
    held = RelayedReply(JSON, whole=True, limit=8)
    assert held.feed(b"12345678") == []
    assert isinstance(held.feed(b"9")[0], Garbled)
    assert held.feed(b"0") == held.close() == []
    events = RelayedReply(EVENTS, whole=False, limit=8, event_limit=8)
    assert events.feed(b"1\n\n2\n\n3\n\n") == [Delta({"raw": b"1\n\n2\n\n3\n\n"})]
    assert isinstance(events.feed(b"123456789")[0], Garbled)
    sound = RelayedReply("audio/wav", whole=False, limit=8)
    assert raw(sound.feed(b"123456789")) == b"123456789"


# -- the answers


def opening(request: MediaRequest) -> Opening:
    return Opening("id", 1_800_000_000, "m", request)


SPEAK = check_speech({"model": "m", "input": "x", "voice": "v"})
SPEAK_EVENTS = check_speech({"model": "m", "input": "x", "voice": "v", "stream_format": "sse"})
PAINT = check_images({"model": "m", "prompt": "x"})


def test_a_relayed_stream_has_the_upstreams_bytes_and_type() -> None:
    answer = SPEECH.streamed(opening(SPEAK))
    answer.replied("audio/mpeg")
    assert answer.content_type == "audio/mpeg"
    assert answer.write([Delta({"raw": b"a"}), Delta({"raw": b"b"})]) == b"ab"
    assert not answer.done
    assert not answer.complete
    assert answer.said.other  # nobody can go on from there
    assert answer.write([Usage(usage_object(1, 2)), FINISHED, Delta({"raw": b"c"})]) == b""
    assert answer.done
    assert answer.usage == usage_object(1, 2)
    assert not answer.shown


def test_sound_has_no_last_words_and_events_have() -> None:
    cut = Cut("x")
    sound, events = SPEECH.streamed(opening(SPEAK)), SPEECH.streamed(opening(SPEAK_EVENTS))
    events.replied(EVENTS)
    assert sound.write([Delta({"raw": b"a"}), cut]) == b"a"
    assert events.write([Delta({"raw": b"a"}), cut]) == b"a" + fault_frame(cut)
    assert sound.done
    assert events.done


def test_sound_in_place_of_events_has_no_last_words_either() -> None:
    answer = SPEECH.streamed(opening(SPEAK_EVENTS))
    assert not answer.binary
    answer.replied("audio/mpeg")
    assert answer.binary
    assert answer.write([Delta({"raw": b"a"}), Cut("x")]) == b"a"


def test_a_reply_without_a_type_is_bytes() -> None:
    answer = SPEECH.streamed(opening(SPEAK))
    for content_type in ("", "audio/mpeg\r\n x-evil: 1", "audio/m\u00fcsik"):
        answer.replied(content_type)
        assert answer.content_type == "application/octet-stream"


def test_a_relayed_whole_goes_out_when_it_is_complete() -> None:
    answer = IMAGES.whole(opening(PAINT))
    answer.replied("application/json; charset=utf-8")
    assert answer.write([Delta({"raw": b"{"}), Usage(usage_object(1, 2))]) == b""
    assert not answer.complete
    assert answer.write([Delta({"raw": b"}"}), FINISHED, Delta({"raw": b"x"})]) == b"{}"
    assert answer.write([Delta({"raw": b"x"})]) == b""
    assert (answer.done, answer.usage, answer.content_type) == (
        True,
        usage_object(1, 2),
        "application/json; charset=utf-8",
    )
    with pytest.raises(Cut):
        IMAGES.whole(opening(PAINT)).write([Cut("x")])


HEARD = (
    b'{"message":{"role":"assistant","content":" Hel"},"done":false}\n'
    b'{"message":{"role":"assistant","thinking":"hm"},"done":false}\n'
    b'{"message":{"role":"assistant","content":"lo."},"done":false}\n'
    b'{"message":{"role":"assistant","content":" "},"done":false}\n'
    b'{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":20,'
    b'"eval_count":3}\n'
)


def heard(request: MediaRequest, body: bytes = HEARD) -> list[Reading]:
    reply = DIALECTS["ollama"].operations[request.operation].read(lambda: "id", "", Facets(), request)
    return reply.feed(body) + reply.close()


def transcript(surface: Surface = TRANSCRIPTION, **fields: str) -> tuple[Whole, bytes]:
    check = check_translation if surface is TRANSLATION else check_transcription
    request = check(read(recording(WAV, **fields)))
    answer = surface.whole(opening(request))
    return answer, answer.write(heard(request))


def test_what_a_local_model_heard_is_written_as_openai_writes_it() -> None:
    answer, data = transcript()
    assert orjson.loads(data) == {
        "text": "Hello.",
        "usage": {"type": "tokens", "input_tokens": 20, "output_tokens": 3, "total_tokens": 23},
    }
    Transcription.model_validate_json(data, strict=True)
    assert answer.content_type == "application/json"
    assert answer.usage is not None
    assert answer.usage["total_tokens"] == 23
    assert answer.shown


def test_as_text_it_is_text() -> None:
    answer, data = transcript(response_format="text")
    assert data == b"Hello.\n"
    assert answer.content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("surface", "fields", "expected"),
    [
        (TRANSCRIPTION, {}, {"task": "transcribe", "language": "unknown"}),
        (TRANSCRIPTION, {"language": "nl"}, {"task": "transcribe", "language": "nl"}),
        (TRANSLATION, {}, {"task": "translate", "language": "english"}),
    ],
)
def test_in_full_it_says_how_long_the_recording_is(
    surface: Surface, fields: dict[str, str], expected: dict[str, Any]
) -> None:
    _, data = transcript(surface, response_format="verbose_json", **fields)
    assert orjson.loads(data) == {**expected, "duration": 1.0, "text": "Hello."}
    TranscriptionVerbose.model_validate_json(data, strict=True)


def test_silence_is_an_empty_transcript_without_counts() -> None:
    request = check_transcription(read(recording()))
    assert TRANSCRIPTION.whole(opening(request)).write([FINISHED]) == b'{"text":""}'


def test_a_streamed_transcript_is_openais_events() -> None:
    request = check_transcription(read(recording(stream="true")))
    answer = TRANSCRIPTION.streamed(opening(request))
    data = answer.write(heard(request))
    events = [orjson.loads(event.removeprefix(b"data: ")) for event in data.split(b"\n\n") if event]
    deltas = [TranscriptionTextDeltaEvent.model_validate(event, strict=True) for event in events[:-1]]
    last = TranscriptionTextDoneEvent.model_validate(events[-1], strict=True)
    assert [delta.delta for delta in deltas] == ["Hel", "lo."]
    assert last.text == "Hello."
    assert last.usage is not None
    assert last.usage.total_tokens == 23
    assert answer.done


def test_a_streamed_transcript_that_breaks_off_says_so() -> None:
    request = check_transcription(read(recording(stream="true")))
    answer = TRANSCRIPTION.streamed(opening(request))
    data = answer.write(heard(request, HEARD[:100]))
    assert data.endswith(DONE)
    assert b'"upstream_cut"' in data
    assert b"transcript.text.done" not in data


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_transcript_of_a_server_that_writes_it_itself_is_passed_on(stream: str) -> None:
    request = check_transcription(read(recording(stream=stream)))
    answer: Streamed | Whole
    if request.stream:
        answer, body, kind = TRANSCRIPTION.streamed(opening(request)), STREAM, EVENTS
    else:
        answer, body, kind = TRANSCRIPTION.whole(opening(request)), b"1\n00:00 --> 00:01\nHello\n", "text/plain"
    answer.replied(kind)
    reply = DIALECTS["openai"].operations["transcription"].read(lambda: "id", kind, Facets(), request)
    assert answer.write(reply.feed(body)) + answer.write(reply.close()) == body
    assert answer.content_type == kind


def test_a_transcript_that_ended_for_want_of_room_is_none() -> None:
    request = check_transcription(read(recording()))
    found = heard(request, HEARD.replace(b'"stop"', b'"length"'))
    assert isinstance(found[-1], ContextTooLong)
    assert found[-1].param == "file"
    assert not any(isinstance(reading, Finished) for reading in found)
