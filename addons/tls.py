"""How the certificates of servers are checked. What reads settings alone need not wait for all of TLS to be loaded."""

from __future__ import annotations

import os
import ssl

import certifi

from addons.settings import SettingsError


def upstream_tls() -> ssl.SSLContext:
    """How upstream certificates are checked: SSL_CERT_FILE where it is set, else certifi's, as mitmproxy does it.

    Raises SettingsError.
    """
    file = os.environ.get("SSL_CERT_FILE")
    try:
        return ssl.create_default_context(cafile=file or certifi.where())
    except OSError as error:  # an SSLError is one too
        raise SettingsError(f"SSL_CERT_FILE names no readable certificates: {file} ({error})") from None
