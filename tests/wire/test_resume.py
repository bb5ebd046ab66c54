"""An answer that broke off goes on: which may, how another target is asked, and what of its reply is passed on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from wire.check_chat import check_chat
from wire.errors import Cut, Fault, NotContinued
from wire.openai import FINISHED, Delta, Json, Prefill, Reading, Usage, usage_object
from wire.resume import SAME_BY_CHANCE, SHORT, Joint, Said, continued, why_not

WORDS = ["amber", "birch", "copper", "delta", "ember", "fjord", "garnet", "harbor", "iris", "juniper", "kelp", "lagoon"]
ANSWER = "  The tide rose slowly over the stones. Nobody saw it come, and by noon the path was gone.\n"
STARTED_OVER = "started its answer over and said something else"


def _text(*pieces: str) -> list[Reading]:
    return [Delta({"content": piece}) for piece in pieces]


def _thought(*pieces: str) -> list[Reading]:
    return [Delta({"reasoning_content": piece}) for piece in pieces]


def _end(prompt: int = 20, completion: int = 7) -> list[Reading]:
    return [Delta({}, "stop"), Usage(usage_object(prompt, completion)), FINISHED]


def _joined(
    readings: list[Reading], text: str = "", reasoning: str = "", *, tokens: int = 5, trusted: bool = False
) -> list[Reading]:
    """What passes of readings that come one by one."""
    joint = Joint(text, reasoning, tokens, trusted=trusted)
    return [passed for reading in readings for passed in joint.read([reading])]


def _seen(readings: list[Reading], key: str = "content") -> str:
    return "".join(reading.delta.get(key, "") for reading in readings if isinstance(reading, Delta))


def _fault(readings: list[Reading]) -> Fault | None:
    """The fault that ends them, if there is one: nothing may follow it."""
    faults = [reading for reading in readings if isinstance(reading, Fault)]
    assert not faults or (len(faults) == 1 and readings[-1] is faults[0])
    return faults[0] if faults else None


def _pieces(text: str, chance: random.Random) -> list[str]:
    cuts = sorted(chance.randint(0, len(text)) for _ in range(chance.randint(0, 12)))
    edges = [0, *cuts, len(text)]
    return [text[start:end] for start, end in pairwise(edges) if start < end]


def _splits(text: str, chance: random.Random) -> Iterator[list[str]]:
    """Whole, by characters, cut in two at each place, and in some pieces by chance."""
    yield [text]
    yield list(text)
    for cut in range(1, len(text)):
        yield [text[:cut], text[cut:]]
    for _ in range(10):
        yield _pieces(text, chance)


# -- whether, and how it is asked


def _request(**fields: Any) -> Any:
    return check_chat({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


@pytest.mark.parametrize(
    ("fields", "deltas", "reason"),
    [
        pytest.param({}, [], None, id="Nothing was said"),
        pytest.param({}, [{"content": "a"}], None, id="Text goes on"),
        pytest.param({}, [{"reasoning_content": "a"}], None, id="Reasoning may begin anew"),
        pytest.param({"n": 1, "tools": []}, [{"content": "a"}], None, id="One choice is the usual"),
        pytest.param({"n": None}, [{"content": "a"}], None, id="A number of choices that is null is one"),
        pytest.param(
            {}, [{"content": "a"}, {"tool_calls": [{"index": 0}]}], "a tool call was under way", id="A tool call"
        ),
        pytest.param({}, [{"refusal": "No"}], "it held more than text", id="A refusal"),
        pytest.param({}, [{"content": "a", "audio": {}}], "it held more than text", id="Audio beside text"),
        pytest.param({"n": 2}, [{"content": "a"}], "several choices were asked for", id="Several choices"),
        pytest.param(
            {"response_format": {"type": "json_object"}},
            [{"content": '{"a'}],
            "JSON was asked for, and a part of it was sent",
            id="A part of an object",
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            [{"content": " ["}],
            "JSON was asked for, and a part of it was sent",
            id="A part of a document with a schema",
        ),
        pytest.param(
            {"response_format": {"type": "json_object"}},
            [{"reasoning_content": "hm"}, {"content": "\n "}],
            None,
            id="Reasoning and blanks are no part of a JSON document",
        ),
    ],
)
def test_an_answer_may_be_continued_or_there_is_a_reason(fields: Json, deltas: list[Json], reason: str | None) -> None:
    said = Said()
    for delta in deltas:
        said.add(delta)
    assert why_not(_request(**fields), said) == reason


def test_an_answer_of_several_choices_is_not_continued() -> None:
    assert why_not(_request(), Said(content=["a"], choices=True)) == "several choices were asked for"


def test_what_was_said_is_kept_by_its_sort_and_counted_by_its_pieces() -> None:
    said = Said()
    for delta in ({"reasoning_content": "h"}, {"reasoning_content": "m"}, {"content": "a"}, {"content": "b c"}):
        said.add(delta)
    assert (said.content, said.reasoning, said.text, said.tokens) == (["a", "b c"], ["h", "m"], "ab c", 4)
    assert (said.calls, said.choices, said.other) == (False, False, False)


def test_the_next_target_is_asked_to_go_on_from_the_text_so_far() -> None:
    request = _request(max_tokens=9)
    asked = continued(request, Said(content=["Hello", " the"], reasoning=["hm"]))
    assert asked == replace(request, prefill=Prefill("Hello the", 3))
    assert request.prefill is None


@pytest.mark.parametrize("content", [[], ["\n", "  "]])
def test_the_next_target_is_asked_from_the_start_where_no_text_was_said(content: list[str]) -> None:
    request = _request()
    assert continued(request, Said(content=content, reasoning=["hm"])) is request


def test_an_answer_that_breaks_off_twice_goes_on_from_all_of_it() -> None:
    said = Said(content=["Hello"])
    request = _request()
    first = continued(request, said)
    said.add({"content": " the"})
    assert continued(first, said).prefill == Prefill("Hello the", 2)


# -- text


@pytest.mark.parametrize("trusted", [False, True])
def test_text_that_goes_on_passes_at_once_and_unchanged(trusted: bool) -> None:
    joint = Joint("Hello the", "", 2, trusted=trusted)
    first, second = Delta({"content": "re, "}, None, 0, {"content": []}), Delta({"content": "Ann."})
    (passed,) = joint.read([first])
    assert passed is first
    (passed,) = joint.read([second])
    assert passed is second
    assert [type(reading) for reading in joint.read(_end())] == [Delta, Usage, type(FINISHED)]


ROWS = [
    # (what it is, what was said, what comes, what passes; None: it fails)
    ("It starts over at once", "Hello the", ["Hello there"], "re"),
    ("It starts over in pieces", "Hello the", ["Hel", "lo", " there"], "re"),
    ("It starts over and the pieces end where ours did", "Hello the", ["Hello", " the", "re"], "re"),
    ("It repeats all and has no more to say", "Hello the", ["Hello", " the"], ""),
    ("It starts over without our leading blanks", "\n\n Hello the", ["Hello there"], "re"),
    ("It starts over with leading blanks of its own", "Hello the", [" ", "\n", "Hello there"], "re"),
    ("It goes on", "Hello the", ["re"], "re"),
    ("It goes on with the letter that we began with", "hello the", ["h", "i"], "hi"),
    ("It goes on with the word that we began with", "Hello the", [" Hello", " again"], " Hello again"),
    ("It goes on with blanks", "Hello the", [" ", "\n", "end"], " \nend"),
    ("It says nothing but blanks", "Hello the", [" ", "\n"], " \n"),
    ("It says nothing", "Hello the", [], ""),
    ("It says what we began with and ends", "hello the", ["hello"], "hello"),
    ("It begins alike for fifteen characters", "abcdefghijklmnopqrst", ["abcdefghijklmno!"], "abcdefghijklmno!"),
    ("It begins alike for fifteen characters and ends", "abcdefghijklmnopqrst", ["abcdefghijklmno"], "abcdefghijklmno"),
    ("It begins alike for sixteen characters", "abcdefghijklmnopqrst", ["abcdefghijklmnop!"], None),
    ("It begins alike for sixteen characters and ends", "abcdefghijklmnopqrst", ["abcdefghijklmnop"], None),
    (
        "It begins alike for sixteen characters and says more",
        "abcdefghijklmnopqrst",
        ["abcdefgh", "ijklmnop", "! And so on, at length"],
        None,
    ),
    (
        "What differs may be longer than all that was said",
        "abcdefghijklmnopqrst",
        ["abcdefghijklmnopqrs! And so on, at length"],
        None,
    ),
]


@pytest.mark.parametrize(("said", "pieces", "passes"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_what_a_target_says_again_is_left_out(said: str, pieces: list[str], passes: str | None) -> None:
    out = _joined(_text(*pieces) + _end(), said)
    fault = _fault(out)
    if passes is None:
        assert isinstance(fault, NotContinued)
        assert fault.message == STARTED_OVER
        assert _seen(out) == ""
    else:
        assert fault is None
        assert _seen(out) == passes
        assert [reading for reading in out if isinstance(reading, Delta)][-1] == Delta({}, "stop")
        assert out[-1] is FINISHED


@pytest.mark.parametrize(
    ("said", "again", "passes"),
    [
        pytest.param("Ha! Ha! Ha!", "Ha! Ha! Ha! Ho!", "Ha! Ha! Ha! Ho!", id="Eleven characters come again by chance"),
        pytest.param("Ha! Ha! Ha! ", "Ha! Ha! Ha! Ho!", "Ha! Ha! Ha! Ho!", id="Blanks around them do not count"),
        pytest.param("Ha! Ha! Haha", "Ha! Ha! Haha! Ho!", "! Ho!", id="Twelve do not"),
    ],
)
def test_a_target_that_promises_to_go_on_may_repeat_what_is_short(said: str, again: str, passes: str) -> None:
    assert len(said.strip()) in (SHORT - 1, SHORT)
    for pieces in ([again], list(again)):
        assert _seen(_joined(_text(*pieces) + _end(), said, trusted=True)) == passes
        assert _seen(_joined(_text(*pieces) + _end(), said)) == again.removeprefix(said)


def test_a_promise_does_not_help_a_target_that_broke_it() -> None:
    out = _joined(_text("The tide rose slowly and then"), ANSWER[:40], trusted=True)
    assert isinstance(_fault(out), NotContinued)


@pytest.mark.parametrize("trusted", [False, True])
def test_whatever_the_pieces_an_answer_that_goes_on_or_starts_over_is_whole(trusted: bool) -> None:
    chance = random.Random(1)
    for cut in range(len(ANSWER) - len(ANSWER.lstrip()) + 1, len(ANSWER)):
        said, rest = ANSWER[:cut], ANSWER[cut:]
        may_start_over = not trusted or len(said.strip()) >= SHORT
        for reply in (rest, ANSWER, ANSWER.lstrip()) if may_start_over else (rest,):
            for pieces in _splits(reply, chance):
                out = _joined(_text(*pieces) + _end(), said, trusted=trusted)
                assert _fault(out) is None
                assert said + _seen(out) == ANSWER


def test_whatever_the_pieces_the_same_text_passes_or_the_same_fault() -> None:
    chance = random.Random(2)
    outcomes = set()
    for _ in range(1500):
        said = "".join(chance.choices("ab ", k=chance.randint(1, 40)))
        again = said[: chance.randint(0, len(said))] + "".join(chance.choices("ab ", k=chance.randint(0, 30)))
        reasoning, trusted = chance.choice(["", "ab"]), chance.random() < 0.5
        results = set()
        for _ in range(8):
            pieces = _pieces(again, chance)
            out = _joined(_text(*pieces) + _end(), said, reasoning, trusted=trusted)
            results.add((_seen(out), _fault(out) is None, repr([r for r in out if isinstance(r, Usage)])))
        assert len(results) == 1
        ((seen, fine, _),) = results
        outcomes.add("failed" if not fine else "on" if seen == again else "over")
        assert again.endswith(seen)
    assert outcomes == {"failed", "on", "over"}


def test_answers_of_many_words_are_never_doubled_nor_cut() -> None:
    chance = random.Random(3)
    for _ in range(400):
        words = chance.sample(WORDS, k=chance.randint(6, len(WORDS)))
        answer = " ".join(words)
        cut = chance.randint(1, len(answer) - 1)
        goes_on, trusted = chance.random() < 0.5, chance.random() < 0.5
        if not goes_on and trusted and len(answer[:cut].strip()) < SHORT:
            continue
        out = _joined(
            _text(*_pieces(answer[cut:] if goes_on else answer, chance)) + _end(), answer[:cut], trusted=trusted
        )
        assert _fault(out) is None
        assert answer[:cut] + _seen(out) == answer


def test_a_target_that_says_something_else_never_adds_to_a_begun_answer() -> None:
    chance = random.Random(4)
    for _ in range(400):
        words = chance.sample(WORDS, k=10)
        said = " ".join(words)
        kept = chance.randint(SAME_BY_CHANCE, len(said) - 1)
        other = said[:kept] + "#" + " ".join(chance.sample(WORDS, k=5))
        out = _joined(_text(*_pieces(other, chance)) + _end(), said, trusted=chance.random() < 0.5)
        assert isinstance(_fault(out), NotContinued)
        assert _seen(out) == ""


def test_an_answer_may_go_on_more_than_once() -> None:
    chance = random.Random(5)
    for _ in range(300):
        said = Said(content=[ANSWER[: chance.randint(5, 40)]])
        for _ in range(3):
            end = chance.randint(len(said.text), len(ANSWER))
            reply = ANSWER[:end] if chance.random() < 0.5 else ANSWER[len(said.text) : end]
            joint = Joint(said.text, "", said.tokens, trusted=False)
            for reading in joint.read([*_text(*_pieces(reply, chance)), Cut("stopped")]):
                if isinstance(reading, Delta):
                    said.add(reading.delta)
            assert ANSWER[:end].startswith(said.text)
        reply = ANSWER if chance.random() < 0.5 else ANSWER[len(said.text) :]
        out = _joined(_text(*_pieces(reply, chance)) + _end(), said.text, tokens=said.tokens)
        assert _fault(out) is None
        assert said.text + _seen(out) == ANSWER


def test_a_delta_that_is_cut_in_two_loses_its_logprobs_and_keeps_its_end() -> None:
    logprobs = {"content": [{"token": "Hello there", "logprob": -1.0}]}
    joint = Joint("Hello the", "", 2, trusted=False)
    assert joint.read([Delta({"content": "Hello there"}, "length", 0, logprobs)]) == [
        Delta({"content": "re"}, "length", 0, None)
    ]
    kept = Delta({"content": "!"}, None, 0, logprobs)
    assert joint.read([kept]) == [kept]


def test_an_end_that_comes_with_the_last_repeated_word_stays() -> None:
    joint = Joint("Hello the", "", 2, trusted=False)
    assert joint.read([Delta({"content": "Hello the"}, "stop")]) == [Delta({}, "stop")]


def test_an_end_that_comes_with_the_first_words_lets_them_pass() -> None:
    reading = Delta({"content": "hello"}, "stop", 0, {"content": []})
    assert _joined([reading], "hello the") == [reading]


def test_logprobs_without_text_wait_for_their_turn() -> None:
    lone = Delta({}, None, 0, {"content": []})
    on = [*_text("hel"), lone, *_text("p!")]
    assert _joined(on[:2], "hello the") == []
    assert _joined(on, "hello the") == on
    assert _joined([*_text("hel"), lone, *_text("lo there")], "hello the") == _text("re")


def test_another_choice_is_none_of_its_business() -> None:
    other = Delta({"content": "Hello", "reasoning_content": "hm"}, None, 1)
    assert _joined([*_text("Hel"), other], "Hello the") == [other]


@pytest.mark.parametrize("extra", [{"tool_calls": [{"index": 0}]}, {"refusal": "No"}, {"annotations": [1]}])
def test_what_is_no_text_passes_and_settles_what_the_text_was(extra: Json) -> None:
    assert _joined([Delta(extra)], "hello the") == [Delta(extra)]
    assert _joined([*_text("hel"), Delta(extra)], "hello the") == [*_text("hel"), Delta(extra)]
    beside = Delta({"content": "hel"} | extra)
    assert _joined([beside, *_text("lo there")], "hello the") == [beside, *_text("lo there")]
    assert _joined([Delta({"content": "hello there"} | extra)], "hello the") == [Delta({"content": "re"} | extra)]
    (fault,) = _joined([*_text(ANSWER[:30]), Delta(extra), *_end()], ANSWER[:40])
    assert isinstance(fault, NotContinued)


@pytest.mark.parametrize(
    ("said", "new"),
    [
        ("Once upon a time there was", "Sure! Here is a story: Long ago"),
        ("Hello there", "Hello, how can I help?"),
        ("The answer is 4", "The answer to your question is 4."),
        ("It is done.", "It was not done."),
        ("Er kam", "Übrigens"),
    ],
)
def test_a_capital_letter_right_behind_a_word_is_another_answer(said: str, new: str) -> None:
    for pieces in (_text(new), [Delta({"content": letter}) for letter in new]):
        (fault,) = _joined([*pieces, *_end()], said)
        assert isinstance(fault, NotContinued)
    joint = Joint(said, "", 2, trusted=True)
    assert _seen(joint.read([*_text(new), *_end()])) == new, "who promises to go on is believed"


@pytest.mark.parametrize(
    ("said", "new"),
    [
        ("Once upon a time", " There was"),
        ("the New", " York Times"),
        ("a lla", "ma"),
        ("It is 4", "2."),
        ("Done. ", "Now the rest"),
        ("List:\n", "One"),
        ("他说", "你好"),
        ("Well", ", Then"),
    ],
)
def test_what_can_be_the_rest_of_a_sentence_goes_on(said: str, new: str) -> None:
    assert _seen(_joined([*_text(new), *_end()], said)) == new


def test_a_fault_passes_and_what_was_held_is_forgotten() -> None:
    cut = Cut("stopped")
    joint = Joint("Hello the", "", 2, trusted=False)
    assert joint.read([*_text("Hel"), cut]) == [cut]
    assert joint.read([*_text("lo there"), FINISHED]) == []


def test_a_reply_that_only_ends_ends_the_answer() -> None:
    assert _joined([FINISHED], "hello the") == [FINISHED]
    assert _joined([*_text("hel"), FINISHED], "hello the") == [*_text("hel"), FINISHED]
    assert [type(reading) for reading in _joined([*_text(ANSWER[:30]), FINISHED], ANSWER)] == [NotContinued]


# -- blanks


@pytest.mark.parametrize(
    ("said", "pieces", "passes"),
    [
        ("", ["\n", "\nHello"], "\n\nHello"),
        ("\n\n", ["Hello"], "Hello"),
        ("\n\n", ["\n", "\n", "Hello", "\n\n"], "Hello\n\n"),
        ("\n\n", ["\n\nHello\n"], "Hello\n"),
        ("\n", ["\n\nHello"], "\nHello"),
        ("\n\n\n", ["\n", "Hello", "\n"], "Hello\n"),
        ("\n\n", ["\n", "\n", "\n"], "\n"),
    ],
)
@pytest.mark.parametrize("trusted", [False, True])
def test_blanks_alone_are_no_answer_but_do_not_come_twice(
    said: str, pieces: list[str], passes: str, trusted: bool
) -> None:
    assert _seen(_joined(_text(*pieces) + _end(), said, trusted=trusted)) == passes


# -- reasoning


@pytest.mark.parametrize(
    ("said", "pieces", "passes"),
    [
        pytest.param("", ["They greet", " me."], "They greet me.", id="The first thought passes"),
        pytest.param("They", ["They greet", " me."], " greet me.", id="A thought that begins alike goes on"),
        pytest.param("They greet", ["The", "y greet", " me."], " me.", id="So it does in pieces"),
        pytest.param("They greet", [" They greet me."], " me.", id="Leading blanks do not count"),
        pytest.param("They greet", ["They greet"], "", id="A thought that is the same adds nothing"),
        pytest.param("They greet", ["They"], "", id="A shorter one adds nothing"),
        pytest.param("They greet", ["They ask", " me."], "", id="Another one is dropped whole"),
        pytest.param("They greet", ["Hm", "They greet", " me."], "", id="Also where it comes to the same later"),
        pytest.param(" \n", ["Hm"], "Hm", id="Blanks are no thought"),
    ],
)
def test_two_thoughts_are_never_glued_together(said: str, pieces: list[str], passes: str) -> None:
    out = _joined([*_thought(*pieces), *_text("Hello", " there"), *_end()], "", said)
    assert _seen(out, "reasoning_content") == passes
    assert _seen(out) == "Hello there"
    assert out[-1] is FINISHED
    assert all(reading.delta or reading.finish_reason for reading in out if isinstance(reading, Delta))


def test_a_thought_that_goes_on_passes_unchanged_after_the_known_part() -> None:
    rest = Delta({"reasoning_content": " me."}, None, 0, {"reasoning_content": []})
    assert _joined([*_thought("They greet"), rest], "", "They greet") == [rest]


def test_after_the_answers_beginning_reasoning_is_dropped() -> None:
    out = _joined([*_thought("They greet", " me."), *_text("re"), *_end()], "Hello the", "They greet")
    assert out[0] == Delta({"content": "re"})
    assert _seen(out, "reasoning_content") == ""


def test_reasoning_between_repeated_words_is_dropped_too() -> None:
    out = _joined([*_text("Hel"), *_thought("hm"), *_text("lo there")], "Hello the", "")
    assert out == _text("re")


def test_text_beside_reasoning_passes_without_it() -> None:
    both = Delta({"reasoning_content": "hm", "content": "re"}, "stop", 0, {"content": []})
    assert _joined([both], "Hello the") == [Delta({"content": "re"}, "stop", 0, None)]
    assert _joined([both], "", "They") == [Delta({"content": "re"}, "stop", 0, None)]
    assert _joined([both], "", "") == [both]


def test_a_tool_call_after_reasoning_passes() -> None:
    call = Delta({"tool_calls": [{"index": 0, "id": "a"}]})
    assert _joined([*_thought("They greet"), call], "", "They greet me") == [call]


# -- usage


@pytest.mark.parametrize(
    ("name", "said", "readings", "expected"),
    [
        ("went on", "Hello the", _text("re"), (15, 12, 27)),
        ("had nothing to add", "Hello the", [], (15, 12, 27)),
        ("started over", "Hello the", _text("Hello there"), (20, 7, 27)),
        ("was asked from the start", "", _text("Hello there"), (20, 7, 27)),
        ("had blanks before it", "\n", _text("Hello there"), (20, 7, 27)),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_tokens_are_counted_where_the_caller_sees_them(
    name: str, said: str, readings: list[Reading], expected: tuple[int, int, int]
) -> None:
    out = _joined([*readings, *_end()], said, tokens=5)
    (usage,) = [reading.usage for reading in out if isinstance(reading, Usage)]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == expected


def test_no_more_is_moved_than_there_is() -> None:
    out = _joined(_end(3, 7), "Hello the", tokens=5)
    assert Usage(usage_object(0, 10)) in out


def test_usage_that_comes_before_the_way_is_known_waits() -> None:
    early = Usage(usage_object(20, 1) | {"details": {}})
    assert _joined([*_text("hel"), early], "hello the") == []
    assert _joined([*_text("hel"), early, *_text("p!")], "hello the") == [
        *_text("hel"),
        Usage(usage_object(15, 6) | {"details": {}}),
        *_text("p!"),
    ]
    assert _joined([*_text("hel"), early, *_text("lo there")], "hello the") == [early, *_text("re")]
    assert early.usage["prompt_tokens"] == 20
