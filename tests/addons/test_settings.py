"""Where settings come from, and what is said when they cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from addons.settings import SHIPPED_RULES, LogSettings, SettingsError, read_rules, upstream_tls

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
    ({"DEBUG": "1", "LOG_LEVEL": "ERROR"}, LogSettings("ERROR", "")), ({"LOG_FORMAT": "JSON"}, LogSettings("INFO", "json")),
])  # fmt: skip
def test_the_log_is_set_by_its_names(environment: dict[str, str], log: LogSettings, tmp_path: Path) -> None:
    assert read_rules(write(tmp_path), environment)[1] == log


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^there is no rules file at .*/none\.yaml$"):
        read_rules(tmp_path / "none.yaml", {})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read: .*Is a directory"):
        read_rules(tmp_path, {})
    (tmp_path / "latin.yaml").write_bytes(b"# gr\xf6\xdfe")
    with pytest.raises(SettingsError, match=r"cannot be read: .*utf-8"):
        read_rules(tmp_path / "latin.yaml", {})


def test_faults_in_the_file_are_all_told_with_its_name(tmp_path: Path) -> None:
    file = write(tmp_path, "providers: {s: {dialect: nope}}\nrules: [{name: all, use: [t/x]}]\nextra: 1")
    with pytest.raises(SettingsError) as caught:
        read_rules(file, {})
    assert str(caught.value).startswith(f"{file} has 3 faults:\n  line 1: ")


SECRET = "proxy: {host: '${secrets:host-name:-none}'}\n" + RULES.partition("\n")[2]


def host_of(file: Path, environment: dict[str, str]) -> str:
    return read_rules(file, environment)[0].file.proxy.host


def test_a_mounted_secret_is_read_from_the_folder_that_is_named_without_its_lines_end(tmp_path: Path) -> None:
    file = write(tmp_path, SECRET, env=f"SECRETS_DIR={tmp_path / 'mounted'}\nHOST_NAME=variable\n")
    assert host_of(file, {}) == "variable"
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted" / "host-name").write_bytes(b" from a file \r\n")
    assert host_of(file, {}) == " from a file "
    assert host_of(file, {"SECRETS_DIR": str(tmp_path / "elsewhere")}) == "variable"


def test_what_is_no_file_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "host-name").mkdir()
    file = write(tmp_path, SECRET)
    assert host_of(file, {"SECRETS_DIR": str(tmp_path)}) == "none"
    assert host_of(file, {"SECRETS_DIR": str(file)}) == "none"


@pytest.mark.parametrize(("content", "words"), [
    (b"\xff\xfe", r"the secret .*/host-name is not UTF-8 text"),
    (b"x" * 65537, r"the secret .*/host-name is too long: 64 KiB at most"),
])  # fmt: skip
def test_a_secret_that_cannot_be_read_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "host-name").write_bytes(content)
    with pytest.raises(SettingsError, match=words):
        host_of(write(tmp_path, SECRET), {"SECRETS_DIR": str(tmp_path)})


def test_a_secret_that_leads_round_in_a_circle_is_named(tmp_path: Path) -> None:
    (tmp_path / "host-name").symlink_to(tmp_path / "host-name")
    with pytest.raises(SettingsError, match=r"the secret .*/host-name cannot be read: Too many levels"):
        host_of(write(tmp_path, SECRET), {"SECRETS_DIR": str(tmp_path)})


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
