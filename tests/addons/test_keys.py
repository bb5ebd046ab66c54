"""`unigate keys` on real files: a key is shown once, and a file is replaced as a whole or not at all."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer.testing

from addons.cli import app
from addons.keys import add, digest, new_key, open_rules
from addons.settings import SettingsError, read_rules
from rules.access import Client, Denied

ROOT = Path(__file__).parents[2]
REST = "providers: {s: {dialect: sandbox}}\nrules: [{name: all, use: [s/echo]}]\n"
KEY = re.compile(r"^  (sk-unigate-[A-Za-z0-9_-]{43})$", re.MULTILINE)
NOW = 1.8e9

type Keys = Callable[..., str]


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Runs `unigate keys ...` in a folder of its own, and gives what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("API_KEYS", raising=False)
    (tmp_path / "rules.yaml").write_text(REST)

    def run(*arguments: str, code: int = 0) -> str:
        done = typer.testing.CliRunner().invoke(app, ["keys", *arguments], env={"COLUMNS": "200"})
        if isinstance(done.exception, SettingsError):
            assert code == 2, done.exception
            return str(done.exception)
        assert done.exit_code == code, done.output
        return done.output

    return run


def identified(path: Path, key: str, **environment: str) -> str | None:
    found = read_rules(path, environment)[0].keys.identify(key, NOW)
    return found.name if isinstance(found, Client) else None


def written(folder: Path) -> str:
    return (folder / "rules.yaml").read_text()


def shown_key(output: str) -> str:
    (key,) = KEY.findall(output)
    return str(key)


def test_no_two_keys_are_the_same() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"sk-unigate-[A-Za-z0-9_-]{43}", key) for key in made)


def test_a_new_key_is_printed_with_what_to_write_and_nothing_is_written(keys: Keys, tmp_path: Path) -> None:
    output = keys("new", "notebook")
    key = shown_key(output)
    assert written(tmp_path) == REST
    (line,) = [line for line in output.splitlines() if line.startswith("  notebook:")]
    assert line == f'  notebook: {{key: "{digest(key)}"}}'
    (tmp_path / "rules.yaml").write_text(f"clients:\n{line}\n{REST}")
    assert identified(tmp_path / "rules.yaml", key) == "notebook"
    assert "takes effect when the gateway is started" in output


def test_a_further_key_of_a_client_is_one_more_of_its_keys(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("clients: {notebook: {key: old-key-0123}}\n" + REST)
    output = keys("new", "notebook")
    assert f'one more of its `keys`:\n  "{digest(shown_key(output))}"\n' in output


def test_a_key_that_is_added_works_and_the_file_never_holds_it(keys: Keys, tmp_path: Path) -> None:
    first, second, other = (shown_key(keys("new", name, "--add")) for name in ("notebook", "notebook", "phone"))
    file = tmp_path / "rules.yaml"
    assert [identified(file, key) for key in (first, second, other)] == ["notebook", "notebook", "phone"]
    assert not [key for key in (first, second, other) if key in written(tmp_path)]
    assert written(tmp_path) == (
        f"{REST}\nclients:\n"
        f'  notebook: {{key: "{digest(first)}", keys: ["{digest(second)}"]}}\n'
        f'  phone: {{key: "{digest(other)}"}}\n'
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["rules.yaml"]


def test_who_adds_a_key_beside_others_is_told_that_they_go_on_to_work(keys: Keys) -> None:
    said = [keys("new", "notebook", "--add").partition("next time.\n")[2] for _ in range(3)]
    assert said == [
        "It is the first client: from then on every call needs a key, also from this machine.\n",
        "notebook has 2 keys now: the old one goes on to work until it is revoked (`unigate keys revoke notebook --key "
        "...`).\n",
        "notebook has 3 keys now: the old ones go on to work until they are revoked (`unigate keys revoke notebook --key "
        "...`).\n",
    ]
    keys("revoke", "notebook")
    assert "keys now" not in keys("new", "notebook", "--add"), "the only one that works is the new one"


def test_the_shipped_file_takes_a_client(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_bytes((ROOT / "rules.yaml").read_bytes())
    key = shown_key(keys("new", "notebook", "--add"))
    assert identified(tmp_path / "rules.yaml", key) == "notebook"
    assert "notebook" in keys("list")


def test_keys_that_are_added_at_the_same_time_are_all_there(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    opened = [open_rules(file, {}) for _ in range(8)]
    made = [new_key() for _ in opened]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, opened, [f"c{number}" for number in range(8)], made))
    assert [identified(file, key) for key in made] == [f"c{number}" for number in range(8)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rules.yaml"]


def test_what_an_editor_wrote_meanwhile_is_kept(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    opened = open_rules(file, {})
    file.write_text("# new\n" + REST)
    add(opened, "notebook", "notebook-key-0123")
    assert written(tmp_path).startswith("# new\n" + REST)
    file.write_text("# half a line {\n{")
    with pytest.raises(SettingsError, match="this is not YAML"):
        add(opened, "phone", "phone-key-0123")
    assert written(tmp_path) == "# half a line {\n{"


def test_a_change_that_would_make_faults_is_not_made(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("proxy: {auth: {enabled: false}}\n" + REST)
    said = keys("new", "notebook", "--add", code=2)
    assert said.startswith("rules.yaml is left as it is, for with this change rules.yaml has 1 fault:\n  line 1: ")
    assert written(tmp_path) == "proxy: {auth: {enabled: false}}\n" + REST


@pytest.mark.parametrize("arguments", [["--add"], []])
def test_who_makes_the_first_client_is_told_that_every_call_needs_a_key_then(
    keys: Keys, arguments: list[str], tmp_path: Path
) -> None:
    told = "It is the first client: from then on every call needs a key, also from this machine.\n"
    assert keys("new", "notebook", *arguments).endswith(told)
    (tmp_path / "rules.yaml").write_text("proxy: {auth: {tokens: [one-key-0123]}}\n" + REST)
    assert told not in keys("new", "notebook", *arguments)


def test_another_file_may_be_named(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(REST)
    key = shown_key(keys("new", "notebook", "--add", "--rules", "mine.yaml"))
    assert identified(tmp_path / "mine.yaml", key) == "notebook"
    assert written(tmp_path) == REST


def test_mode_and_link_stay_what_they_were(keys: Keys, tmp_path: Path) -> None:
    real = tmp_path / "deep" / "real.yaml"
    real.parent.mkdir()
    real.write_text(REST)
    real.chmod(0o640)
    (tmp_path / "rules.yaml").unlink()
    (tmp_path / "rules.yaml").symlink_to(real)
    keys("new", "notebook", "--add")
    assert (tmp_path / "rules.yaml").is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert "notebook" in real.read_text()
    assert [entry.name for entry in real.parent.iterdir()] == ["real.yaml"]


def test_a_file_that_is_read_only_stays_as_it_is_and_no_key_is_shown(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").chmod(0o444)
    assert keys("new", "notebook", "--add", code=2) == "rules.yaml is read-only: nothing was changed"
    assert written(tmp_path) == REST


def test_a_file_that_cannot_be_replaced_stays_as_it_is(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_old: str, _new: str) -> None:
        raise OSError(16, "Device or resource busy")  # as a single file that is mounted into a container says

    monkeypatch.setattr(os, "replace", busy)
    said = keys("new", "notebook", "--add", code=2)
    assert said == "rules.yaml cannot be replaced (Device or resource busy): nothing was changed"
    assert written(tmp_path) == REST
    assert [entry.name for entry in tmp_path.iterdir()] == ["rules.yaml"]


@pytest.mark.parametrize("name", ["anonymous", "Key-1", "a b", "ä", ""])
def test_a_name_that_no_client_may_have_is_refused_before_a_key_is_made(name: str, keys: Keys, tmp_path: Path) -> None:
    assert keys("new", name, "--add", code=2).startswith(f"'{name}' cannot be a client's name: ")
    assert written(tmp_path) == REST


@pytest.mark.parametrize("name", ["-x", "--", ".", "1", "0x1f", "null", "yes", "2026-01-01", "clients", "A" * 64])
def test_a_name_that_yaml_would_read_as_something_else_is_a_name_all_the_same(
    name: str, keys: Keys, tmp_path: Path
) -> None:
    key = shown_key(keys("new", "--add", "--", name))
    assert identified(tmp_path / "rules.yaml", key) == name
    assert keys("revoke", "--", name).startswith(f"1 key of {name} removed from rules.yaml. ")
    assert identified(tmp_path / "rules.yaml", key) is None


def test_a_name_that_would_steer_a_terminal_is_shown_and_steers_none(keys: Keys) -> None:
    said = keys("new", "a\nb\x1b[31m" + "x" * 200, code=2)
    assert said.startswith("'a?b?[31m" + "x" * 92 + "' cannot be a client's name: ")
    assert keys("revoke", "a\nb\x1b[31m", code=2) == "there is no client 'a?b?[31m' in rules.yaml"


def test_a_script_gets_the_new_key_as_json(keys: Keys, tmp_path: Path) -> None:
    made = json.loads(keys("new", "notebook", "--json"))
    assert made == {
        "client": "notebook", "key": made["key"], "digest": digest(made["key"]), "file": "rules.yaml", "added": False
    }  # fmt: skip
    assert written(tmp_path) == REST
    added = json.loads(keys("new", "notebook", "--add", "--json"))
    assert (added["added"], identified(tmp_path / "rules.yaml", added["key"])) == (True, "notebook")


def test_a_pipe_can_be_listed_and_not_written_into(keys: Keys, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for words, code in ((["list"], 0), (["new", "notebook", "--add"], 2)):
        with ThreadPoolExecutor(1) as thread:
            thread.submit((tmp_path / "pipe").write_text, REST)
            said = keys(*words, "--rules", "pipe", code=code)
        assert ("no clients and no keys" in said) is (code == 0)
    assert said == "pipe is no plain file: a key cannot be written into it, or taken out of it"


def test_a_client_that_differs_in_its_case_alone_is_refused(keys: Keys, tmp_path: Path) -> None:
    keys("new", "notebook", "--add")
    before = written(tmp_path)
    assert "client 'notebook' has the same name but for its case" in keys("new", "Notebook", "--add", code=2)
    assert written(tmp_path) == before


def test_a_file_with_faults_is_not_touched_and_its_faults_are_told(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(REST + "extra: 1\n")
    for command in (["new", "notebook", "--add"], ["new", "notebook"], ["list"], ["revoke", "notebook"]):
        assert "line 3: extra: unknown key" in keys(*command, code=2)
    assert "there is no rules file at none.yaml" in keys("list", "--rules", "none.yaml", code=2)


def test_a_file_written_with_an_alias_is_left_to_its_writer(keys: Keys, tmp_path: Path) -> None:
    text = "clients: {one: &row {key: '${A:-}'}, two: *row}\n" + REST
    (tmp_path / "rules.yaml").write_text(text)
    said = keys("new", "two", "--add", code=2)
    assert said.startswith("rules.yaml is left as it is: ")
    assert said.endswith("Change it by hand")
    assert written(tmp_path) == text


def test_revoking_takes_every_key_of_the_client_and_nothing_else(keys: Keys, tmp_path: Path) -> None:
    one, two, other = (shown_key(keys("new", name, "--add")) for name in ("notebook", "notebook", "phone"))
    output = keys("revoke", "notebook")
    assert output == (
        "2 keys of notebook removed from rules.yaml. This takes effect when the gateway is started the next time.\n"
    )
    file = tmp_path / "rules.yaml"
    assert [identified(file, key) for key in (one, two, other)] == [None, None, "phone"]
    assert "  notebook: {}\n" in written(tmp_path)
    assert "client 'notebook' has no key" in keys("revoke", "notebook", code=2)
    assert identified(file, shown_key(keys("new", "notebook", "--add"))) == "notebook"


def test_one_key_is_revoked_by_the_beginning_of_its_digest(keys: Keys, tmp_path: Path) -> None:
    one, two = (shown_key(keys("new", "notebook", "--add")) for _ in range(2))
    assert keys("revoke", "notebook", "--key", digest(one)[7:15].upper()).startswith("1 key of notebook removed from ")
    assert [identified(tmp_path / "rules.yaml", key) for key in (one, two)] == [None, "notebook"]
    assert "no key whose digest begins with" in keys("revoke", "notebook", "--key", digest(one)[7:15], code=2)


@pytest.mark.parametrize("key", ["", "12", "sha256:12", "xyzw", "12345678 "])
def test_what_begins_no_digest_revokes_nothing(key: str, keys: Keys, tmp_path: Path) -> None:
    keys("new", "notebook", "--add")
    before = written(tmp_path)
    assert "the beginning of a digest, 4 hex digits or more" in keys("revoke", "notebook", "--key", key, code=2)
    assert written(tmp_path) == before


def test_a_beginning_that_several_digests_have_is_too_short(keys: Keys, tmp_path: Path) -> None:
    twins = ", ".join(f'"sha256:abcd{number:060x}"' for number in range(2))
    (tmp_path / "rules.yaml").write_text(f"clients: {{notebook: {{keys: [{twins}]}}}}\n{REST}")
    assert keys("revoke", "notebook", "--key", "abcd", code=2) == (
        "2 keys of client 'notebook' begin with abcd; write more of the digest"
    )
    keys("revoke", "notebook", "--key", f"abcd{1:060x}")
    assert f'keys: ["sha256:abcd{0:060x}"]' in written(tmp_path)


def test_a_key_from_the_environment_must_go_there(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules.yaml").write_text('clients: {notebook: {key: "${NOTEBOOK}", keys: [plain-key-0123]}}\n' + REST)
    monkeypatch.setenv("NOTEBOOK", "first-key-0123, second-key-0123")
    there = (
        "A key of notebook comes from ${NOTEBOOK}: remove it there, in the environment, the .env file or the secret.\n"
    )
    before = written(tmp_path)
    assert keys("revoke", "notebook", "--key", digest("second-key-0123")[7:15], code=1) == there
    assert written(tmp_path) == before
    output = keys("revoke", "notebook", code=1)
    assert output.startswith("1 key of notebook removed from rules.yaml. ")
    assert output.endswith(there)
    assert 'notebook: {key: "${NOTEBOOK}"}' in written(tmp_path)


def test_a_client_that_there_is_not_is_named(keys: Keys) -> None:
    keys("new", "notebook", "--add")
    assert keys("revoke", "notebok", code=2) == "there is no client 'notebok' in rules.yaml (did you mean 'notebook'?)"


def test_a_key_without_a_name_is_told_where_it_stands(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("proxy: {auth: {tokens: [loose-key-0123]}}\n" + REST)
    name = f"key-{digest('loose-key-0123')[7:15]}"
    said = keys("revoke", name, code=2)
    assert said.startswith(
        f"{name} is no client but a key without a name: take it out of `proxy.auth.tokens` of rules."
    )
    assert keys("revoke", "key-00000000", code=2) == "there is no client 'key-00000000' in rules.yaml"


def test_a_key_can_be_changed_over_in_three_steps(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    old = shown_key(keys("new", "notebook", "--add"))
    new = shown_key(keys("new", "notebook", "--add"))
    assert identified(file, old) == identified(file, new) == "notebook"
    keys("revoke", "notebook", "--key", digest(old)[7:15])
    assert (identified(file, old), identified(file, new)) == (None, "notebook")


def test_a_digest_that_expires_tomorrow_is_good_today(keys: Keys, tmp_path: Path) -> None:
    key = shown_key(keys("new", "notebook", "--add"))
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    (tmp_path / "rules.yaml").write_text(written(tmp_path).replace('"}', f'", expires: {tomorrow}}}'))
    rules = read_rules(tmp_path / "rules.yaml", {})[0]
    moment = datetime.now(UTC).timestamp()
    assert isinstance(rules.keys.identify(key, moment), Client)
    assert isinstance(rules.keys.identify(key, moment + 2 * 86400), Denied)
    assert open_rules(tmp_path / "rules.yaml", {}).file == rules.file
