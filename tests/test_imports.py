"""Three rooms: addons may ask rules and wire; rules and wire know neither each other nor the world outside.

The sources are parsed, not run, so imports inside functions and under TYPE_CHECKING count as well. A violation is
printed as file:line.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("wire", "rules", "addons")

MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "wire": frozenset({"wire", "pydantic", "orjson", "jsonschema_rs", "python_multipart"}),
    "rules": frozenset({"rules", "pydantic", "yaml", "cachetools"}),
}
"""What the pure rooms may import beside the standard library."""

IMPURE: Mapping[str, str] = {
    "os": "environment, files, processes and chance (urandom)",
    "sys": "environment, streams, the interpreter's own state",
    "io": "files",
    "pathlib": "files",
    "glob": "files (patterns over names are in fnmatch)",
    "shutil": "files",
    "tempfile": "files",
    "fileinput": "files",
    "mmap": "files",
    "fcntl": "files",
    "sqlite3": "files",
    "dbm": "files",
    "shelve": "files",
    "zipfile": "files",
    "tarfile": "files",
    "logging": "streams and the clock; rules and wire return what is worth telling",
    "getpass": "the terminal and the environment",
    "platform": "the machine",
    "locale": "environment",
    "gettext": "environment and files",
    "time": "clock",
    "sched": "clock",
    "random": "chance",
    "secrets": "chance",
    "uuid": "chance and clock; ids are arguments",
    "socket": "network",
    "socketserver": "network",
    "ssl": "network and files",
    "select": "network",
    "selectors": "network",
    "http": "network (http.client, http.server)",
    "smtplib": "network",
    "ftplib": "network",
    "xmlrpc": "network",
    "webbrowser": "network",
    "asyncio": "network and clock; these rooms have no coroutines",
    "threading": "threads: values need no locks",
    "queue": "threads",
    "concurrent": "threads and processes",
    "multiprocessing": "processes",
    "subprocess": "processes",
    "signal": "processes",
    "atexit": "processes",
    "ctypes": "everything",
    "importlib": "imports that nobody can see here",
    "runpy": "imports that nobody can see here",
    "pkgutil": "imports that nobody can see here",
    "pickle": "runs what it reads",
    "warnings": "state of the process",
}
"""Modules of the standard library that the pure rooms leave alone, and what they would bring in."""

IMPURE_PARTS: Mapping[str, str] = {
    "urllib.request": "network",
    "urllib.robotparser": "network",
    "hashlib.file_digest": "files",
    "datetime.datetime.now": "clock",
}
"""The same, where the module itself is harmless (`urllib.parse`)."""

IMPURE_CALLS: Mapping[str, str] = {
    "open": "files",
    "print": "streams",
    "input": "streams",
    "breakpoint": "streams",
    "__import__": "imports that nobody can see here",
    "exec": "runs what it reads",
    "eval": "runs what it reads",
}
"""Functions that need no import."""

CLOCKS = frozenset({"now", "utcnow", "today"})
"""Methods of datetime and date that read the clock."""

IMPORT_NAMES: Mapping[str, str] = {
    "opentelemetry-sdk": "opentelemetry",
    "pyopenssl": "OpenSSL",
    "python-dotenv": "dotenv",
    "pyyaml": "yaml",
}
"""Distributions whose import name is another."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A line that breaks the table."""

    file: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.why}"


@dataclass(frozen=True, slots=True)
class Import:
    """One name that an import statement brings in."""

    module: str
    """Absolute, also where the source says it relatively."""
    name: str | None
    """None for `import module`."""
    line: int
    end: int
    in_function: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    @property
    def whole(self) -> str:
        return f"{self.module}.{self.name}" if self.name is not None else self.module


@dataclass(frozen=True, slots=True)
class Source:
    """A module of one of the rooms."""

    file: str
    """As `wire/sse.py`."""
    text: str

    @property
    def room(self) -> str:
        return self.file.partition("/")[0]

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return self.module if self.file.endswith("/__init__.py") else self.module.rpartition(".")[0]


def dependencies(pyproject: str) -> frozenset[str]:
    """The import names of what pyproject.toml lists under `dependencies`."""
    listed = tomllib.loads(pyproject)["project"]["dependencies"]
    names = [re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0].lower() for line in listed]
    return frozenset(IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names)


def imports(source: Source) -> Iterator[Import]:
    """Every import of a module, wherever it stands."""
    yield from _imports(ast.parse(source.text), source, in_function=False)


def _imports(node: ast.AST, source: Source, *, in_function: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, None, child.lineno, child.end_lineno or child.lineno, in_function)
        elif isinstance(child, ast.ImportFrom):
            module = child.module or ""
            if child.level:
                above = source.package.split(".")
                module = ".".join([*above[: len(above) - child.level + 1], *([module] if module else [])])
            for alias in child.names:
                yield Import(module, alias.name, child.lineno, child.end_lineno or child.lineno, in_function)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, source, in_function=in_function or inside)


