"""TLS towards clients and towards backends."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from router.config.base import Table, WrongKey

TlsVersion = Literal["1.2", "1.3"]


class ServerTlsConfig(Table):
    """TLS for clients. The files are read when a process starts: a rolling restart takes a renewed certificate."""

    cert_file: str = Field(min_length=1, description="The gateway's certificate, followed by its chain; PEM.")
    key_file: str = Field(min_length=1, description="Its private key, unencrypted; PEM.")
    min_version: TlsVersion = Field("1.2", description="Oldest version of TLS that is spoken.")
    client_ca_file: str | None = Field(
        None,
        min_length=1,
        description="Mutual TLS: only clients with a certificate that one of these has signed may connect; keys are "
        "asked for all the same.",
    )


class BackendTlsConfig(Table):
    """TLS for a backend with an https URL; its certificate is always verified."""

    ca_file: str | None = Field(
        None, min_length=1, description="Certificates that are trusted instead of the system's; PEM."
    )
    cert_file: str | None = Field(
        None, min_length=1, description="Certificate, with its chain, that the gateway shows to the backend; PEM."
    )
    key_file: str | None = Field(None, min_length=1, description="Its private key, unencrypted; PEM.")

    @model_validator(mode="after")
    def _pair(self) -> BackendTlsConfig:
        if (self.cert_file is None) != (self.key_file is None):
            missing = "key_file" if self.key_file is None else "cert_file"
            raise WrongKey(missing, "is missing: cert_file and key_file come together")
        return self
