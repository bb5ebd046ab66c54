"""What a person writes becomes seconds, bytes, tuples and predicates."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from rules.schema import Auth, Defaults, Limits, Model, Provider, Proxy, Rule, RulesFile, Timeouts, When, comparison

SECRET = "sk-hidden-0123"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("30m", 1800),
        ("1h", 3600),
        ("1.5h", 5400),
        ("7", 7),
        (" 5 s ", 5),
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
        "5 d",
        "5sec",
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
    ],
)
def test_tokens_are_split_at_commas_and_empty_ones_dropped(tokens: list[str], keys: list[str]) -> None:
    auth = Auth.model_validate({"tokens": tokens})
    assert [token.get_secret_value() for token in auth.tokens] == keys
    assert auth.required is bool(keys)


def test_auth_can_be_switched_off_although_there_are_tokens() -> None:
    assert not Auth.model_validate({"enabled": False, "tokens": ["a"]}).required


def test_auth_cannot_be_switched_on_without_tokens() -> None:
    with pytest.raises(ValidationError, match="auth is enabled and there is no token"):
        Auth.model_validate({"enabled": True, "tokens": [","]})


@pytest.mark.parametrize("tokens", ["a,b", [5], [["a"]], 5, {"a": "b"}])
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
    assert (file.proxy.host, file.proxy.port, file.proxy.auth.required) == ("127.0.0.1", 8080, False)
    assert file.defaults.timeouts == Timeouts(connect=5, first_token=60, idle=30, total=1800, keep_alive=15)
    assert (file.defaults.limits.body, file.defaults.limits.headers) == (32 * 2**20, 64 * 2**10)
    assert file.defaults.refresh == 5
    assert file.providers["box"].profile == "compat"


@pytest.mark.parametrize("kind", [Auth, Defaults, Limits, Model, Provider, Proxy, Rule, RulesFile, Timeouts, When])
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
