"""The login of an embedded Kafka, request by request: to see whether it is ready, and to make its one user.

By SCRAM, in which each side proves that it knows the password and neither tells it: who takes the port while Kafka is
down learns nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass, field

ITERATIONS = 4096
MECHANISM = "SCRAM-SHA-256"
_SCRAM_SHA_256 = 1
"""Number of Kafka's ScramMechanism."""
_METADATA, _HANDSHAKE, _AUTHENTICATE, _ALTER_USERS = 3, 17, 36, 51
"""Numbers of Kafka's requests."""
_CLIENT = b"fiilis"


class NotLetIn(Exception):
    """The other side refuses the login, or does not prove that it knows the password itself."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of an embedded server, and the password."""

    name: str
    password: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)


class Talk:
    """One connection, request after request. Whatever breaks it off raises OSError or IncompleteReadError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, key: int, version: int, body: bytes, *, tagged: bool = False) -> bytes:
        """Send a request and return what answers it, without the header."""
        header = struct.pack(">hhih", key, version, 7, len(_CLIENT)) + _CLIENT + (b"\0" if tagged else b"")
        self._writer.write(struct.pack(">i", len(header + body)) + header + body)
        size: int = struct.unpack(">i", await self._reader.readexactly(4))[0]
        answer = await self._reader.readexactly(size)
        return answer[5:] if tagged else answer[4:]

    async def brokers(self) -> tuple[int, bytes]:
        """Return how many brokers take part, and the whole answer to the request for metadata of no topic."""
        answer = await self.ask(_METADATA, 2, struct.pack(">i", 0))
        return struct.unpack_from(">i", answer)[0], answer

    async def log_in(self, user: User) -> None:
        """Log in by SCRAM. Raises NotLetIn."""
        nonce = secrets.token_urlsafe(24)
        first = f"n={user.name},r={nonce}"
        await self._handshake(MECHANISM)
        challenge = (await self._authenticate(f"n,,{first}".encode())).decode()
        told = dict(part.split("=", 1) for part in challenge.split(","))
        if not told["r"].startswith(nonce):
            raise NotLetIn("not our exchange")
        last = f"c=biws,r={told['r']}"
        signed = f"{first},{challenge},{last}".encode()
        salted = _salted(user.password, base64.b64decode(told["s"]), int(told["i"]))
        key = _hmac(salted, b"Client Key")
        proof = bytes(a ^ b for a, b in zip(key, _hmac(hashlib.sha256(key).digest(), signed), strict=True))
        ended = await self._authenticate(f"{last},p={base64.b64encode(proof).decode()}".encode())
        theirs = base64.b64encode(_hmac(_hmac(salted, b"Server Key"), signed))
        if not hmac.compare_digest(ended, b"v=" + theirs):
            raise NotLetIn("it does not know the password")

    async def log_in_plainly(self, user: User) -> None:
        """Log in by PLAIN. Raises NotLetIn."""
        await self._handshake("PLAIN")
        await self._authenticate(f"\0{user.name}\0{user.password}".encode())

    async def make(self, user: User) -> None:
        """Make a user, or give them this password. Raises NotLetIn."""
        salt = secrets.token_bytes(16)
        told = _compact(user.name.encode()) + struct.pack(">bi", _SCRAM_SHA_256, ITERATIONS)
        told += _compact(salt) + _compact(_salted(user.password, salt, ITERATIONS)) + b"\0"
        answer = await self.ask(_ALTER_USERS, 0, b"\1\2" + told + b"\0", tagged=True)
        # The throttle time, one result: the name and a code.
        code: int = struct.unpack_from(">h", answer, 4 + 1 + 1 + len(user.name.encode()))[0]
        if code:
            raise NotLetIn(f"the user could not be made: Kafka's error {code}")

    async def _handshake(self, mechanism: str) -> None:
        answer = await self.ask(_HANDSHAKE, 1, struct.pack(">h", len(mechanism)) + mechanism.encode())
        if struct.unpack_from(">h", answer)[0]:
            raise NotLetIn(f"it does not take {mechanism}")

    async def _authenticate(self, said: bytes) -> bytes:
        answer = await self.ask(_AUTHENTICATE, 0, struct.pack(">i", len(said)) + said)
        code, length = struct.unpack_from(">hh", answer)
        if code:
            raise NotLetIn(f"Kafka's error {code}")
        return answer[4 + max(length, 0) + 4 :]


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def _compact(data: bytes) -> bytes:
    """Return short bytes as Kafka's newer requests have them."""
    return bytes([len(data) + 1]) + data
