"""A failure of a test says what its gateway wrote meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TESTS = """
import pytest
from tests.journals import AT_MOST, JOURNALS

@pytest.fixture(scope="module")
def shared():
    written = ["of the start;"]
    end = JOURNALS.open("the shared one", lambda: "".join(written))
    yield written
    end()

def test_a(shared):
    shared.append("of a test that passed;")

def test_b(shared):
    shared.append("of the failure;")
    JOURNALS.open("one that ended", lambda: "its last words;")()
    JOURNALS.open("a silent one", str)()
    assert False

def test_c(shared):
    shared.append("x" * AT_MOST + "the end")
    assert False
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("journals")
    (folder / "test_failing.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    without = [argument for plugin in ("randomly", "cacheprovider", "xdist") for argument in ("-p", f"no:{plugin}")]
    command = [sys.executable, "-m", "pytest", "--tb=short", "-p", "tests.journals", *without]
    run = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert "2 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    return run.stdout


def test_a_failure_shows_what_was_logged_since_its_test_began(report: str) -> None:
    first = report.partition("test_c")[0]
    assert "- log of the shared one -" in first
    assert "\nof the failure;\n" in first
    assert "of the start" not in report
    assert "of a test that passed" not in report


def test_a_gateway_that_ended_within_its_test_is_shown_there_alone(report: str) -> None:
    assert report.count("- log of one that ended -") == 1
    assert report.count("its last words;") == 1


def test_a_log_without_news_takes_no_room(report: str) -> None:
    assert "log of a silent one" not in report


def test_of_a_long_log_its_end_is_shown(report: str) -> None:
    assert "[7 characters before]\n" in report
    assert "xthe end\n" in report
