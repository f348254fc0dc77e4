"""Settings of how Kafka is talked to: what is missing, wrong or too much is one line that names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from shared.bus.acls import OPERATOR, rights
from shared.bus.security import PLAINTEXT, security
from shared.errors import Misconfigured
from shared.runtime.settings import Settings
from shared.wire import topics
from shared.wire.topics import TOPICS
from tests.support.certificates import NEEDED, Authority
from tests.support.services import NAMES

LOGIN: dict[str, Any] = {
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
    "kafka_sasl_username": "fiilis",
    "kafka_sasl_password": "theirs",
}


def asked(**given: Any) -> Any:
    return security(Settings(**given))


def test_in_the_clear_by_default() -> None:
    """And the library is told nothing."""
    assert asked() == PLAINTEXT
    assert not PLAINTEXT.options


def test_kafkas_own_spelling_is_taken() -> None:
    """What people copy from a client.properties."""
    found = asked(kafka_security="SASL_PLAINTEXT", **{**LOGIN, "kafka_sasl_mechanism": "scram-sha-512"})
    assert found.options["security_protocol"] == "SASL_PLAINTEXT"
    assert found.options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert "theirs" not in repr(found)
    assert "theirs" not in repr(Settings(**LOGIN))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LOGIN, "FIILIS_KAFKA_SASL_MECHANISM is set, and FIILIS_KAFKA_SECURITY is plaintext"),
        ({"kafka_security": "ssl", **LOGIN}, "FIILIS_KAFKA_SASL_MECHANISM is set, and FIILIS_KAFKA_SECURITY is ssl"),
        ({"kafka_sasl_password": "x"}, "FIILIS_KAFKA_SASL_PASSWORD is set"),
        ({"kafka_security": "sasl_ssl"}, "FIILIS_KAFKA_SASL_MECHANISM is not set"),
        (
            {"kafka_security": "sasl_plaintext", "kafka_sasl_mechanism": "PLAIN", "kafka_sasl_password": "x"},
            "FIILIS_KAFKA_SASL_USERNAME is not set",
        ),
        (
            {"kafka_security": "sasl_plaintext", "kafka_sasl_mechanism": "PLAIN", "kafka_sasl_username": "x"},
            "FIILIS_KAFKA_SASL_PASSWORD is not set",
        ),
        ({"kafka_ca_file": "ca.pem"}, "FIILIS_KAFKA_CA_FILE is set, and FIILIS_KAFKA_SECURITY is plaintext"),
        ({"kafka_security": "sasl_plaintext", "kafka_cert_file": "c.pem", **LOGIN}, "FIILIS_KAFKA_CERT_FILE is set"),
        ({"kafka_security": "ssl", "kafka_key_file": "key.pem"}, "FIILIS_KAFKA_CERT_FILE is not"),
        ({"kafka_security": "ssl", "kafka_ca_file": "/no/ca.pem"}, "FIILIS_KAFKA_CA_FILE: cannot read /no/ca.pem: No"),
        ({"kafka_security": "ssl", "kafka_ca_file": __file__}, "FIILIS_KAFKA_CA_FILE: .* holds no certificates"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, str], said: str) -> None:
    """Each would otherwise be an outage, or a password that nobody asks for."""
    with pytest.raises(Misconfigured, match=said) as refused:
        asked(**given)
    assert "\n" not in str(refused.value)


@NEEDED
def test_what_is_wrong_with_a_certificate_is_named(tmp_path: Path) -> None:
    """OpenSSL names neither the file nor the setting, and would ask for a password at the terminal."""
    authority = Authority(tmp_path)
    certificate, key = map(str, authority.certificate("client"))
    _, others = map(str, authority.certificate("other"))
    _, locked = map(str, authority.certificate("locked", password="secret"))
    tls = {"kafka_security": "ssl", "kafka_ca_file": str(authority.file)}
    assert asked(**tls, kafka_cert_file=certificate, kafka_key_file=key).options["ssl_context"] is not None
    for files, said in (
        ((key, key), "FIILIS_KAFKA_CERT_FILE: .*client.key holds no certificate"),
        ((certificate, others), "FIILIS_KAFKA_KEY_FILE: .*other.key is not the key of FIILIS_KAFKA_CERT_FILE"),
        ((certificate, locked), "FIILIS_KAFKA_KEY_FILE: .*locked.key holds no private key .* without a password"),
        ((certificate, str(authority.file)), "FIILIS_KAFKA_KEY_FILE: .*ca.pem holds no private key"),
    ):
        with pytest.raises(Misconfigured, match=said):
            asked(**tls, kafka_cert_file=files[0], kafka_key_file=files[1])
    with pytest.raises(Misconfigured, match="FIILIS_KAFKA_KEY_FILE is not set"):
        asked(**tls, kafka_cert_file=certificate)


def test_rights_follow_the_registry() -> None:
    """Each topic is written by who owns it and by who puts it aside, and by nobody else but who runs commands."""
    for topic in TOPICS:
        for name, writers in ((topic.name, set(topic.writers)), (topic.dead, set(topic.readers))):
            if name == topic.dead and not topic.messages:
                continue
            may = {
                service
                for service, each in rights().items()
                for right in each
                if name in right.names and "Write" in right.operations and service != OPERATOR
            }
            assert may == writers - {"apply"}, name


@pytest.mark.parametrize("service", NAMES)
def test_the_registry_knows_who_reads(service: str, root: Path) -> None:
    """As each service puts its consumers together: else rights are printed that are too few, or too many."""
    main = (root / "services" / service / "main.py").read_text()
    read = {getattr(topics, name).name for name in re.findall(r"Consumer\(parts\.kafka, database, (\w+)", main)}
    assert read == {topic.name for topic in TOPICS if topic.messages and service in topic.readers}
