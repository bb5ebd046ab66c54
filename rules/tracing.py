"""What the environment says to OpenTelemetry, and what of that is secret.

Its variables are no part of the file. But they come the same way, from the environment or from the .env file beside
it, and the headers for a collector hold keys like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from rules.stores import passwords_in

PREFIX = "OTEL_"


def tracing_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are OpenTelemetry's."""
    return {name: value for name, value in environment.items() if name.startswith(PREFIX)}


def secrets_in(tracing: Mapping[str, str]) -> Iterator[str]:
    """The values of the headers for a collector, as they are written and as they are sent, and passwords in its URL."""
    for name, value in tracing.items():
        if name.endswith("_HEADERS"):
            for header in value.split(","):
                written = header.partition("=")[2].strip()
                for spelled in {written, unquote(written)}:
                    yield spelled
                    yield spelled.rpartition(" ")[2]  # a key without its `Bearer`
        elif name.endswith("_ENDPOINT"):
            yield from passwords_in(value)
