"""`unigate report`: what it prints for people and for programs, in any terminal, and what it says when it cannot."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from addons.cli import main
from addons.cli_report import By, moment
from addons.figures import Figures, share
from addons.report import GROUPINGS, Comparison, Report, compare, make_report, moment_text
from addons.report_export import as_csv, as_json, exact
from addons.report_source import ledger_at, open_ledger
from addons.report_view import dollars, percent, short, show
from addons.settings import SettingsError
from tests.addons.ledgers import TRIED, account, running, sqlite_url, until
from tests.addons.reports import NOON, attempt, new_ledger, row

ROOT = Path(__file__).parents[2]

RULES = (
    "providers: {ollama: {dialect: ollama, urls: ['http://127.0.0.1:9']}}\n"
    "rules: [{name: all, use: ['ollama/{model}']}]\n"
)
LEDGER = RULES + "ledger: {url: 'sqlite:///ledger.sqlite'}\n"
COMPARED = (
    RULES
    + "prices: [{model: cloud/big, from: 2020-01-01, input: 1, output: 2}]\n"
    + "ledger: {url: 'sqlite:///ledger.sqlite', compare_to: cloud/big}\n"
)
HOSTILE = [
    "[red]x[/red]",
    "\x1b[31mred\x07",
    "=cmd|'/c calc'!A1",
    "+1",
    "@x",
    "a\nb",
    "\u202eright",
    "長" * 60,
    "n" * 200,
]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


type Command = Callable[..., Done]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["unigate", "report", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

    return run


@pytest.fixture
def ledger(tmp_path: Path) -> Callable[..., Path]:
    def make(*rows: dict[str, Any], rules: str = LEDGER) -> Path:
        (tmp_path / "rules.yaml").write_text(rules)
        new_ledger(sqlite_url(tmp_path), rows)
        return tmp_path / "ledger.sqlite"

    return make


def ago(**fields: Any) -> dict[str, Any]:
    return row(**{"time": time.time() - 60, **fields})


def printed(report: Report, comparison: Comparison | None = None, *, width: int = 120, encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(report, comparison, Console(file=out, width=width, highlight=False))
    out.flush()
    return out.buffer.getvalue().decode(encoding)


def report_of(tmp_path: Path, *rows: dict[str, Any], by: str = "client", local: bool = False) -> Report:
    new_ledger(sqlite_url(tmp_path), rows)
    ours = ["ollama/"] if local else None
    return make_report(open_ledger(ledger_at(sqlite_url(tmp_path))), by, 0.0, 2 * NOON, local=ours)


def test_each_grouping_is_an_option() -> None:
    assert tuple(By) == GROUPINGS


def test_what_a_gateway_wrote_is_reported_while_it_goes_on(tmp_path: Path, command: Command) -> None:
    (tmp_path / "rules.yaml").write_text(LEDGER)
    with running(sqlite_url(tmp_path)) as ledger:
        ledger.put(account(cost=1_500_000_000, tried=(TRIED._replace(cost=1_500_000_000),)))
        until(lambda: ledger.written == 1, "it is written")
        done = command("--json")
        ledger.put(account())
        until(lambda: ledger.written == 2, "the next one is, too")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["total"]["cost_usd"] == "1.500000000"


def test_json_has_exact_money_and_names_as_they_are(command: Command, ledger: Callable[..., Path]) -> None:
    ledger(
        ago(client=HOSTILE[0], cost=1, compared=3, cached_tokens=7, reasoning_tokens=5, streamed=True, first_token_bucket=10),
        ago(client="b", cost=10**18 + 1, status=499, failed_cost=2, unpriced=True, estimated=True),
        ago(client="b", status=503),
        ago(client="b", attempts=2, failed_attempts=1),
        ago(client="b", status=429, attempts=0, target=None, prompt_tokens=0, completion_tokens=0, total_bucket=1),
        rules=COMPARED,
    )  # fmt: skip
    done = command("--json", "--by", "client")
    found = json.loads(done.out)
    assert (found["client"], found["model"]) == (None, None)
    assert (found["timezone"], found["by"], len(found["days"])) == (
        "UTC",
        "client",
        len({one["day"] for one in found["days"]}),
    )
    assert [one["client"] for one in found["groups"]] == ["b", HOSTILE[0]]
    assert found["total"] == {
        "calls": 5, "streamed": 1, "prompt_tokens": 400, "cached_tokens": 7, "completion_tokens": 200, "reasoning_tokens": 5,
        "estimated_calls": 1, "cost_usd": "1000000000.000000002", "cost_nanos": 10**18 + 2,
        "failed_cost_usd": "0.000000002", "failed_cost_nanos": 2, "unpriced_calls": 1, "compared_calls": 1,
        "compared_usd": "0.000000003", "compared_nanos": 3, "saved_usd": "0.000000002", "saved_nanos": 2,
        "saved_share": 2 / 3, "refused": 1, "errors": 1, "error_share": 0.25, "left": 1, "failed_over": 1,
        "unanswered": 1, "first_token_p50_s": 0.0016,
        "first_token_p95_s": 0.0016, "total_p50_s": 1.0207, "total_p95_s": 1.0207,
    }  # fmt: skip
    assert found["comparison"] == {
        "model": "cloud/big", "calls": 1, "mixed_usd": "0.000000001", "mixed_nanos": 1, "cloud_usd": "0.000000003",
        "cloud_nanos": 3, "local_usd": "0.000000000", "local_nanos": 0,
    }  # fmt: skip


def test_csv_has_a_header_a_row_per_group_and_the_total_and_no_formula(tmp_path: Path) -> None:
    report = report_of(tmp_path, *(row(client=name, cost=5) for name in HOSTILE))
    header, *found = csv.reader(io.StringIO(as_csv(report)))
    assert header[:3] == ["row", "client", "calls"]
    assert [one[0] for one in found] == ["group"] * len(HOSTILE) + ["total"]
    assert found[-1][header.index("cost_nanos")] == str(5 * len(HOSTILE))
    assert not [cell for one in found for cell in one if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert all(cell.isprintable() for one in found for cell in one)


def test_csv_of_no_calls_is_a_total_of_nothing(command: Command, ledger: Callable[..., Path]) -> None:
    ledger()
    for by, counted in (("client", "calls"), ("target", "attempts")):
        header, total = csv.reader(io.StringIO(command("--csv", "--by", by).out))
        assert dict(zip(header, total, strict=True))[counted] == "0"


def two_targets() -> list[dict[str, Any]]:
    """Three calls: one that a second target answered, one that nobody answered, one that was refused."""
    broken = attempt(target="cloud/a", outcome="status_500", cost=10**9, completion_tokens=0, total_ms=100)
    answered = attempt(target="ollama/b", cost=2 * 10**9, first_token_ms=500, estimated=True)
    left = attempt(target="ollama/b", outcome="left", cost=None)
    both = {"attempts": 2, "failed_attempts": 1}
    return [
        ago(target="ollama/b", cost=3 * 10**9, failed_cost=10**9, tried=[broken, answered], **both),
        ago(target="ollama/b", cost=10**9, failed_cost=10**9, status=499, unpriced=True, tried=[broken, left], **both),
        ago(target=None, status=429, attempts=0),
    ]


def test_by_target_each_attempt_counts_at_its_own_target(command: Command, ledger: Callable[..., Path]) -> None:
    ledger(*two_targets())
    done = json.loads(command("--json").out)
    assert done["by"] == "target"
    times = {"first_token_p50_s": None, "first_token_p95_s": None, "total_p50_s": 0.103, "total_p95_s": 0.103}
    assert done["groups"] == [
        {
            "target": "cloud/a", "attempts": 2, "failed_attempts": 2, "left": 0, "prompt_tokens": 200, "cached_tokens": 0,
            "completion_tokens": 0, "reasoning_tokens": 0, "estimated_attempts": 0, "cost_usd": "2.000000000",
            "cost_nanos": 2 * 10**9, "failed_cost_usd": "2.000000000", "failed_cost_nanos": 2 * 10**9,
            "unpriced_attempts": 0, **times,
        },
        {
            "target": "ollama/b", "attempts": 2, "failed_attempts": 0, "left": 1, "prompt_tokens": 200,
            "cached_tokens": 0, "completion_tokens": 100, "reasoning_tokens": 0, "estimated_attempts": 1,
            "cost_usd": "2.000000000", "cost_nanos": 2 * 10**9, "failed_cost_usd": "0.000000000", "failed_cost_nanos": 0,
            "unpriced_attempts": 1, "first_token_p50_s": 0.5155, "first_token_p95_s": 0.5155, "total_p50_s": 1.0207,
            "total_p95_s": 1.0207,
        },
    ]  # fmt: skip
    assert (done["total"]["calls"], done["total"]["cost_nanos"], done["total"]["unanswered"]) == (3, 4 * 10**9, 1)
    header, *rows = csv.reader(io.StringIO(command("--csv", "--by", "target").out))
    assert header[:3] == ["row", "target", "attempts"]
    assert [row[:3] for row in rows] == [["group", "cloud/a", "2"], ["group", "ollama/b", "2"], ["total", "", "4"]]
    assert [row[header.index("cost_nanos")] for row in rows] == ["2000000000", "2000000000", "4000000000"]


def test_by_target_what_nobody_answered_is_a_sentence_and_no_line(
    command: Command, ledger: Callable[..., Path]
) -> None:
    ledger(*two_targets())
    text = command("--by", "target").out
    lines = {line.split()[0]: line.split() for line in text.splitlines() if "/" in line}
    assert lines["cloud/a"] == ["cloud/a", "2", "200", "0", "0", "2.00", "100", "%", "-", "0.1/0.1"]
    assert lines["ollama/b"][:8] == ["ollama/b", "2", "≈200", "0", "≈100", "≥≈", "2.00", "0"]
    assert not [line for line in text.splitlines() if line.startswith("- ")]
    assert "1 call was answered by no target (1 refused)." in text
    assert "Times: half of the attempts took no longer/95 % of them" in text


def test_calls_that_asked_no_target_make_an_empty_table_no_table(command: Command, ledger: Callable[..., Path]) -> None:
    ledger(ago(target=None, status=403, attempts=0), ago(target=None, status=503, attempts=0))
    text = command("--by", "target").out
    assert "Calls   2, 1 of them refused; 100 % errors" in text
    assert "2 calls were answered by no target (1 refused)." in text
    assert "attempts  " not in text


def test_what_was_refused_is_no_error_and_has_no_time(command: Command, ledger: Callable[..., Path]) -> None:
    refused = (ago(status=status, attempts=0, target=None, total_bucket=1) for status in (400, 403, 429, 429))
    ledger(ago(), ago(status=502), *refused)
    text = command("--by", "client").out
    assert "Calls   6, 4 of them refused; 50 % errors" in text
    assert "Whole call   about 1.0 s for half of the calls" in text
    head, *lines = [line.split() for line in text.splitlines() if line.startswith(("client", "notebook"))]
    assert [line[head.index("refused")] for line in lines] == ["4"]  # `cost USD` are two words, and so is `0 %`
    assert "Refused: by the gateway itself (4xx), before any target was asked." in text


def test_a_report_may_be_of_some_clients_and_models(command: Command, ledger: Callable[..., Path]) -> None:
    ledger(*(ago(client=client, model=model) for client in ("ci-1", "ci-2", "phone") for model in ("gpt-4o", "o3")))

    def groups(*arguments: str) -> list[str]:
        return sorted(
            one["client"] for one in json.loads(command("--json", "--by", "client", *arguments).out)["groups"]
        )

    assert groups("--client", "ci-*") == ["ci-1", "ci-2"]
    assert groups("--client", "CI-[!2]") == ["ci-1"]
    assert groups("--model", "o3") == ["ci-1", "ci-2", "phone"]
    assert groups("--client", "phone", "--model", "nobody") == []
    text = command("--client", "phone").out
    assert "Calls   2" in text
    assert "Only calls of the client phone." in text
    assert (
        "No calls in this period of the client x that asked for the model gpt-*."
        in command("--client", "x", "--model", "gpt-*").out
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_the_table_fits_any_terminal_and_no_name_steers_it(tmp_path: Path, width: int, encoding: str) -> None:
    made = [row(client=name, cost=10**9, compared=3 * 10**9, unpriced=True, estimated=True) for name in HOSTILE]
    report = report_of(tmp_path, *made)
    text = printed(report, compare(report, "cloud/" + "long-name" * 9), width=width, encoding=encoding)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    if width >= 80:
        assert "[red]x[/red]" in text
        assert all(head in text for head in ("calls", "cost USD", "saved"))


def test_a_wide_terminal_shows_all_columns_and_a_narrow_one_the_main_ones(tmp_path: Path) -> None:
    report = report_of(tmp_path, row(streamed=True, first_token_bucket=100, compared=10**9))
    heads = [
        next(line for line in printed(report, width=width).splitlines() if line.startswith("client")).split()
        for width in (120, 40)
    ]
    assert heads[0] == [
        "client",
        "calls",
        "streamed",
        "read",
        "cached",
        "written",
        "cost",
        "USD",
        "saved",
        "errors",
        "failover",
        "first",
        "s",
        "whole",
        "s",
    ]
    assert {"client", "calls", "cost"} <= set(heads[1]) < set(heads[0])


def test_many_groups_are_cut_and_what_is_cut_is_summed(tmp_path: Path) -> None:
    text = printed(
        report_of(tmp_path, *(row(client=f"c{number:03}", cost=10**9 * (100 - number)) for number in range(60)))
    )
    assert "c024" in text
    assert "c025" not in text
    assert [line.split()[:3] for line in text.splitlines() if " more " in line] == [["35", "more", "35"]]


def test_days_are_in_order_with_a_line_of_columns(tmp_path: Path) -> None:
    report = report_of(tmp_path, *(row(time=NOON + day * 86400) for day in (2, 0, 0)), by="day")
    text = printed(report)
    assert "Calls a day, 2027-01-15 to 2027-01-17: █ ▄ (at most 2)" in text
    assert text.index("2027-01-15  ") < text.index("2027-01-17  ")
    assert [one["day"] for one in as_json(report, None)["groups"]] == ["2027-01-15", "2027-01-17"]


def test_unpriced_calls_are_never_shown_as_free(tmp_path: Path) -> None:
    text = printed(report_of(tmp_path, row(client="paid", cost=1_200_000_000), row(client="unpriced", unpriced=True)))
    assert "Cost    ≥ 1.20 USD; 1 call unpriced" in text
    assert [line.split()[7:9] for line in text.splitlines() if line.startswith("unpriced")] == [["≥", "0"]]
    assert not [line for line in text.splitlines() if line.startswith("paid") and "≥" in line]


def test_the_three_ways_are_compared_for_the_calls_that_can_be(tmp_path: Path) -> None:
    report = report_of(tmp_path, row(cost=4 * 10**9, compared=10**10), row(cost=10**9))
    text = printed(report, compare(report, "cloud/big"))
    assert "as it ran         ██████████               4.00 USD, 60 % saved" in text
    assert "all at cloud/big  ████████████████████████ 10.00 USD" in text
    assert "all local                                  0 USD (no price of a machine)" in text
    assert "Compared, and saved: of 1 of 2 calls. The others have no price, here or there, or are no text." in text


def test_refused_calls_are_not_among_those_that_are_compared(tmp_path: Path) -> None:
    refused = row(status=429, attempts=0, target=None, compared=0)
    for others, words in (([], None), ([row()], "Compared, and saved: of 1 of 2 calls.")):
        report = report_of(tmp_path, row(compared=10), refused, refused, *others)
        text = printed(report, compare(report, "cloud/big"))
        assert report.total.compared_calls == 1
        assert words in text if words is not None else "Compared" not in text


@pytest.mark.parametrize(("cost", "said", "cell"), [
    (10**9, "50 % saved", "50 %"), (2 * 10**9, "0 % saved", "0 %"), (19 * 10**9, "850 % more", "-850 %"),
    (1336 * 10**9, "668 times as much", "cost x668"),
])  # fmt: skip
def test_what_is_many_times_as_much_is_said_as_that(tmp_path: Path, cost: int, said: str, cell: str) -> None:
    report = report_of(tmp_path, row(cost=cost, compared=2 * 10**9))
    text = printed(report, compare(report, "cloud/big"))
    assert f"USD, {said}\n" in text
    assert [cell in line for line in text.splitlines() if line.startswith("notebook")] == [True]


def test_what_estimated_tokens_cost_is_marked_as_estimated(tmp_path: Path) -> None:
    text = printed(report_of(tmp_path, row(client="cut", estimated=True, cost=10**9), row(client="whole", cost=10**9)))
    assert "Cost    ≈ 2.00 USD" in text
    assert [line.split()[7:9] for line in text.splitlines() if line.startswith("cut")] == [["≈", "1.00"]]
    assert not [line for line in text.splitlines() if line.startswith("whole") and "≈" in line]


def test_nothing_is_wrapped_in_a_file(command: Command, ledger: Callable[..., Path]) -> None:
    ledger(
        ago(streamed=True, compared=1, cost=10**18, first_token_bucket=200),
        rules=COMPARED.replace("cloud/big", "c/" + "x" * 200),
    )
    lines = command("--by", "endpoint").out.splitlines()
    assert [line for line in lines if "/chat/completions" in line and "1,000,000,000" in line]
    assert [line for line in lines if line.startswith("all at c/xxx") and line.endswith("USD")]


def test_what_cost_more_than_the_cloud_is_not_called_saved(tmp_path: Path) -> None:
    report = report_of(tmp_path, row(cost=3 * 10**9, compared=2 * 10**9))
    assert "3.00 USD, 50 % more" in printed(report, compare(report, "cloud/big"))


def test_all_local_costs_what_local_tokens_did(tmp_path: Path) -> None:
    local = row(target="ollama/a", cost=3 * 10**9, failed_cost=10**9, compared=1)
    report = report_of(tmp_path, local, row(target="cloud/b", compared=1), row(target=None, compared=1), local=True)
    assert compare(report, "cloud/big") == Comparison("cloud/big", 3, 3, 3 * 10**9, 3, 6 * 10**9)


def test_without_a_local_call_nobody_knows_what_local_ones_cost(tmp_path: Path) -> None:
    report = report_of(tmp_path, row(target="cloud/b", compared=1), local=True)
    found = compare(report, "cloud/big")
    assert found == Comparison("cloud/big", 1, 1, 0, 1, None)
    assert "not known: no local model answered" in printed(report, found)


def test_without_a_model_to_compare_to_nothing_is_said_to_be_saved(tmp_path: Path) -> None:
    report = report_of(tmp_path, row())
    assert compare(report, None) is compare(report, "cloud/big") is None
    assert "saved" not in printed(report)


def test_the_hours_of_local_machines_count_where_they_have_a_price(
    command: Command, ledger: Callable[..., Path]
) -> None:
    hour = "{model: ollama/a, from: 2020-01-01, hour: 1}"
    ledger(ago(target="ollama/a", cost=7, compared=9), rules=COMPARED.replace("output: 2}", "output: 2}, " + hour))
    assert json.loads(command("--json").out)["comparison"]["local_nanos"] == 7


def test_a_table_for_a_file_is_wide_and_plain(command: Command, ledger: Callable[..., Path]) -> None:
    ledger(ago(), ago(time=time.time() - 30 * 86400))
    done = command()
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert "Calls   1" in done.out
    assert "failover" in command("--by", "client").out


def test_no_calls_are_said_to_be_none(command: Command, ledger: Callable[..., Path]) -> None:
    ledger()
    assert "No calls in this period." in command().out


def test_nothing_is_written_to_the_ledger(command: Command, ledger: Callable[..., Path]) -> None:
    file = ledger(ago())
    before = file.read_bytes()
    assert command().code == 0
    assert file.read_bytes() == before


def test_a_ledger_in_a_folder_where_nothing_can_be_made_is_read(tmp_path: Path) -> None:
    new_ledger(sqlite_url(tmp_path), [row()])
    (tmp_path / "ledger.sqlite-shm").mkdir()  # in the way of what reading makes, for root too
    assert make_report(open_ledger(ledger_at(sqlite_url(tmp_path))), "client", 0.0, 2 * NOON).total.calls == 1


@pytest.mark.parametrize(("content", "words"), [
    (None, "there is no ledger at "),
    (b"this is not a database, but a text that is long enough" * 100, "is not a SQLite file"),
    (b"", "ledger.sqlite is empty, so no ledger: name the file that `ledger: {url: sqlite:///FILE}`"),
])  # fmt: skip
def test_what_is_no_ledger_is_said_in_plain_words(
    content: bytes | None, words: str, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "rules.yaml").write_text(LEDGER)
    if content is not None:
        (tmp_path / "ledger.sqlite").write_bytes(content)
    done = command()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("unigate: ")
    assert words in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(("named", "words"), [
    ("nix.sqlite", "there is no ledger at nix.sqlite: the gateway makes it when it starts"),
    ("sqlite:///nix.sqlite", "there is no ledger at nix.sqlite: the gateway makes it when it starts"),
    ("folder", "folder is a folder, so no ledger: name the file"),
    ("", ". is a folder, so no ledger"),
    ("folder/no/where.sqlite", "there is no ledger at folder/no/where.sqlite"),
    ("rules.yaml/x", "the ledger rules.yaml/x cannot be read: Not a directory"),
    ("rules.yaml", "rules.yaml is no ledger: it is not a SQLite file"),
    ("/dev/null", "/dev/null is no file, so no ledger"),
    ("pipe", "pipe is no file, so no ledger"),
    ("n" * 300, "cannot be read: File name too long"),
    ("another.sqlite", "another.sqlite is no ledger: it has no table `calls` of unigate's"),
    ("cut.sqlite", "cut.sqlite"),
])  # fmt: skip
def test_what_is_named_and_is_no_ledger_is_said_and_left_as_it_is(
    named: str, words: str, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with closing(sqlite3.connect(tmp_path / "another.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE calls (id)")
    (tmp_path / "cut.sqlite").write_bytes((tmp_path / "another.sqlite").read_bytes()[:4196])
    before = sorted(tmp_path.rglob("*"))
    done = command("--ledger", named)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert done.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("version", "words"), [(99, "of a later unigate"), (1, "of an earlier unigate")])
def test_a_ledger_of_another_version_is_not_guessed_at(
    version: int, words: str, command: Command, ledger: Callable[..., Path]
) -> None:
    with closing(sqlite3.connect(ledger())) as connection, connection:
        connection.execute("UPDATE ledger_version SET version = ?", (version,))
    done = command()
    assert done.code == 2
    assert words in done.err


def test_rules_without_a_ledger_say_what_to_write(tmp_path: Path, command: Command) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    assert "write `ledger: {url: sqlite:///ledger.sqlite}` there" in command().err


def test_a_ledger_can_be_named_that_the_rules_do_not_have(tmp_path: Path, command: Command) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    new_ledger(sqlite_url(tmp_path), [ago()])
    (folder := tmp_path / "odd #folder 100%").mkdir()
    (tmp_path / "ledger.sqlite").rename(folder / "é.db")
    assert "Calls   1" in command("--ledger", "sqlite:///odd #folder 100%/é.db").out
    assert "Calls   1" in command("--ledger", "odd #folder 100%/é.db").out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd #folder 100%", "rules.yaml"]


@pytest.mark.parametrize(("url", "words"), [
    ("mysql://x/y", "none of a SQLite or PostgreSQL database"),
    ("://", "it must be the path of a file, sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"),
    ("postgresql://me:sesame@127.0.0.1:1/ledger", "cannot be read: connection failed"),
    ("postgresql://me:sesame@127.0.0.1:port/ledger", "must be written postgresql://USER:PASSWORD@HOST:PORT/NAME"),
    ("sqlite://", "is a folder, so no ledger"),
])  # fmt: skip
def test_a_ledger_that_cannot_be_reached_is_said_without_its_password(
    url: str, words: str, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    done = command("--ledger", url)
    assert done.code == 2
    assert words in done.err
    assert "sesame" not in done.err


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("24h", 86400), ("7d", 604800), ("2w", 1209600)])
def test_since_takes_how_long_ago(text: str, seconds: int) -> None:
    assert moment(text, NOON, "--since") == NOON - seconds


def test_since_and_until_take_a_day_in_utc() -> None:
    assert moment("2027-01-14", NOON, "--since") == NOON - 36 * 3600
    assert moment("2027-01-14", NOON, "--until", ends=True) == NOON - 12 * 3600
    assert moment("2027-01-15", NOON, "--until", ends=True) == NOON
    assert moment("20270114", NOON, "--until", ends=True) == NOON - 12 * 3600


@pytest.mark.parametrize(("text", "seconds"), [
    ("2027-01-15T10:30:00Z", 5400), ("2027-01-15T10:30:00", 5400), ("2027-01-15 10:30", 5400), ("2027-01-15T10", 7200),
    ("2027-01-15T12:30:00+02:00", 5400), ("2027-01-15T05:00:00-0530", 5400), (" 2027-01-14T23:00:00.5Z ", 46799.5),
    ("2027-01-15T00:30+14:00", 91800),
])  # fmt: skip
def test_since_and_until_take_a_moment_of_a_day_in_utc_where_it_names_no_other_time(text: str, seconds: float) -> None:
    assert moment(text, NOON, "--since") == NOON - seconds
    assert moment(text, NOON, "--until", ends=True) == NOON - seconds
    assert moment("2027-01-15T12:00:01Z", NOON, "--until", ends=True) == NOON


def test_the_period_that_a_report_shows_can_be_asked_for_again() -> None:
    assert moment(moment_text(NOON - 77), NOON, "--since") == NOON - 77


@pytest.mark.parametrize("text", [
    "7", "d", "7y", "-7d", "yesterday", "", "2026-11-14T", "2026-11-14x16:08", "2026-11-14T16:08:46X", "16:08",
    "2026-11-1", "2026-11-14T1608:46Z", "14.11.2026", "2026-11-14Z", "2026-11-31T", "٢٠٢٦-١١-١٤",
])  # fmt: skip
def test_another_period_is_refused_with_what_would_be_right(text: str) -> None:
    right = (
        r"it must be how long ago \(7d, 24h, 90m, 2w\) or a date \(2026-11-01\), which may have a time \(2026-11-01T"
    )
    with pytest.raises(SettingsError, match=right):
        moment(text, NOON, "--since")


@pytest.mark.parametrize(("text", "words"), [
    ("2026-11-31", "there is no such day"), ("2026-13-01", "there is no such day"), ("0000-01-01", "there is no such day"),
    ("2026-02-29T10:00:00Z", "there is no such day"), ("2026-11-31 99:00", "there is no such day"),
    ("2026-11-30T24:00:00Z", "there is no such time of day"), ("2026-11-30T16:60", "there is no such time of day"),
    ("2026-11-30T16:08:61Z", "there is no such time of day"), ("2026-11-30T16:08:46+25:00", "there is no such time of day"),
])  # fmt: skip
def test_a_day_or_a_time_that_never_was_is_said_to_be_none(text: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        moment(text, NOON, "--until", ends=True)
    assert str(caught.value) == f"--until is '{text}': {words}"


def test_a_period_that_ends_before_it_begins_is_refused(command: Command) -> None:
    assert "--since (7d where it is left out) must be before --until" in command("--since", "1d", "--until", "2d").err
    assert "cannot be had together" in command("--json", "--csv").err


@pytest.mark.parametrize(("nanos", "shown"), [
    (0, "0"), (1, "0.000000001"), (12_345, "0.000012"), (1_000_000, "0.0010"), (12_345_678, "0.01235"),
    (999_999_999, "1.0000"), (1_204_999_999, "1.20"), (9_999_990_000_000, "9,999.99"), (123_456 * 10**9, "123,456"),
    (-2_500_000_000, "-2.50"),
])  # fmt: skip
def test_dollars_have_the_digits_that_say_something(nanos: int, shown: str) -> None:
    assert dollars(nanos) == shown


@pytest.mark.parametrize("nanos", [0, 1, -1, 10**9, 10**18 + 1, -(10**10) - 5])
def test_exact_money_is_exact(nanos: int) -> None:
    assert Decimal(exact(nanos)) * 10**9 == nanos


@pytest.mark.parametrize(("share", "shown"), [
    (0.0, "0 %"), (1.0, "100 %"), (0.0004, "<0.1 %"), (0.9996, ">99.9 %"), (0.123, "12 %"), (0.0123, "1.2 %"),
    (-0.25, "-25 %"), (0.996, "99.6 %"), (0.994, "99 %"), (-0.997, "-99.7 %"), (-2.5, "-250 %"), (0.0996, "10 %"),
])  # fmt: skip
def test_percentages_round_nothing_to_none_or_all(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0"), (9_999, "9,999"), (45_300, "45.3k"), (1_200_000, "1,200k"), (25 * 10**9, "25.0G")]
)
def test_tokens_are_short(count: int, shown: str) -> None:
    assert short(count) == shown


def test_figures_of_nothing_have_no_shares() -> None:
    assert (share(3, 0), Figures().saved, Figures().saved_share, Figures(compared_calls=1).saved_share) == (
        0.0,
        None,
        None,
        None,
    )


def test_a_period_that_began_before_time_did_is_all_of_it() -> None:
    assert moment("99999999d", 1_800_000_000.0, "--since") == 0.0


@pytest.mark.parametrize("module", ["sqlalchemy", "psycopg", "mitmproxy", "httpx", "loguru", "ssl"])
def test_a_report_of_a_file_waits_for_no_library_that_it_has_no_use_for(
    module: str, tmp_path: Path, ledger: Callable[..., Path]
) -> None:
    """Each of them takes longer to load than a usual ledger to be read."""
    ledger(ago())
    script = f"import sys\nsys.modules[{module!r}] = None  # to import it fails\nfrom addons.cli import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", script, "report"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert "Calls   1" in done.stdout
