"""A Kafka with every kind of listener at once, and rights if a test wants them."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from pathlib import Path

from shared.embedded import EmbeddedKafka
from shared.embedded.kafka import HOST, choose_ports
from shared.embedded.login import ITERATIONS, Talk
from tests.support.certificates import Authority

_SERVICES = ("ingest", "scoring", "ticketing", "notify", "operator", "stranger")
PASSWORDS = {"alice": "alice's, own=password", **{name: f"of-{name}" for name in _SERVICES}}
_MODULE = "org.apache.kafka.common.security"
DOORS = {"tls": "SSL", "mutual": "SSL", "both": "SASL_SSL", "login": "SASL_PLAINTEXT"}
_SCRAM = {"SCRAM-SHA-256": (1, "sha256"), "SCRAM-SHA-512": (2, "sha512")}


class DoorsKafka(EmbeddedKafka):
    """Reached in the clear by the test itself, and by the doors as clients would."""

    def __init__(self, data: Path, authority: Authority, *, rights: bool = False) -> None:
        super().__init__(data)
        self._authority = authority
        self._rights = rights
        ports = choose_ports(len(DOORS), besides=(self._broker_port, self._controller_port))
        self._ports = dict(zip(DOORS, ports, strict=True))

    def at(self, door: str) -> str:
        """Bootstrap servers of a door."""
        return f"{HOST}:{self._ports[door]}"

    def _settings(self) -> str:
        certificate, key = self._authority.certificate("broker")
        (self._data / "broker.pem").write_text(key.read_text() + certificate.read_text())
        (self._data / "trusted.pem").write_text(self._authority.file.read_text())
        own = f"PLAINTEXT://{HOST}:{self._broker_port}"
        told = [own, *(f"{name.upper()}://{self.at(name)}" for name in DOORS)]
        kinds = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **{n.upper(): kind for n, kind in DOORS.items()}}
        users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
        lines = [
            f"listeners={','.join([*told, f'CONTROLLER://{HOST}:{self._controller_port}'])}",
            f"advertised.listeners={','.join(told)}",
            f"listener.security.protocol.map={','.join(f'{name}:{kind}' for name, kind in kinds.items())}",
            "ssl.keystore.type=PEM\nssl.keystore.location=broker.pem",
            "ssl.truststore.type=PEM\nssl.truststore.location=trusted.pem",
            "listener.name.mutual.ssl.client.auth=required",
        ]
        for name in ("both", "login"):
            of = f"listener.name.{name}"
            lines += [
                f"{of}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                f"{of}.plain.sasl.jaas.config={_MODULE}.plain.PlainLoginModule required {users};",
                *(
                    f"{of}.{kind}.sasl.jaas.config={_MODULE}.scram.ScramLoginModule required;"
                    for kind in ("scram-sha-256", "scram-sha-512")
                ),
            ]
        if self._rights:
            lines += [
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users=User:ANONYMOUS",
            ]
        return super()._settings() + "\n".join(lines) + "\n"

    async def make_scram_users(self) -> None:
        """Make alice, for both kinds of SCRAM."""
        reader, writer = await asyncio.open_connection(HOST, self._broker_port)
        talk = Talk(reader, writer)
        for number, digest in _SCRAM.values():
            salted = hashlib.pbkdf2_hmac(digest, PASSWORDS["alice"].encode(), b"salt", ITERATIONS)
            told = _compact(b"alice") + struct.pack(">bi", number, ITERATIONS) + _compact(b"salt") + _compact(salted)
            answer = await talk.ask(51, 0, b"\1\2" + told + b"\0\0", tagged=True)
            assert struct.unpack_from(">h", answer, 4 + 1 + 6)[0] == 0, answer
        writer.close()


def _compact(data: bytes) -> bytes:
    return bytes([len(data) + 1]) + data
