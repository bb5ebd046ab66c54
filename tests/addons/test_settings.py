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
