"""What a person writes becomes seconds, bytes, tuples and predicates."""

from __future__ import annotations

import operator
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from rules.callers import required
from rules.health import DEFAULT_ON, GROUPS, KINDS, WEIGHTS
from rules.schema import (
    Admission,
    Auth,
    BreakerPolicy,
    Defaults,
    Failover,
    Images,
    Limits,
    Model,
    Provider,
    Proxy,
    Rule,
    RulesFile,
    Timeouts,
    When,
)
from rules.terms import Caller, Price
from rules.values import comparison, near

SECRET = "sk-hidden-0123"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("30m", 1800),
        ("1h", 3600),
        ("1.5h", 5400),
        ("90d", 90 * 86400),
        ("7", 7),
        (" 5 s ", 5),
        ("5sec", 5),
        ("90 days", 90 * 86400),
        ("1 hour", 3600),
        ("2 hrs", 7200),
        ("1.5 Minutes", 90),
        ("1min", 60),
        ("30 M", 1800),
        ("5 w", 5 * 7 * 86400),
        ("2 weeks", 14 * 86400),
        ("1 month", 30 * 86400),
        ("250 milliseconds", 0.25),
        (7, 7),
        (0.5, 0.5),
    ],
)
def test_durations_become_seconds(written: Any, seconds: float) -> None:
    assert Timeouts.model_validate({"idle": written}).idle == pytest.approx(seconds)
    assert Defaults.model_validate({"refresh": written}).refresh == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "s",
        "5 y",
        "5 dayz",
        "5 daysdays",
        "5 mo",
        "5 Ms d",
        "a day",
        "5/day",
        "1h30m",
        "-5s",
        "+5s",
        "1e3",
        ".5s",
        "5.s",
        "0",
        "0s",
        "9999999999s",
        0,
        -1,
        None,
        [],
        {},
        float("inf"),
        float("nan"),
        float("-inf"),
        10**400,
    ],
)
def test_other_durations_are_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        Timeouts.model_validate({"idle": written})


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("32MiB", 32 * 2**20),
        ("64KiB", 64 * 2**10),
        ("1GiB", 2**30),
        ("1MB", 10**6),
        ("1.5kb", 1500),
        ("10 b", 10),
        ("100", 100),
        (100, 100),
    ],
)
def test_sizes_become_bytes(written: Any, size: int) -> None:
    assert Limits.model_validate({"body": written}).body == size


@pytest.mark.parametrize(
    "written", ["", "MiB", "-1", "1.", "5 apples", "0", "0MiB", "9" * 400, 0, -1, True, None, [], 10**400]
)
def test_other_sizes_are_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate({"body": written})


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:11434",
        "https://api.deepseek.com",
        "https://api.deepseek.com/v1/chat/completions",
        "HTTP://Host.Test/",
        "http://[::1]:8080/v1",
        "https://host:65535",
        "https://bücher.test",
    ],
)
def test_urls_of_servers_are_taken(url: str) -> None:
    assert Provider.model_validate({"dialect": "openai", "urls": url}).urls == (url,)
    assert Provider.model_validate({"dialect": "openai", "urls": [url, url]}).urls == (url, url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "host:80",
        "//host",
        "ftp://host",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://:80",
        "http://host:0",
        "http://host:65536",
        "http://host:x",
        "http://[::1",
        "http://ho st",
        "http://host\n.test",
        f"http://user:{SECRET}@host",
        f"http://{SECRET}@host",
        f"http://:{SECRET}@host",
        f"http://host?key={SECRET}",
        f"http://host#{SECRET}",
        f"http://host/a\t{SECRET}",
        f"http://host:{SECRET}",
    ],
)
def test_other_urls_are_refused_and_never_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Provider.model_validate({"dialect": "openai", "urls": [url]})
    assert SECRET not in str(caught.value)
    assert SECRET not in str(caught.value.errors(include_input=False))


