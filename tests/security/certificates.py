"""A small certificate authority, made with the openssl command when a test needs one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

OPENSSL = shutil.which("openssl")
NEEDED = pytest.mark.skipif(OPENSSL is None, reason="needs the openssl command")


class Pair(NamedTuple):
    """A certificate and its key."""

    cert: str
    key: str


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = name
        self.cert, self._key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign", "-keyout", self._key, "-out", self.cert,
        )  # fmt: skip

    def issue(self, name: str, *, address: str = "127.0.0.1") -> Pair:
        cert, key, request = (str(self._folder / f"{self._name}-{name}.{end}") for end in ("pem", "key", "csr"))
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=IP:{address}\nbasicConstraints=CA:FALSE\n")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", key, "-out", request,
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days", "2",
            "-extfile", str(extensions), "-out", cert,
        )  # fmt: skip
        return Pair(cert, key)


def _openssl(*arguments: str) -> None:
    subprocess.run([OPENSSL or "", *arguments], check=True, capture_output=True)
