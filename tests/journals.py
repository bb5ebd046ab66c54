"""What a gateway wrote into its log while a test failed stands in the report of the failure.

A pytest plugin (conftest.py names it). Whatever serves in a test says here where its log can be read; a failure of a
hundred parts of a second between three servers cannot be understood from an assertion alone.

The trap: a gateway may serve many tests. Shown is only what was written since this one began.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import pytest

AT_MOST = 20_000
"""Characters of each log, its last ones."""


@dataclass(slots=True)
class _Journal:
    name: str
    read: Callable[[], str]
    ended: bool = False
    known: int = 0
    """Characters that were written before the test began."""

    def written(self) -> str:
        try:
            return self.read()
        except OSError as error:
            return f"it cannot be read: {error}"

    def news(self) -> str:
        new = self.written()[self.known :]
        return new if len(new) <= AT_MOST else f"[{len(new) - AT_MOST:,} characters before]\n{new[-AT_MOST:]}"


@dataclass(slots=True)
class Journals:
    """The logs that the test under way may have to do with."""

    _kept: list[_Journal] = field(default_factory=list)

    def open(self, name: str, read: Callable[[], str]) -> Callable[[], None]:
        """To be called where something begins to serve; what is given back, where it has ended."""
        journal = _Journal(name, read)
        self._kept.append(journal)

        def end() -> None:
            journal.ended = True

        return end

    def begin(self) -> None:
        """A test begins: forgets what ended before it, and passes over what was written before it."""
        self._kept = [journal for journal in self._kept if not journal.ended]
        for journal in self._kept:
            journal.known = len(journal.written())

    def news(self) -> Iterator[tuple[str, str]]:
        """Each log's name and what was written into it since the test began, where that is anything."""
        return ((journal.name, new) for journal in self._kept if (new := journal.news()))


JOURNALS = Journals()
"""Of this process, which runs one test at a time."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    JOURNALS.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.extend((f"log of {name}", new) for name, new in JOURNALS.news())
    return report