@given(st.sampled_from(["<", "<=", ">", ">=", "=="]), st.integers(min_value=0, max_value=10**9), st.integers(0, 10**9))
def test_comparisons_are_those_of_numbers(sign: str, bound: int, number: int) -> None:
    signs = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
    for asked in (number, bound):
        assert comparison(f"{sign} {bound}")(asked) is signs[sign](asked, bound)


@pytest.mark.parametrize(
    "text", ["", ">", "= 5", "=> 5", "!= 5", "> -5", "> 5.5", "> 5 6", "5 >", "> five", "> " + "9" * 5000]
)
def test_other_comparisons_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a comparison is"):
        comparison(text)


@pytest.mark.parametrize(
    ("tokens", "keys"),
    [
        ([], []),
        ([""], []),
        ([" , ,"], []),
        (["a"], ["a"]),
        (["a,b", "c"], ["a", "b", "c"]),
        (["a,,b,"], ["a", "b"]),
        ("a,b", ["a", "b"]),
        ("", []),
    ],
)
def test_tokens_are_split_at_commas_and_empty_ones_dropped(tokens: Any, keys: list[str]) -> None:
    auth = Auth.model_validate({"tokens": tokens})
    assert [token.get_secret_value() for token in auth.tokens] == keys


@pytest.mark.parametrize("tokens", [[5], [["a"]], 5, {"a": "b"}])
def test_tokens_are_a_list_of_texts(tokens: Any) -> None:
    with pytest.raises(ValidationError):
        Auth.model_validate({"tokens": tokens})


def test_one_name_needs_no_list() -> None:
    assert Model.model_validate({"targets": "a/b", "aliases": "c"}) == Model(targets=("a/b",), aliases=("c",))
    assert Rule.model_validate({"name": "n", "use": "a/b"}).use == ("a/b",)
    assert When.model_validate({"model": "m", "client": "c", "has": "tools"}).has == ("tools",)


@pytest.mark.parametrize("name", ["", "a b", "ä", "a\n", "x" * 65, "a/b", "\x1b[31m"])
def test_names_of_rules_are_plain(name: str) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate({"name": name, "use": "a/b"})


def test_a_file_has_sensible_defaults() -> None:
    file = RulesFile.model_validate({"providers": {"box": {"dialect": "sandbox"}}})
    assert (file.proxy.host, file.proxy.port, required(file)) == ("127.0.0.1", 8080, False)
    assert file.defaults.timeouts == Timeouts(connect=5, first_token=60, idle=30, total=1800, keep_alive=15)
    assert (file.defaults.limits.body, file.defaults.limits.headers) == (32 * 2**20, 64 * 2**10)
    assert (file.defaults.refresh, file.defaults.drain) == (5, 10)
    assert file.defaults.failover == Failover(attempts=2, on=DEFAULT_ON, mid_stream="continue", backoff=0.25, wait=30)
    assert file.defaults.breaker == BreakerPolicy(failures=5, cool_down=10, weights={})
    assert file.defaults.admission == Admission(parallel=None, queue=100, wait=30)
    assert file.defaults.failover.repair is False
    images = file.defaults.images
    assert (images.fetch, images.bytes, images.wait, images.redirects, images.allow) == (True, 20 * 2**20, 10, 3, ())
    assert file.prices == ()
    box = file.providers["box"]
    assert (box.profile, box.parallel, box.patience, box.window) == ("compat", None, None, None)
    assert (box.num_ctx, box.context_memory) == ({"*": "auto"}, 2 * 2**30)


def test_a_virtual_model_is_asked_in_order_unless_it_says_otherwise() -> None:
    model = Model.model_validate({"targets": "a/b"})
    assert (model.strategy, model.weights, model.mid_stream) == ("in_order", None, None)


# --- kinds of failure


@pytest.mark.parametrize("name", [*sorted(KINDS), *GROUPS, *DEFAULT_ON, "status_300", "status_503", "status_599"])
def test_every_kind_group_and_status_of_a_failure_may_be_named(name: str) -> None:
    assert Failover.model_validate({"on": name}).on == (name,)
    assert BreakerPolicy.model_validate({"weights": {name: 0}}).weights == {name: 0}


