"""TLS contexts from the configuration. What is wrong with a file is told by its key, never by its content."""

from __future__ import annotations

import ssl
from pathlib import Path

from router.config import ConfigError
from router.config.tls import BackendTlsConfig, ServerTlsConfig

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def server_context(config: ServerTlsConfig) -> ssl.SSLContext:
    """For clients. Raises: ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[config.min_version]
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, config.cert_file, config.key_file, "server.tls")
    if config.client_ca_file is not None:
        _load_trusted(context, config.client_ca_file, "server.tls.client_ca_file")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def backend_context(config: BackendTlsConfig, table: str) -> ssl.SSLContext:
    """For a backend; host name and certificate are verified.

    Args:
        table: that of the backend, for messages.
    Raises:
        ConfigError.
    """
    context = client_context(config.ca_file, f"{table}.tls.ca_file")
    if config.cert_file is not None and config.key_file is not None:
        _load_pair(context, config.cert_file, config.key_file, f"{table}.tls")
    return context


def client_context(ca_file: str | None, key: str) -> ssl.SSLContext:
    """For a server whose host name and certificate are verified.

    Args:
        ca_file: what is trusted instead of the system's certificates.
        key: that names the file, for messages.
    Raises:
        ConfigError.
    """
    if ca_file is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_trusted(context, ca_file, key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load_pair(context: ssl.SSLContext, cert_file: str, key_file: str, table: str) -> None:
    for key, name in (("cert_file", cert_file), ("key_file", key_file)):
        _check_readable(name, f"{table}.{key}")
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except (ssl.SSLError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or "not PEM, or encrypted"
        raise ConfigError(table, [f"cert_file and key_file cannot be used together: {reason}"]) from exc


def _load_trusted(context: ssl.SSLContext, name: str, key: str) -> None:
    _check_readable(name, key)
    try:
        context.load_verify_locations(cafile=name)
    except ssl.SSLError as exc:
        raise ConfigError(key, [f"{name} holds no certificate in PEM form"]) from exc


def _check_readable(name: str, key: str) -> None:
    try:
        with Path(name).open("rb"):
            pass
    except OSError as exc:
        raise ConfigError(key, [f"cannot read {name}: {exc.strerror}"]) from exc


def _no_password() -> str:
    """Without it OpenSSL asks at the terminal, and a service would hang there."""
    raise ValueError("the key is encrypted")
