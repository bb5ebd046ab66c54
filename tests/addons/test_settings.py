"""Where settings come from, and what is said when they cannot be used."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from addons.files import Unreadable, read_small
from addons.settings import SHIPPED_RULES, LogSettings, SettingsError, read_rules
from addons.tls import upstream_tls

RULES = "proxy: {port: '${PORT:-1}'}\nproviders: {s: {dialect: sandbox}}\nrules: [{name: all, use: [s/echo]}]"


def write(folder: Path, rules: str = RULES, env: str | None = None) -> Path:
    file = folder / "rules.yaml"
    file.write_text(rules)
    if env is not None:
        (folder / ".env").write_text(env)
    return file


def test_the_environment_wins_over_the_env_file_which_wins_over_the_default(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert read_rules(file, {})[0].file.proxy.port == 1
    write(tmp_path, env="PORT=2\nEMPTY\n")
    assert read_rules(file, {})[0].file.proxy.port == 2
    assert read_rules(file, {"PORT": "3"})[0].file.proxy.port == 3


def test_without_a_path_the_file_in_the_folder_is_read_and_else_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(read_rules(None, {})[0].rules) > 1
    write(tmp_path)
    assert len(read_rules(None, {})[0].rules) == 1
    assert SHIPPED_RULES.exists()


@pytest.mark.parametrize(("environment", "log"), [
    ({}, LogSettings("INFO", "")), ({"DEBUG": "true"}, LogSettings("DEBUG", "")), ({"DEBUG": "0"}, LogSettings("INFO", "")),
    ({"DEBUG": " No "}, LogSettings("INFO", "")), ({"DEBUG": "maybe", "LOG_LEVEL": "ERROR"}, LogSettings("ERROR", "")),
    ({"DEBUG": "maybe"}, LogSettings("INFO", "", ("DEBUG is neither yes nor no, and counts as no: write 1 or 0",))),
    ({"DEBUG": "1", "LOG_LEVEL": "ERROR"}, LogSettings("ERROR", "")), ({"LOG_FORMAT": "JSON"}, LogSettings("INFO", "json")),
])  # fmt: skip
def test_the_log_is_set_by_its_names(environment: dict[str, str], log: LogSettings, tmp_path: Path) -> None:
    assert read_rules(write(tmp_path), environment)[1] == log


USED = "limits: {each_client: '${RATE_LIMIT_REQUESTS:-}/${my_window:-60}', store: '${REDIS_URL:-}'}\n"
USED += "clients: {app: {key: '${secrets:app-key:-}'}}\n"


@pytest.mark.parametrize(("env", "environment", "meant"), [
    ("RATE_LIMIT_REQUEST=5", {}, "'RATE_LIMIT_REQUESTS'"),
    ("RATE_LIMIT_REQUEST=5\nRATE_LIMIT_REQUESTS=", {}, "'RATE_LIMIT_REQUESTS'"),
    ("rate_limit_requests=5", {}, "'RATE_LIMIT_REQUESTS'"),
    ("MY_WINDOWS=5", {}, "'my_window'"),
    ("REDIS_URI=redis://here", {"OTHER": "x"}, "'REDIS_URL'"),
    ("APP_KEYS=x", {}, "'APP_KEY'"),
    ("LOG_LEVL=DEBUG", {}, "'LOG_LEVEL'"),
    ("LOGFORMAT=json", {}, "'LOG_FORMAT'"),
    ("SECRET_DIR=/mine", {}, "'SECRETS_DIR'"),
])  # fmt: skip
def test_a_name_of_the_env_file_that_is_near_to_one_that_is_used_is_told(
    env: str, environment: dict[str, str], meant: str, tmp_path: Path
) -> None:
    (doubt,) = read_rules(write(tmp_path, USED + RULES, env), environment)[1].doubts
    assert doubt == f".env: {env.partition('=')[0]} is used nowhere (did you mean {meant}?)"


@pytest.mark.parametrize(("env", "environment"), [
    ("RATE_LIMIT_REQUESTS=5\nPORT=80\nAPP_KEY=a-key-0123456\nREDIS_URL=redis://here\nmy_window=60", {}),
    ("LOG_LEVEL=INFO\nLOG_FORMAT=json\nDEBUG=0\nSECRETS_DIR=/mine", {}),
    ("OTEL_SERVICE_NAMES=x\nOTEL_EXPORTER_OTLP_LOGS_ENDPOINT=x", {}),
    ("DATABASE_URL=x\nAPI_URL=x\nDB_PORT=1\nREDIS_HOST=x\nOPENAI_API_KEY=x\nRATE_LIMIT=5\nMONGO_URL=x", {}),
    ("RATE_LIMIT_REQUEST=5\nRATE_LIMIT_REQUESTS=5", {}),  # the one that is meant is there: this is another program's
    ("RATE_LIMIT_REQUEST=5", {"RATE_LIMIT_REQUESTS": "5"}),
    ("RATE_LIMIT_REQUEST=5", {"RATE_LIMIT_REQUEST": "6"}),
    ("", {"RATE_LIMIT_REQUEST": "5", "LOG_LEVL": "DEBUG"}),
    ("RATE_LIMIT_REQUEST\n# REDIS_URI=x", {}),
])  # fmt: skip
def test_names_of_the_env_file_that_are_used_or_other_programs_are_not_told(
    env: str, environment: dict[str, str], tmp_path: Path
) -> None:
    assert read_rules(write(tmp_path, USED + RULES, env), environment)[1].doubts == ()


def test_several_doubts_are_told_one_by_one_in_the_order_of_the_env_file(tmp_path: Path) -> None:
    file = write(tmp_path, USED + RULES, "DEBUG=maybe\nREDIS_URI=x\nPORTS=1")
    _, log = read_rules(file, {})
    assert [doubt.partition(" ")[0] for doubt in log.doubts] == ["DEBUG", ".env:", ".env:"]
    assert log.doubts[1].startswith(".env: REDIS_URI ")


def test_an_env_file_that_can_be_read_once_is_read_once(tmp_path: Path) -> None:
    file = write(tmp_path, USED + RULES)
    os.mkfifo(tmp_path / ".env")
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit((tmp_path / ".env").write_text, "PORT=7\nREDIS_URI=x\n")
        rules, log = read_rules(file, {})
        written.result()
    assert (rules.file.proxy.port, len(log.doubts)) == (7, 1)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^there is no rules file at .*/none\.yaml$"):
        read_rules(tmp_path / "none.yaml", {})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^the rules file /.* is a folder; name the file in it$"):
        read_rules(tmp_path, {})
    (tmp_path / "latin.yaml").write_bytes(b"# \n# gr\xf6\xdfe")
    with pytest.raises(SettingsError, match=r"^the rules file /.*/latin\.yaml is not UTF-8 text: see line 2$"):
        read_rules(tmp_path / "latin.yaml", {})


def test_faults_in_the_file_are_all_told_with_its_name(tmp_path: Path) -> None:
    file = write(tmp_path, "providers: {s: {dialect: nope}}\nrules: [{name: all, use: [t/x]}]\nextra: 1")
    with pytest.raises(SettingsError) as caught:
        read_rules(file, {})
    assert str(caught.value).startswith(f"{file} has 3 faults:\n  line 1: ")


SECRET = """providers: {o: {dialect: openai, urls: ["http://o.test"], key: "${secrets:host-name:-none}"}}
rules: [{name: all, use: [o/x]}]
"""


def secret_of(file: Path, environment: dict[str, str]) -> str:
    key = read_rules(file, environment)[0].file.providers["o"].key
    assert key is not None
    return key.get_secret_value()


def test_a_mounted_secret_is_read_from_the_folder_that_is_named_without_its_lines_end(tmp_path: Path) -> None:
    file = write(tmp_path, SECRET, env=f"SECRETS_DIR={tmp_path / 'mounted'}\nHOST_NAME=variable\n")
    assert secret_of(file, {}) == "variable"
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted" / "host-name").write_bytes(b" from a file \r\n")
    assert secret_of(file, {}) == " from a file "
    assert secret_of(file, {"SECRETS_DIR": str(tmp_path / "elsewhere")}) == "variable"


def test_a_secret_that_is_nowhere_is_told_with_the_file_that_was_looked_for(tmp_path: Path) -> None:
    file = write(tmp_path, SECRET.replace(":-none", ""))
    looked_for = re.escape(
        f"there is no file {tmp_path}/host-name (SECRETS_DIR says where), and the environment has no "
    )
    with pytest.raises(SettingsError, match=f"{looked_for}host-name and no HOST_NAME; "):
        secret_of(file, {"SECRETS_DIR": str(tmp_path)})


def test_a_folder_of_secrets_that_is_none_holds_none(tmp_path: Path) -> None:
    file = write(tmp_path, SECRET)
    assert secret_of(file, {"SECRETS_DIR": str(file)}) == "none"


def make_pipe(file: Path) -> None:
    os.mkfifo(file)


def make_round_link(file: Path) -> None:
    file.symlink_to(file)


def make_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def make_folder(file: Path) -> None:
    file.mkdir()


def make_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


@pytest.mark.parametrize(("make", "words"), [
    (make_pipe, "is no plain file, but a pipe or a device"),
    (make_device, "is no plain file, but a pipe or a device"),
    (make_folder, "is a folder and not a file; a container makes one where the file to mount is missing"),
    (make_round_link, "cannot be read: Too many levels of symbolic links"),
    (make_bytes(b"one\n\xff\xfe"), "is not UTF-8 text: see line 2"),
    (make_bytes("sk-key".encode("utf-16")), "is not UTF-8 text: see line 1"),
    (make_bytes(b"x" * 65537), "is too long: 64 KiB at most"),
])  # fmt: skip
def test_a_secret_that_cannot_be_read_is_named(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    secret = tmp_path / "host-name"
    make(secret)
    file = write(tmp_path, SECRET)
    with pytest.raises(SettingsError) as caught:
        secret_of(file, {"SECRETS_DIR": str(tmp_path)})
    assert str(caught.value) == f"the secret {secret} {words}"


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n", b"\xef\xbb\xbf"])
def test_an_empty_secret_is_a_fault_unless_it_is_optional_or_a_variable_has_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "host-name").write_bytes(content)
    needed = write(tmp_path, SECRET.replace(":-none", ""))
    there = {"SECRETS_DIR": str(tmp_path)}
    with pytest.raises(
        SettingsError,
        match=r"line 1: providers\.o\.key: the secret host-name is empty: the file .*/host-name holds nothing; \$\{secrets:host-name:",
    ):
        secret_of(needed, there)
    assert secret_of(needed, {**there, "HOST_NAME": "variable"}) == "variable"
    assert secret_of(write(tmp_path, SECRET), there) == "none"


@pytest.mark.parametrize("content", [b"a-key", b"a-key\n", b"a-key\r\n", b"\xef\xbb\xbfa-key\r\n", b"a-key\n\n"])
def test_what_editors_put_around_a_secret_is_no_part_of_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "host-name").write_bytes(content)
    assert secret_of(write(tmp_path, SECRET), {"SECRETS_DIR": str(tmp_path)}) == "a-key"


@pytest.mark.parametrize(("make", "words"), [
    (make_bytes(b"PORT=2\nNAME=\xff"), "is not UTF-8 text: see line 2"),
    (make_bytes(b"PORT=2\nAPI_KEYS=\"sk-secret\nHOST=x\n"), "cannot be read: line 2 is not NAME=value, or a quote in it is not closed"),
    (make_bytes(b"PORT=2\n= sk-secret\n"), "cannot be read: line 2 is not NAME=value, or a quote in it is not closed"),
    (make_device, "is too long: 4 MiB at most"),
    (make_round_link, "cannot be read: Too many levels of symbolic links"),
])  # fmt: skip
def test_an_env_file_that_cannot_be_read_is_named(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    make(tmp_path / ".env")
    with pytest.raises(SettingsError) as caught:
        read_rules(write(tmp_path), {})
    assert str(caught.value) == f"the file {tmp_path / '.env'} {words}"


def test_an_env_file_may_come_from_windows_and_a_folder_of_its_name_is_none(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfPORT=2\r\nHOST=x\r\n")
    assert read_rules(write(tmp_path), {})[0].file.proxy.port == 2
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert read_rules(write(tmp_path), {})[0].file.proxy.port == 1


def test_a_device_as_the_rules_file_is_read_no_further_than_a_file() -> None:
    with pytest.raises(SettingsError, match=r"^the rules file /dev/zero is too long: 4 MiB at most$"):
        read_rules(Path("/dev/zero"), {})


def test_rules_may_come_through_a_pipe_whose_writer_takes_its_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rules.yaml")

    def write_later() -> None:
        time.sleep(0.2)
        with (tmp_path / "rules.yaml").open("w") as pipe:
            for line in RULES.splitlines(keepends=True):
                pipe.write(line)
                pipe.flush()
                time.sleep(0.1)

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write_later)
        assert read_rules(tmp_path / "rules.yaml", {"PORT": "7"})[0].file.proxy.port == 7
        writing.result()


def test_a_pipe_into_which_nobody_writes_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unreadable, match=r"^is a pipe into which nobody has written for 0\.1 s$"):
        read_small(tmp_path / "pipe", 10, pipes=True, patience=0.1)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_trust_store_that_cannot_be_read_is_named(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "certificates.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(SettingsError, match=r"^SSL_CERT_FILE names no readable certificates: .*\.pem \("):
        upstream_tls()


def test_without_ssl_cert_file_public_authorities_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert upstream_tls().cert_store_stats()["x509_ca"] > 10


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sqlite:///calls.sqlite", "sqlite:///{folder}/calls.sqlite"),
        ("sqlite:////var/calls.sqlite", "sqlite:////var/calls.sqlite"),
        ("postgresql://me@there/calls", "postgresql://me@there/calls"),
    ],
)
def test_a_ledgers_file_is_beside_the_rules_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    (tmp_path / "rules.yaml").write_text(
        f"providers: {{s: {{dialect: sandbox}}}}\nrules: [{{name: all, use: s/echo}}]\nledger: {{url: {written}}}\n"
    )
    monkeypatch.chdir(tmp_path.parent)
    rules, _ = read_rules(Path(tmp_path.name) / "rules.yaml", {})
    assert rules.file.ledger is not None
    assert rules.file.ledger.url == meant.format(folder=tmp_path)