def test_every_default_weight_can_be_changed_unless_it_is_of_our_own_making() -> None:
    own = {"busy", "resting", "total", "not_continued"}
    BreakerPolicy.model_validate({"weights": {name: 1 for name in WEIGHTS if name not in own}})
    for name in own:
        with pytest.raises(ValidationError):
            BreakerPolicy.model_validate({"weights": {name: 1}})


def test_no_failure_at_all_may_lead_on() -> None:
    assert Failover.model_validate({"on": []}).on == ()


@pytest.mark.parametrize(
    "name",
    [
        *[
            "",
            "Connect",
            "connect ",
            "timeouts",
            "status",
            "status_",
            "status_42",
            "status_4x",
            "status_xx",
            "status_4XX",
        ],
        *["status_200", "status_2xx", "status_600", "status_5000", "status_5\u0663\u0663", "503", SECRET],
    ],
)
def test_other_kinds_are_refused_and_never_repeated(name: str) -> None:
    for made in (lambda: Failover.model_validate({"on": [name]}), lambda: BreakerPolicy(weights={name: 1})):
        with pytest.raises(ValidationError) as caught:
            made()
        (fault,) = caught.value.errors(include_input=False)
        assert "there is no such kind of failure" in fault["msg"]
        assert SECRET not in fault["msg"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("timeouts", "timeout"),
        ("first-token", "first_token"),
        ("conect", "connect"),
        ("status_5x", "status_5xx"),
        ("model missing", "model_missing"),
    ],
)
def test_a_mistyped_kind_is_recognised(written: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"did you mean '{meant}'"):
        Failover.model_validate({"on": [written]})


def test_a_kind_like_no_other_gets_to_know_them_all() -> None:
    with pytest.raises(ValidationError) as caught:
        Failover.model_validate({"on": ["zebra"]})
    for name in (*KINDS, *GROUPS, "status_429", "status_5xx"):
        assert name in caught.value.errors()[0]["msg"]


def test_only_what_is_near_is_offered() -> None:
    assert near("polcy", ["policy", "police"]) == " (did you mean 'policy'?)"
    assert near("zebra", ["policy"]) == near("zebra", []) == ""


# --- windows and hosts


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (8192, {"*": 8192}),
        (" 8192 ", {"*": 8192}),
        (4, {"*": 4}),
        ("auto", {"*": "auto"}),
        ("None", {"*": "none"}),
        (None, {"*": "auto"}),
        ({"qwen*": "16384", "*": "none"}, {"qwen*": 16384, "*": "none"}),
        ({"*": "auto"}, {"*": "auto"}),
    ],
)
def test_a_context_is_for_all_models_or_by_pattern(written: Any, read: dict[str, Any]) -> None:
    assert Provider.model_validate({"dialect": "ollama", "num_ctx": written}).num_ctx == read


@pytest.mark.parametrize(
    "written",
    [
        *[3, 0, -1, 10**9, "3", "", "8k", "8192.0", 8192.0, True, False, [], [8192], {}, "\u0663", "9" * 5000, SECRET],
        *[{"a": 3}, {"a": None}, {"a": {"b": 8192}}, {8: 8192}, {"*": "auto", "a": 8192}],
    ],
)
def test_other_contexts_are_refused_and_never_repeated(written: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Provider.model_validate({"dialect": "ollama", "num_ctx": written})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("written", "meant"), [("atuo", "auto"), ("non", "none"), ("automatic", "auto")])
def test_a_mistyped_word_for_a_context_is_recognised(written: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"did you mean '{meant}'"):
        Provider.model_validate({"dialect": "ollama", "num_ctx": written})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Images.Example.ORG.", "images.example.org"),
        ("localhost", "localhost"),
        ("my_host", "my_host"),
        ("3com.test", "3com.test"),
        ("10.1.2.3", "10.1.2.3/32"),
        (" 10.1.0.0/16 ", "10.1.0.0/16"),
        ("fd00::/8", "fd00::/8"),
        ("[::1]", "::1/128"),
    ],
)
def test_hosts_addresses_and_networks_may_be_opened_for_images(written: str, read: str) -> None:
    assert Images.model_validate({"allow": written}).allow == (read,)
    assert Images.model_validate({"allow": [written, "b.test"]}).allow == (read, "b.test")