def explained(text: str) -> frozenset[int]:
    """The lines that have a comment for people; one that only quiets a tool is none."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            said = re.sub(r"(#\s*)?(noqa|type:\s*ignore|pragma)\b[^#]*", "", token.string)
            if re.search(r"\w", said):
                lines.add(token.start[0])
    return frozenset(lines)


def violations(sources: Iterable[Source], listed: frozenset[str]) -> list[Violation]:
    """Everything that breaks the table; `listed` are the project's dependencies."""
    sources = list(sources)
    found = [violation for source in sources for violation in _of_one(source, listed)]
    return [*found, *_circles(sources)]


def _of_one(source: Source, listed: frozenset[str]) -> Iterator[Violation]:
    pure = source.room in MAY_IMPORT
    allowed = MAY_IMPORT[source.room] if pure else listed | frozenset(ROOMS)
    comments = explained(source.text)
    for item in imports(source):
        if item.in_function and not comments & set(range(item.line, item.end + 1)):
            yield Violation(source.file, item.line, f"imports {item.whole} inside a function and does not say why")
        if item.top in sys.stdlib_module_names:
            reason = IMPURE.get(item.top) or next(
                (why for part, why in IMPURE_PARTS.items() if f"{item.whole}.".startswith(f"{part}.")), None
            )
            if pure and reason is not None:
                yield Violation(source.file, item.line, f"{source.room} imports {item.whole}: {reason}")
        elif item.top not in allowed:
            yield Violation(source.file, item.line, f"{source.room} may not import {item.whole}")
    if pure:
        yield from _calls(source)


def _calls(source: Source) -> Iterator[Violation]:
    for node in ast.walk(ast.parse(source.text)):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                yield Violation(source.file, node.lineno, f"{source.room} calls {name}(): {IMPURE_CALLS[name]}")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="date" | "datetime"), attr=name)) if name in CLOCKS:
                yield Violation(source.file, node.lineno, f"{source.room} calls {name}(): clock")
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="date" | "datetime"), attr=name)) if (
                name in CLOCKS
            ):
                yield Violation(source.file, node.lineno, f"{source.room} calls {name}(): clock")


def _circles(sources: list[Source]) -> Iterator[Violation]:
    """The imports that close a circle, one for each circle that a walk through the modules meets."""
    modules = {source.module: source for source in sources}
    edges: dict[str, dict[str, int]] = {}
    for source in sources:
        edges[source.module] = {}
        for item in imports(source):
            target = item.whole if item.whole in modules else item.module
            if target in modules:
                edges[source.module].setdefault(target, item.line)
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> Iterator[Violation]:
        for target, line in edges[module].items():
            if target in way:
                circle = " -> ".join((*way[way.index(target) :], target))
                yield Violation(modules[module].file, line, f"closes a circle: {circle}")
            elif target not in done:
                yield from walk(target, (*way, target))
        done.add(module)

    for module in edges:
        if module not in done:
            yield from walk(module, (module,))


