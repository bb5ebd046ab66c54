"""What the environment says to OpenTelemetry, and what of it nobody may see."""

from __future__ import annotations

import pytest

from rules.tracing import secrets_in, tracing_of


def test_only_opentelemetrys_variables_are_kept() -> None:
    assert tracing_of({"OTEL_SERVICE_NAME": "x", "PATH": "/bin", "otel_a": "1"}) == {"OTEL_SERVICE_NAME": "x"}


@pytest.mark.parametrize(("name", "value", "secrets"), [
    ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=first-key", {"first-key"}),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", " a = one-key , b=two-key", {"one-key", "two-key"}),
    ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20a%2Fb", {"Bearer%20a%2Fb", "Bearer a/b", "a/b"}),
    ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic dXNlcg==", {"Basic dXNlcg==", "dXNlcg=="}),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:pass%20word@collector:4318", {"pass%20word", "pass word"}),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318", set()),
    ("OTEL_SERVICE_NAME", "api-key=not-one", set()),
])  # fmt: skip
def test_the_keys_for_a_collector_are_secrets_however_they_are_spelled(
    name: str, value: str, secrets: set[str]
) -> None:
    assert set(secrets_in({name: value})) == secrets


def test_a_header_without_a_value_is_no_secret() -> None:
    assert {secret for secret in secrets_in({"OTEL_EXPORTER_OTLP_HEADERS": "api-key,"}) if secret} == set()