@pytest.mark.parametrize(
    "written",
    [
        *["", "http://a.test", "a.test:80", "a.test/path", "10.1.2.3/16", "10.1", "256.1.1.1", "*.a.test", "a b", "-a"],
        *["a..b", "1", "fe80::1%eth0", "x" * 300, 5, None],
    ],
)
def test_other_hosts_are_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        Images.model_validate({"allow": [written]})


def test_a_network_with_more_bits_than_its_mask_is_recognised() -> None:
    with pytest.raises(ValidationError, match="a network ends in zeros"):
        Images.model_validate({"allow": ["10.1.2.3/16"]})


# --- how long a model stays loaded


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        *[("5m", "5m"), ("1h30m", "1h30m"), (" 1.5h ", "1.5h"), ("-1s", "-1s"), ("300ms", "300ms"), (None, None)],
        *[(-1, "-1s"), (0, "0s"), (300, "300s"), ("-1", "-1s"), ("0", "0s"), (0.5, "0.5s")],
    ],
)
def test_how_long_a_model_stays_loaded_has_a_unit_when_it_is_sent(written: Any, sent: str | None) -> None:
    assert Provider.model_validate({"dialect": "ollama", "keep_alive": written}).keep_alive == sent


@pytest.mark.parametrize(
    "written",
    ["", "forever", "5 minutes", "5 m", "5d", "m", "1h30", "--1s", "1e3", ".s", True, [], {}, float("inf"), SECRET],
)
def test_other_times_of_staying_loaded_are_refused_and_never_repeated(written: Any) -> None:
    with pytest.raises(ValidationError, match="how long a model stays loaded is a duration") as caught:
        Provider.model_validate({"dialect": "ollama", "keep_alive": written})
    assert SECRET not in str(caught.value)


# --- numbers that must make sense


@pytest.mark.parametrize(
    ("kind", "key", "taken", "refused"),
    [
        (Failover, "attempts", [1, 10, "3"], [0, 11, -1, 1.5, "x", None]),
        (Failover, "backoff", ["250ms"], [0, "0s", None]),
        (Failover, "wait", ["1m"], [0, -1]),
        (Failover, "mid_stream", ["continue", "error"], ["restart", "", None]),
        (BreakerPolicy, "failures", [1, 0.5, "2.5"], [0, -1, float("inf"), float("nan"), None]),
        (BreakerPolicy, "cool_down", ["1h"], [0, "soon"]),
        (BreakerPolicy, "weights", [{}, {"timeout": "0.5"}], [{"timeout": -1}, {"timeout": float("inf")}, [], None]),
        (Admission, "parallel", [1, "8", None], [0, -1, 1.5]),
        (Admission, "queue", [0, "7"], [-1, None]),
        (Admission, "wait", ["500ms"], [0, None]),
        (Defaults, "drain", ["5s"], [0, None]),
        (Failover, "repair", [True, "false"], ["maybe", None]),
        (Images, "fetch", [False, "true"], ["maybe", None]),
        (Images, "bytes", ["1MiB", 1], [0, "big"]),
        (Images, "wait", ["500ms"], [0, None]),
        (Images, "redirects", [0, 10], [-1, 11]),
    ],
)
def test_numbers_are_taken_as_far_as_they_make_sense(
    kind: type[BaseModel], key: str, taken: list[Any], refused: list[Any]
) -> None:
    for value in taken:
        kind.model_validate({key: value})
    for value in refused:
        with pytest.raises(ValidationError):
            kind.model_validate({key: value})