def project_sources() -> list[Source]:
    files = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    return [Source(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")) for file in files]


def test_every_import_keeps_to_its_room() -> None:
    listed = dependencies((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = violations(project_sources(), listed)
    assert not found, "\n" + "\n".join(map(str, found))


def test_the_rooms_are_found() -> None:
    modules = {source.module for source in project_sources()}
    assert {"wire", "wire.openai", "rules", "rules.decide"} <= modules


def test_everything_on_the_lists_exists() -> None:
    assert set(IMPURE) <= set(sys.stdlib_module_names)
    listed = dependencies((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"mitmproxy", "httpx", "yaml", "orjson", "pydantic", "cachetools", "uvloop"} <= listed
    for room, allowed in MAY_IMPORT.items():
        assert allowed - {room} <= listed


LISTED = frozenset({"httpx", "mitmproxy", "yaml", "pydantic", "orjson", "cachetools"})


def seen(**files: str) -> list[str]:
    """What is found in files; `wire__a` stands for wire/a.py."""
    sources = [Source(f"{name.replace('__', '/', 1)}.py", text) for name, text in files.items()]
    return list(map(str, violations(sources, LISTED)))


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("wire__a", "import rules", 1),
        ("wire__a", "import rules.decide as d", 1),
        ("wire__a", "from rules import decide", 1),
        ("wire__a", "from addons.layer import X", 1),
        ("wire__a", "import yaml", 1),
        ("wire__a", "import httpx", 1),
        ("wire__a", "import json, os", 1),
        ("wire__a", "import os.path", 1),
        ("wire__a", "from os import environ", 1),
        ("wire__a", "from urllib import request", 1),
        ("wire__a", "from urllib.request import urlopen", 1),
        ("wire__a", "import urllib.request", 1),
        ("wire__a", "from ..rules import decide", 1),
        ("rules__a", "import wire.openai", 1),
        ("rules__a", "import orjson", 1),
        ("rules__a", "import mitmproxy", 1),
        ("rules__a", "import time", 1),
        ("rules__a", "import random", 1),
        ("rules__a", "import secrets", 1),
        ("rules__a", "import asyncio", 1),
        ("rules__a", "import socket", 1),
        ("rules__a", "import threading", 1),
        ("rules__a", "import subprocess", 1),
        ("rules__a", "from pathlib import Path", 1),
        ("rules__a", "\nif TYPE_CHECKING:\n    from wire.openai import Json", 3),
        ("rules__a", "try:\n    import re\nexcept ImportError:\n    import regex", 4),
        ("rules__a", "class A:\n    import logging", 2),
        ("rules__a", "x = 1\ny = open('f')", 2),
        ("rules__a", "print('x')", 1),
        ("rules__a", "m = __import__('os')", 1),
        ("rules__a", "from datetime import datetime\nt = datetime.now()", 2),
        ("rules__a", "import datetime\nt = datetime.date.today()", 2),
        ("addons__a", "import requests", 1),
        ("addons__a", "import mitmproxy_rs", 1),
        ("addons__a", "import tests.standins", 1),
        ("addons__a", "def f():\n    import re", 2),
        ("addons__a", "def f():\n    import re  # noqa: PLC0415", 2),
        ("addons__a", "async def f():\n    if True:\n        from wire import sse", 3),
        ("addons__a", "class A:\n    def f(self):\n        import re", 3),
        ("wire__a", "def f():\n    import re", 2),
    ],
)
def test_a_violation_is_found_on_its_line(name: str, text: str, line: int) -> None:
    found = seen(**{name: text})
    assert len(found) == 1, found
    assert found[0].startswith(f"{name.replace('__', '/')}.py:{line}: ")


def test_an_import_inside_a_function_does_not_escape_the_table() -> None:
    found = seen(rules__a="def f():\n    import time  # only here")
    assert found == ["rules/a.py:2: rules imports time: clock"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "wire__a",
            "from __future__ import annotations\nimport re, json\nimport orjson, pydantic\nfrom wire.sse import Event",
        ),
        ("wire__a", "from . import sse\nfrom .sse import Event"),
        ("wire__a", "from urllib.parse import urlsplit\nimport hashlib, hmac, ipaddress"),
        (
            "rules__a",
            "import yaml\nfrom cachetools import TTLCache\nfrom pydantic import BaseModel\nfrom rules import access",
        ),
        ("rules__a", "from datetime import date\nd = date(2020, 1, 1)\nself.now()\nprinter('x')"),
        (
            "addons__a",
            "import os, time, asyncio\nimport httpx\nfrom mitmproxy.proxy import layer\nimport rules, wire.sse",
        ),
        ("addons__a", "print(open('f'))"),
        ("addons__a", "def f():\n    import re  # mitmproxy reloads this file and must not see it"),
        ("addons__a", "def f():\n    from re import (\n        match,  # costs a second at the start\n    )"),
        ("addons__a", "if TYPE_CHECKING:\n    import httpx"),
    ],
)
def test_what_the_table_allows_is_not_a_violation(name: str, text: str) -> None:
    assert seen(**{name: text}) == []


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        ({"wire__a": "import wire.b", "wire__b": "import wire.a"}, "wire.a -> wire.b -> wire.a"),
        ({"wire__a": "from wire import b", "wire__b": "from wire.a import x"}, "wire.a -> wire.b -> wire.a"),
        ({"wire__a": "from . import b", "wire__b": "from .a import x"}, "wire.a -> wire.b -> wire.a"),
        ({"wire__a": "import wire.a"}, "wire.a -> wire.a"),
        ({"wire____init__": "from wire.a import x", "wire__a": "from wire import x"}, "wire -> wire.a -> wire"),
        (
            {
                "rules__a": "import rules.b",
                "rules__b": "import rules.c",
                "rules__c": "if TYPE_CHECKING:\n    import rules.b",
            },
            "rules.b -> rules.c -> rules.b",
        ),
        (
            {"addons__a": "import addons.b", "addons__b": "def f():\n    import addons.a  # late"},
            "addons.a -> addons.b -> addons.a",
        ),
    ],
)
def test_a_circle_is_found(files: dict[str, str], circle: str) -> None:
    found = seen(**files)
    assert len(found) == 1, found
    assert found[0].endswith(f"closes a circle: {circle}")


def test_two_ways_to_one_module_are_no_circle() -> None:
    assert seen(wire__a="import wire.b, wire.c", wire__b="import wire.c", wire__c="", addons__a="import wire.a") == []
