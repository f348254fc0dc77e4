"""A database address as libpq writes it, TLS above all: what is wrong is said before anything is connected to.

The driver passes a name that it does not know on to the server, which refuses it as one of its own settings. A file
that is not there, or a certificate that is not trusted, it reports as an outage, or as an address that is none.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from shared.errors import Misconfigured

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
SYSTEM = "system"
"""As `sslrootcert`: the authorities that the system trusts."""

_OURS = frozenset(
    {
        *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "fallback_application_name", "application_name", "sslcompression", "client_encoding"),
    }
)
"""What we decide ourselves, whatever the address says."""
_AS_IT_IS: Mapping[str, frozenset[str]] = {
    "gssencmode": frozenset({"disable", "prefer"}),
    "channel_binding": frozenset({"disable", "prefer"}),
    "sslcertmode": frozenset({"allow"}),
    "sslsni": frozenset({"1"}),
    "load_balance_hosts": frozenset({"disable"}),
}
"""Names of which only these values are what the driver does anyway."""
_NEVER = frozenset({"hostaddr", "sslcrldir", "require_auth", "requirepeer", "requiressl", "replication"})


def address(url: str, setting: str) -> tuple[str, ssl.SSLContext | None]:
    """Return an address as the driver takes it, and what TLS is judged by where it cannot say so itself.

    Raises Misconfigured, which names the setting and what of it is wrong, and shows nothing else of it.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in given.items():
        if name in _NEVER or (name in _AS_IT_IS and value not in _AS_IT_IS[name]):
            raise Misconfigured(f"{setting}: {name}={value} of libpq is not to be had here: leave it away")
    mode = given.get("sslmode")
    if mode is not None and mode not in _MODES:
        raise Misconfigured(f"{setting}: sslmode={mode}: must be one of {', '.join(_MODES)}")
    unused = next((name for name in _FILES if given.get(name)), None)
    if mode == "disable" and unused is not None:
        raise Misconfigured(f"{setting}: {unused} is given, and sslmode=disable uses none")
    _usable(given, mode, setting)
    kept = [(name, value) for name, value in given.items() if name not in _OURS and name not in _AS_IT_IS]
    tls: ssl.SSLContext | None = None
    if given.get("sslrootcert") == SYSTEM:
        if mode != "verify-full":
            raise Misconfigured(f"{setting}: sslrootcert=system needs sslmode=verify-full")
        tls = _by_system(given)
        kept = [(name, value) for name, value in kept if not name.startswith("ssl") or name == "sslnegotiation"]
    return urlunsplit(parts._replace(query=urlencode(kept, quote_via=quote, safe="/,"))), tls


def _by_system(given: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if given.get("sslcert"):
        context.load_cert_chain(given["sslcert"], given.get("sslkey"), lambda: given.get("sslpassword", ""))
    return context


def _usable(given: Mapping[str, str], mode: str | None, setting: str) -> None:
    """Raise Misconfigured for a file that TLS cannot be done with."""
    for name in _FILES:
        path = given.get(name)
        if path and not (name == "sslrootcert" and path == SYSTEM):
            _readable(f"{setting}: {name}", path)
    verifies = mode in {"verify-ca", "verify-full"}
    if verifies and not given.get("sslrootcert") and not _default("root.crt"):
        raise Misconfigured(f"{setting}: sslmode={mode} needs sslrootcert, the certificate of who signed the server's")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("sslrootcert", "sslcrl"):
        if given.get(name) and given[name] != SYSTEM:
            try:
                context.load_verify_locations(given[name])
            except ssl.SSLError as error:
                what = f"{given[name]} holds no certificates (PEM): {error.reason or error}"
                raise Misconfigured(f"{setting}: {name}: {what}") from None
    if given.get("sslkey") and not given.get("sslcert"):
        raise Misconfigured(f"{setting}: sslkey is given, and no sslcert: the certificate of that key")
    if given.get("sslcert"):
        try:
            context.load_cert_chain(given["sslcert"], given.get("sslkey"), lambda: given.get("sslpassword", ""))
        except ssl.SSLError as error:
            what = "sslcert, sslkey (and sslpassword) are no certificate and its key"
            raise Misconfigured(f"{setting}: {what} (PEM): {error.reason or 'not readable'}") from None


def _readable(what: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise Misconfigured(f"{what}: cannot read {path}: {error.strerror}") from None


def _default(name: str) -> bool:
    """Tell whether there is a file where libpq looks for it by default."""
    with contextlib.suppress(RuntimeError, OSError):
        return (Path.home() / ".postgresql" / name).exists()
    return False


def refused_by_tls(error: BaseException) -> str | None:
    """Return why TLS is no way to the server, None for what may pass."""
    while True:
        match error:
            case ssl.SSLCertVerificationError():
                return f"the server's certificate is not accepted ({error.verify_message}): is sslrootcert of its CA?"
            case ssl.SSLError():
                why: str = getattr(error, "reason", None) or str(error)  # set by OpenSSL, not by its class
                return f"TLS with the server is not possible: {why.lower().replace('_', ' ')}"
            case ConnectionError() if "rejected SSL upgrade" in str(error):
                return "the server does no TLS, and sslmode asks for it"
            case _:
                if error.__cause__ is None:
                    return None
                error = error.__cause__