@pytest.mark.parametrize(
    ("key", "taken", "refused"),
    [
        ("parallel", [1, "8", None], [0, -1]),
        ("patience", ["5m", None], [0, "long"]),
        ("window", [1, "128000", None], [0, -1]),
    ],
)
def test_a_provider_may_say_what_its_servers_can_do(key: str, taken: list[Any], refused: list[Any]) -> None:
    for value in taken:
        Provider.model_validate({"dialect": "sandbox", key: value})
    for value in refused:
        with pytest.raises(ValidationError):
            Provider.model_validate({"dialect": "sandbox", key: value})


@pytest.mark.parametrize("weights", [[], [0], [-1], [1, "x"], [float("inf")], [float("nan")], [1e7], 1, "1"])
def test_weights_are_a_list_of_numbers_above_zero(weights: Any) -> None:
    assert Model.model_validate({"targets": "a/b", "weights": ["0.5", 2]}).weights == (0.5, 2)
    with pytest.raises(ValidationError):
        Model.model_validate({"targets": "a/b", "weights": weights})


# --- prices

PRICE: dict[str, Any] = {"model": "far/m", "from": "2026-11-15", "input": 1, "output": 2}


@pytest.mark.parametrize("written", ["2026-11-15", date(2026, 11, 15)])
def test_a_day_is_a_date_or_its_text(written: Any) -> None:
    assert Price.model_validate({**PRICE, "from": written}).since == date(2026, 11, 15)


@pytest.mark.parametrize(
    "written",
    [
        *["", "2026", "2026-11", "15.11.2026", "2026-13-01", "2026-02-30", "20261115", "2026-W46-7", " 2026-11-15"],
        *["2026-11-15T00:00", "2026-11-15\n", "\u0662026-11-15", 20261115, 0, True, None, [], SECRET],
        datetime(2026, 11, 15),  # noqa: DTZ001  # as YAML reads `2026-11-15 00:00:00`
    ],
)
def test_other_days_are_refused_and_never_repeated(written: Any) -> None:
    with pytest.raises(ValidationError, match="a date is year-month-day") as caught:
        Price.model_validate({**PRICE, "from": written})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("key", ["input", "output", "cached_input"])
def test_a_price_is_zero_or_more(key: str) -> None:
    for usd in (0, "0.15"):
        Price.model_validate({**PRICE, key: usd})
    for bad in (-1, "free", float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            Price.model_validate({**PRICE, key: bad})


@pytest.mark.parametrize("key", ["model", "from"])
def test_a_price_says_what_for_and_from_when(key: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        Price.model_validate({name: value for name, value in PRICE.items() if name != key})


@pytest.mark.parametrize("key", ["input", "output", "request", "hour"])
def test_one_amount_is_enough_for_a_price(key: str) -> None:
    named = {"model": "far/m", "from": "2026-11-15"}
    Price.model_validate({**named, key: 0})
    for more in ({}, {"cached_input": 1}):
        with pytest.raises(ValidationError, match="it says no amount; write input and output"):
            Price.model_validate({**named, **more})


NOUNS = [Auth, Defaults, Limits, Model, Provider, Proxy, Rule, RulesFile, Timeouts, When]
NOUNS += [Admission, BreakerPolicy, Caller, Failover, Images, Price]


@pytest.mark.parametrize("kind", NOUNS)
def test_every_noun_is_closed_frozen_and_silent_about_values(kind: type[BaseModel]) -> None:
    assert kind.model_config["extra"] == "forbid"
    assert kind.model_config["frozen"] is True
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({name: {SECRET: [SECRET]} for name in (*kind.model_fields, "never_heard_of")})
    assert SECRET not in "".join(line for line in str(caught.value).splitlines() if line.startswith("  "))


def test_secrets_do_not_show() -> None:
    provider = Provider.model_validate({"dialect": "openai", "urls": "https://a.test", "key": SECRET})
    auth = Auth.model_validate({"tokens": [SECRET]})
    for noun in (provider, auth):
        assert SECRET not in f"{noun!r} {noun} {noun.model_dump()} {noun.model_dump_json()}"
