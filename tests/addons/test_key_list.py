"""`unigate keys list`: who may call, for people and for scripts, and never a key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from addons.cli import app
from rules.access import digest_of

REST = "providers: {s: {dialect: sandbox}}\nrules: [{name: all, use: [s/echo]}]\n"
CLIENTS = """\
proxy: {auth: {tokens: ["${API_KEYS:-}"]}}
clients:
  notebook: {key: "${NOTEBOOK_KEY:-}", keys: [plain-key-0123], models: ["qwen*", chat], limits: [5/minute, 2 parallel]}
  old: {key: old-key-01234, expires: 2020-02-02}
  off: {key: off-key-01234, disabled: true, expires: 2020-02-02, tags: {team: red, floor: "2"}}
  none: {keys: [], limits: [], endpoints: [/metrics, /v1]}
  last: {key: last-key-0123, expires: TODAY}
limits: {each_client: [100/minute]}
"""
KEYS = ("from-the-env-file", "plain-key-0123", "old-key-01234", "off-key-01234", "last-key-0123", "loose-key-0123")
TODAY = datetime.now(UTC).date().isoformat()


def short(key: str) -> str:
    return digest_of(key).hex()[:8]


type List = Callable[..., str]


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> List:
    """What `unigate keys list` prints of a rules file, in a terminal of a width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_KEYS", "loose-key-0123")
    (tmp_path / ".env").write_text("NOTEBOOK_KEY=from-the-env-file\n")

    def run(*arguments: str, clients: str = CLIENTS.replace("TODAY", TODAY), width: int = 200) -> str:
        (tmp_path / "rules.yaml").write_text(clients + REST)
        done = CliRunner().invoke(app, ["keys", "list", *arguments], env={"COLUMNS": str(width)})
        assert done.exit_code == 0, done.output
        return done.output

    return run


def rows(output: str) -> list[list[str]]:
    """The lines of a table, by where its heads begin."""
    lines = [line for line in output.splitlines() if line.strip() and "\u2500" not in line]
    starts = [found.start() for found in re.finditer(r"\S+", lines[0])]
    spans = [*zip(starts, [*starts[1:], None], strict=True)]
    return [[line[begin:end].strip() for begin, end in spans] for line in lines]


def test_the_list_says_who_may_call_what_and_how_much_and_shows_no_key(listed: List) -> None:
    output = listed()
    loose = short("loose-key-0123")
    assert rows(output) == [
        ["client", "state", "digest", "models", "endpoints", "limits", "tags", "expires"],
        ["notebook", "may call", short("from-the-env-file"), "qwen*", "/v1", "5/minute", "", ""],
        ["", "", short("plain-key-0123"), "chat", "", "2 parallel", "", ""],
        ["old", "expired", short("old-key-01234"), "all", "/v1", "100/minute", "", "2020-02-02"],
        ["off", "disabled", short("off-key-01234"), "all", "/v1", "100/minute", "team: red", "2020-02-02"],
        ["", "", "", "", "", "", "floor: 2", ""],
        ["none", "has no key", "", "all", "/metrics", "", "", ""],
        ["", "", "", "", "/v1", "", "", ""],
        ["last", "may call", short("last-key-0123"), "all", "/v1", "100/minute", "", TODAY],
        [f"key-{loose}", "unnamed", loose, "all", "all", "100/minute", "", ""],
    ]
    for key in KEYS:
        assert key not in output
        assert digest_of(key).hex()[:9] not in output


def test_columns_in_which_nothing_is_are_left_out(listed: List) -> None:
    output = listed(clients="clients: {notebook: {key: plain-key-0123}}\n")
    assert rows(output)[0] == ["client", "state", "digest", "models", "limits"]


@pytest.mark.parametrize("width", [1, 40, 80])
def test_a_narrow_terminal_loses_no_column_and_no_name(width: int, listed: List) -> None:
    name = "a-client-with-a-long-name-" + "x" * 38
    output = listed(clients=CLIENTS.replace("TODAY", TODAY).replace("notebook", name), width=width)
    assert rows(output)[0] == ["client", "state", "digest", "models", "endpoints", "limits", "tags", "expires"]
    assert name in "".join(row[0] for row in rows(output))
    for text in (TODAY, "team: red", "100/minute", short("plain-key-0123")):
        assert text in output


def test_scripts_get_names_that_stay_and_no_key(listed: List) -> None:
    output = listed("--json")
    found: list[dict[str, Any]] = json.loads(output)
    assert [row["client"] for row in found] == [
        "notebook",
        "old",
        "off",
        "none",
        "last",
        f"key-{short('loose-key-0123')}",
    ]
    assert [row["state"] for row in found] == ["active", "expired", "disabled", "no_key", "active", "active"]
    assert [row["named"] for row in found] == [True, True, True, True, True, False]
    assert found[0] == {
        "client": "notebook", "named": True, "state": "active",
        "keys": [short("from-the-env-file"), short("plain-key-0123")], "limits": ["5/minute", "2 parallel"],
        "models": ["qwen*", "chat"], "endpoints": ["/v1"], "tags": {}, "expires": None, "disabled": False,
    }  # fmt: skip
    assert (found[2]["tags"], found[2]["expires"], found[2]["disabled"]) == (
        {"team": "red", "floor": "2"},
        "2020-02-02",
        True,
    )
    assert (found[3]["keys"], found[3]["limits"], found[3]["endpoints"]) == ([], [], ["/metrics", "/v1"])
    assert (found[5]["models"], found[5]["endpoints"], found[5]["limits"]) == (None, None, ["100/minute"])
    for key in KEYS:
        assert key not in output
        assert digest_of(key).hex()[:9] not in output


def test_the_list_of_nobody_says_so(listed: List, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_KEYS")
    assert listed(clients="") == "rules.yaml has no clients and no keys: only this machine may call, and needs none.\n"
    assert json.loads(listed("--json", clients="")) == []
