"""How Kafka is talked to: in the clear or by TLS, as nobody or as a user. Made once, of the settings."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from shared.errors import Misconfigured

Channel = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

_PREFIX = "FIILIS_KAFKA_"
_LOGIN = ("SASL_MECHANISM", "SASL_USERNAME", "SASL_PASSWORD")
_FILES = ("CA_FILE", "CERT_FILE", "KEY_FILE")


class SecuritySettings(Protocol):
    """The settings that say so."""

    @property
    def kafka_security(self) -> Channel: ...  # noqa: D102
    @property
    def kafka_sasl_mechanism(self) -> Mechanism | None: ...  # noqa: D102
    @property
    def kafka_sasl_username(self) -> str | None: ...  # noqa: D102
    @property
    def kafka_sasl_password(self) -> str | None: ...  # noqa: D102
    @property
    def kafka_ca_file(self) -> str | None: ...  # noqa: D102
    @property
    def kafka_cert_file(self) -> str | None: ...  # noqa: D102
    @property
    def kafka_key_file(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Security:
    """What every client of a cluster connects with."""

    channel: Channel = "plaintext"
    mechanism: Mechanism | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def options(self) -> Mapping[str, Any]:
        """What the client library takes of it."""
        if self.channel == "plaintext":
            return {}
        found: dict[str, Any] = {"security_protocol": self.channel.upper(), "ssl_context": self.tls}
        if self.mechanism is not None:
            found |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return found

    @property
    def login(self) -> str:
        """Who we are to the cluster, for a person."""
        return "nobody" if self.username is None else f"user {self.username!r} by {self.mechanism}"


PLAINTEXT = Security()


def security(asked: SecuritySettings) -> Security:
    """Return what the settings ask for. Raises Misconfigured naming the one that is missing, wrong or too much."""
    given: dict[str, str] = {
        name: value for name in (*_LOGIN, *_FILES) if (value := getattr(asked, f"kafka_{name.lower()}"))
    }
    channel = asked.kafka_security
    logs_in, encrypted = channel.startswith("sasl_"), channel.endswith("ssl")
    for group, works, needed in ((_LOGIN, logs_in, "sasl_ssl or sasl_plaintext"), (_FILES, encrypted, _tls(given))):
        unused = next((name for name in group if name in given), None)
        if unused is not None and not works:
            raise Misconfigured(
                f"{_PREFIX}{unused} is set, and {_PREFIX}SECURITY is {channel}, which uses none: set it to {needed}"
            )
    if logs_in:
        for name, example in zip(_LOGIN, ("PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", "the user", "theirs"), strict=True):
            if name not in given:
                raise Misconfigured(f"{_PREFIX}{name} is not set, and {_PREFIX}SECURITY is {channel}: {example}")
    return Security(
        channel,
        asked.kafka_sasl_mechanism if logs_in else None,
        given.get("SASL_USERNAME"),
        given.get("SASL_PASSWORD"),
        _context(given) if encrypted else None,
    )


def _tls(given: Mapping[str, str]) -> str:
    return "sasl_ssl" if any(name in given for name in _LOGIN) else "ssl, or sasl_ssl with a user name"


def _context(given: Mapping[str, str]) -> ssl.SSLContext:
    """Return what certificates are judged by, and shown. Raises Misconfigured."""
    if "KEY_FILE" in given and "CERT_FILE" not in given:
        raise Misconfigured(f"{_PREFIX}KEY_FILE is set, and {_PREFIX}CERT_FILE is not: the certificate of that key")
    for name in _FILES:
        if name in given:
            _readable(name, given[name])
    try:
        context = ssl.create_default_context(cafile=given.get("CA_FILE"))
    except ssl.SSLError as error:
        raise Misconfigured(f"{_PREFIX}CA_FILE: {given['CA_FILE']} holds no certificates (PEM): {error}") from None
    if "CERT_FILE" in given:
        try:
            context.load_cert_chain(given["CERT_FILE"], given.get("KEY_FILE"), _no_password)
        except ssl.SSLError as error:
            raise Misconfigured(_unusable(given, error)) from None
    return context


def _readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise Misconfigured(f"{_PREFIX}{name}: cannot read {path}: {error.strerror}") from None


def _unusable(given: Mapping[str, str], error: ssl.SSLError) -> str:
    """Return what is wrong with a certificate and its key: the library names neither."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{_PREFIX}KEY_FILE: {given.get('KEY_FILE', given['CERT_FILE'])} is not the key of {_PREFIX}CERT_FILE"
    try:
        # A certificate alone can also be read as one that others are judged by.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(given["CERT_FILE"])
    except ssl.SSLError:
        return f"{_PREFIX}CERT_FILE: {given['CERT_FILE']} holds no certificate (PEM)"
    if "KEY_FILE" in given:
        return f"{_PREFIX}KEY_FILE: {given['KEY_FILE']} holds no private key (PEM) without a password"
    return f"{_PREFIX}KEY_FILE is not set, and {_PREFIX}CERT_FILE holds no private key without a password"


def _no_password() -> str:
    """Say nothing where a key has a password: OpenSSL itself would ask at the terminal, and wait for ever."""
    return ""
