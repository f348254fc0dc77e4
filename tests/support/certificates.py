"""Certificates of an authority that a test makes for itself, by OpenSSL's own tool."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

NEEDED = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """Signs certificates, in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.file = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        _openssl(
            *("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.file, "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def certificate(self, name: str, *, password: str = "") -> tuple[Path, Path]:
        """Return a certificate and its key, for a name and for this machine."""
        asked, key, made = (self._folder / f"{name}.{kind}" for kind in ("csr", "key", "pem"))
        _openssl("req", "-new", *_KEY, "-keyout", key, "-out", asked, "-subj", f"/CN={name}")
        extensions = self._folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        signer = ("-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
        _openssl("x509", "-req", "-in", asked, *signer, "-out", made)
        if password:
            _openssl("ec", "-in", key, "-aes256", "-passout", f"pass:{password}", "-out", key)
        return made, key

    def server(self, *, clients: bool = False) -> ssl.SSLContext:
        """Return what a server on this machine shows, and, `clients`, wants to be shown."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate("server"))
        if clients:
            context.load_verify_locations(self.file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
