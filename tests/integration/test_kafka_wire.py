"""Kafka by TLS and by a user name: every client of ours, against a real broker and certificates made here."""

from __future__ import annotations

import asyncio
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import CreateAclsRequest

from shared.bus.client import Kafka, Outgoing, Producer
from shared.bus.provisioning import ensure_topics
from shared.directory.follower import Follower, publish, read_newest
from shared.directory.model import Key
from shared.embedded import EmbeddedKafka
from shared.errors import Misconfigured, Transient
from shared.runtime.process import kafka_of
from shared.runtime.settings import Settings
from shared.wire.signing import key_hash, new_key
from shared.wire.topics import DIRECTORY, FEEDBACK, TOPICS
from tests.support.certificates import NEEDED, Authority
from tests.support.doors import PASSWORDS, DoorsKafka
from tests.support.house import company, house
from tests.support.phone import Phone
from tests.support.processes import ServiceProcess, command
from tests.support.wait import until

pytestmark = NEEDED


@dataclass(frozen=True, slots=True)
class Place:
    """A broker with all its doors, and what clients have in their hands."""

    server: DoorsKafka
    authority: Authority
    stranger: Authority

    def settings(self, door: str, **changed: str) -> dict[str, str]:
        """Return the settings that are right for a door, by their names."""
        certificate, key = self.authority.certificate("client")
        tls = {"kafka_ca_file": str(self.authority.file)}
        login = {"kafka_sasl_username": "alice", "kafka_sasl_password": PASSWORDS["alice"]}
        login["kafka_sasl_mechanism"] = "SCRAM-SHA-256"
        own = {"kafka_cert_file": str(certificate), "kafka_key_file": str(key)}
        given = {
            "tls": {"kafka_security": "ssl", **tls},
            "mutual": {"kafka_security": "ssl", **tls, **own},
            "both": {"kafka_security": "sasl_ssl", **tls, **login},
            "login": {"kafka_security": "sasl_plaintext", **login},
        }[door]
        return {"kafka": self.server.at(door), **given, **changed}

    def kafka(self, door: str, prefix: str = "", **changed: str) -> Kafka:
        """Return Kafka as those settings have it."""
        return kafka_of(Settings(topic_prefix=prefix, **self.settings(door, **changed)))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("doors")
    authority = Authority(folder / "certificates")
    server = DoorsKafka(folder / "kafka", authority)

    async def start() -> None:
        await server.start()
        await server.make_scram_users()

    asyncio.run(start())
    yield Place(server, authority, Authority(folder / "strangers", "stranger"))
    asyncio.run(server.stop())


DOORS = {
    "tls": {},
    "mutual": {},
    "both": {},
    "login": {},
    "both-plain": {"kafka_sasl_mechanism": "PLAIN"},
    "both-512": {"kafka_sasl_mechanism": "SCRAM-SHA-512"},
}


@pytest.mark.parametrize("way", DOORS)
async def test_every_client_goes_through_every_door(place: Place, way: str) -> None:
    """Admin, producer, consumers, our own requests, and the directory's reader and writer."""
    kafka = place.kafka(way.partition("-")[0], f"{way}.", **DOORS[way])
    await ensure_topics(kafka, TOPICS)
    phone = await Phone().start()
    assert await publish(kafka, company(phone)) == 1
    await phone.close()
    found = await read_newest(kafka)
    assert found is not None
    assert found.number == 1
    producer = Producer(kafka)
    try:
        await producer.start()
        await producer.send_all([Outgoing(FEEDBACK.name, b"acme", b"{}", [])])
    finally:
        await producer.close()
    log = await kafka.log_state(FEEDBACK.name)
    assert log is not None
    assert sum(log.ends.values()) == 1
    follower = Follower(kafka, ())
    following = asyncio.create_task(follower.run())

    async def followed() -> bool:
        return follower.current is not None

    await until(followed)
    following.cancel()
    await asyncio.wait({following})


async def test_the_whole_house_by_tls_and_password(place: Place, database_url: str) -> None:
    """Answer to page: consumers with a group, the outbox and ingest's own producers."""
    async with house(place.kafka("both", "house."), database_url, ca_file=str(place.authority.file)) as fiilis:
        assert (await fiilis.post({"customer": "acme", "kind": "mood", "score": 1})).status_code == 202
        await fiilis.ticket()
        await until(lambda: fiilis.items("/v1/pages", state="sent"))


REFUSED = {
    "wrong password": (
        "both",
        {"kafka_sasl_password": "guessed"},
        "FIILIS_KAFKA_SASL_PASSWORD: .*refused the user name",
    ),
    "unknown user": ("login", {"kafka_sasl_username": "bob"}, "refused the user name or password .user 'bob'"),
    "plain, wrong": (
        "both",
        {"kafka_sasl_mechanism": "PLAIN", "kafka_sasl_password": "guessed"},
        "FIILIS_KAFKA_SASL_PASSWORD: .*refused the user name or password",
    ),
    "no certificate": ("mutual", {"kafka_cert_file": "", "kafka_key_file": ""}, "FIILIS_KAFKA_CERT_FILE: "),
    "a name where none is asked": (
        "tls",
        {"kafka_security": "sasl_ssl"},
        "FIILIS_KAFKA_SECURITY: .*takes no user",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refusal_is_told_as_one(place: Place, case: str) -> None:
    """Not as an outage that somebody waits for; whichever client comes first."""
    door, changed, said = REFUSED[case]
    if "user name" in case or changed.get("kafka_security") == "sasl_ssl":
        both = place.settings("both")
        changed = {**{name: both[name] for name in both if name.startswith("kafka_sasl")}, **changed}
    kafka = place.kafka(door, **changed)
    for client in (lambda: read_newest(kafka), Producer(kafka).start, lambda: kafka.describe()):
        with pytest.raises(Misconfigured, match=said) as refused:
            await client()
        assert "\n" not in str(refused.value)
        assert "guessed" not in str(refused.value)


async def test_a_certificate_of_a_stranger_is_not_accepted(place: Place) -> None:
    """Neither theirs by us, nor ours by them."""
    with pytest.raises(Misconfigured, match=r"FIILIS_KAFKA_CA_FILE: the certificate of .* is not accepted"):
        await place.kafka("tls", kafka_ca_file=str(place.stranger.file)).describe()
    certificate, key = map(str, place.stranger.certificate("client"))
    with pytest.raises(Misconfigured, match=r"FIILIS_KAFKA_CERT_FILE: .* does not accept our certificate"):
        await place.kafka("mutual", kafka_cert_file=certificate, kafka_key_file=key).describe()


@pytest.mark.parametrize("door", ["tls", "login"])
async def test_in_the_clear_to_a_door_that_is_not(place: Place, door: str) -> None:
    """Nobody can tell what it is then, so it is waited for; the line asks for the setting."""
    with pytest.raises(Transient, match="is its listener what FIILIS_KAFKA_SECURITY says"):
        await Kafka(place.server.at(door)).describe()


async def test_by_tls_to_a_door_without(place: Place) -> None:
    """It breaks off, as a broker does that ends: waited for, with the same question."""
    with pytest.raises(Transient, match="is its listener what FIILIS_KAFKA_SECURITY says"):
        await place.kafka("login", **{**place.settings("both"), "kafka": place.server.at("login")}).describe()


async def test_what_was_let_in_once_waits(place: Place) -> None:
    """A password that is changed under a running service is a refusal that may pass, not its end."""
    kafka = place.kafka("login", "waits.")
    await kafka.describe()
    kafka.security = place.kafka("login", kafka_sasl_password="of yesterday").security
    with pytest.raises(Transient, match="refused the user name or password"):
        await kafka.describe()


def environment(settings: dict[str, str]) -> dict[str, str]:
    return {f"FIILIS_{name.upper()}": value for name, value in settings.items()}


@pytest.mark.timeout(240)
async def test_commands_say_it_in_one_line(place: Place, tmp_path: Path) -> None:
    """With exit code 2, on the event loop that processes have."""
    good = environment(place.settings("both", topic_prefix="commands."))
    listed = await command("dead-letters", "list", "feedback.v1", **good)
    assert (listed.code, listed.out) == (0, "0 dead letters of feedback.v1 that were not sent again\n"), listed.err
    for wrong, said in (
        ({"FIILIS_KAFKA_SASL_PASSWORD": "guessed"}, "refused the user name or password"),
        ({"FIILIS_KAFKA_CA_FILE": str(place.stranger.file)}, "FIILIS_KAFKA_CA_FILE"),
        ({"FIILIS_KAFKA_SASL_MECHANISM": "MD5"}, "FIILIS_KAFKA_SASL_MECHANISM"),
        ({"FIILIS_KAFKA_SECURITY": "plaintext"}, "FIILIS_KAFKA_SASL_MECHANISM is set"),
    ):
        done = await command("dead-letters", "list", "feedback.v1", **{**good, **wrong})
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert said in done.err
        assert "guessed" not in done.err
    own = environment(place.settings("mutual"))
    del own["FIILIS_KAFKA_CERT_FILE"], own["FIILIS_KAFKA_KEY_FILE"]
    done = await command("offsets", "accept", "feedback.v1", **own)
    assert (done.code, "FIILIS_" in done.err) == (2, True), done.err
    looked = await command("doctor", "--data", str(tmp_path), **own)
    assert "FIILIS_KAFKA_CERT_FILE" in looked.out, looked.out


async def test_an_embedded_one_is_its_users_alone(tmp_path: Path) -> None:
    """Another user of the machine could publish a directory, with a key of their own."""
    data = tmp_path / "kafka"
    data.mkdir(mode=0o755)
    server = EmbeddedKafka(data, guarded=True)
    assert EmbeddedKafka.kept(data) is None
    await server.start()
    try:
        assert stat.S_IMODE(data.stat().st_mode) & 0o077 in {0, 0o011}
        assert {
            file.name: stat.S_IMODE(file.stat().st_mode) for file in data.iterdir() if file.name in FILES
        } == dict.fromkeys(FILES, 0o600)
        kafka = kafka_of(Settings(**server.settings))  # pyright: ignore[reportArgumentType]
        await ensure_topics(kafka, [DIRECTORY])
        with pytest.raises(Transient):
            await Kafka(server.bootstrap).describe()
        for port in (server.bootstrap, f"127.0.0.1:{server._controller_port}"):
            anonymous = AIOKafkaProducer(bootstrap_servers=port, request_timeout_ms=2000)
            with pytest.raises(KafkaError):
                await anonymous.start()
            await anonymous.stop()
        kept = EmbeddedKafka.kept(data)
        assert kept is not None
        assert kept.settings == server.settings
        assert server.settings["kafka_sasl_password"] not in " ".join(_arguments(server.pid))
        await server.kill()
        await server.start()
        assert kept.settings == server.settings, "its clients go on"
        await kafka.describe()
    finally:
        await server.stop()


FILES = ("password", "server.properties", "ports", "cluster-id")


def _arguments(pid: int | None) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


async def test_one_that_was_open_is_guarded_from_now_on(tmp_path: Path) -> None:
    """What it holds stays; a user is made for it."""
    before = EmbeddedKafka(tmp_path / "k")
    await before.start()
    await ensure_topics(Kafka(before.bootstrap), [FEEDBACK])
    await before.stop()
    after = EmbeddedKafka(tmp_path / "k", guarded=True)
    await after.start()
    try:
        kafka = kafka_of(Settings(**after.settings))  # pyright: ignore[reportArgumentType]
        assert FEEDBACK.name in (await kafka.describe([FEEDBACK.name])).topics
    finally:
        await after.stop()


NUMBERS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10, "AlterConfigs": 11}
KINDS = {"--topic": 2, "--group": 3}


async def _grant(kafka: Kafka, line: str) -> None:
    """Do what a command of Kafka's own tool would."""
    words = shlex.split(line)
    assert words[:6] == [
        "kafka-acls.sh",
        "--bootstrap-server",
        "kafka:9092",
        "--command-config",
        "admin.properties",
        "--add",
    ]
    pairs = list(zip(words[6::2], words[7::2], strict=True))
    [who] = [value for option, value in pairs if option == "--allow-principal"]
    pattern = 4 if ("--resource-pattern-type", "prefixed") in pairs else 3
    async with kafka.admin() as admin:
        client: Any = admin._client
        for kind, name in pairs:
            for option, operation in pairs:
                if kind in KINDS and option == "--operation":
                    request = CreateAclsRequest(KINDS[kind], name, pattern, who, "*", NUMBERS[operation], 3)
                    answer: Any = await client.send(client.get_random_node(), request)
                    assert [code for code, _ in answer.creation_responses] == [0], (line, answer)


@pytest.mark.timeout(240)
async def test_services_work_with_the_rights_that_acls_prints(tmp_path: Path, database_url: str) -> None:
    """Each as a user of its own, with no right besides: answer to page; and none can do another's work."""
    server = DoorsKafka(tmp_path / "kafka", Authority(tmp_path / "certificates"), rights=True)
    await server.start()
    phone = await Phone().start()
    try:
        super_user = Kafka(server.bootstrap)
        printed = await command("acls", "--principal", "User:{}")
        assert printed.code == 0, printed.err
        for line in printed.out.splitlines():
            if not line.startswith("#"):
                await _grant(super_user, line)

        def of(user: str) -> dict[str, str]:
            return {
                "kafka": server.at("login"),
                "kafka_security": "sasl_plaintext",
                "kafka_sasl_mechanism": "PLAIN",
                "kafka_sasl_username": user,
                "kafka_sasl_password": PASSWORDS[user],
            }

        def kafka(user: str) -> Kafka:
            return kafka_of(Settings(**of(user)))  # pyright: ignore[reportArgumentType]

        with pytest.raises(Misconfigured, match="Kafka refuses this user: TopicAuthorizationFailedError"):
            await kafka("stranger").describe([FEEDBACK.name])
        operator = kafka("operator")
        await ensure_topics(operator, TOPICS)
        key = new_key("secret")
        await publish(operator, company(phone, Key("ops", "secret", key_hash(key), scopes=("feedback",))))
        for user in ("ingest", "scoring", "ticketing", "notify"):
            with pytest.raises((Misconfigured, Transient), match="AuthorizationFailed"):
                await publish(kafka(user), company(phone))
        shared = {"database_url": database_url, "secret": "a-secret-of-a-test-with-32-characters"}
        shared |= {"allow_private_targets": "true"}
        running = [
            ServiceProcess(name, environment({**shared, **of(name)}), tmp_path)
            for name in ("ingest", "scoring", "ticketing", "notify")
        ]
        try:
            await asyncio.gather(*(process.start() for process in running))
            said = {"customer": "acme", "kind": "mood", "score": 1}
            posted = await asyncio.to_thread(_post, running[0].address, key, said)
            assert posted == 202

            async def paged() -> bool:
                return bool(phone.received)

            await until(paged, seconds=30)
            await until(lambda: _kept(database_url), seconds=20, every=0.2)
            await running[0].stop()
            wrong = {**shared, **of("ingest"), "kafka_sasl_password": "of yesterday"}
            running[0] = await ServiceProcess("ingest", environment(wrong), tmp_path).start()
            posted = await asyncio.to_thread(_post, running[0].address, key, said)
            assert posted == 202, "with the directory that it kept, into the spool"
            assert "refused the user name or password" in running[0].log()
        finally:
            await asyncio.gather(*(process.kill() for process in running if process.alive))
        looked = await command("doctor", "--data", str(tmp_path / "none"), **environment(of("operator")))
        assert "rights:" not in looked.out, looked.out
        listed = await command("dead-letters", "replay", "feedback.v1", **environment(of("operator")))
        assert listed.code == 0, listed.err
    finally:
        await phone.close()
        await server.stop()


def _post(address: str, key: str, body: dict[str, Any]) -> int:
    import httpx

    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{address}/v1/feedback", json=body, headers=headers, trust_env=False).status_code


async def _kept(database_url: str) -> bool:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM ingest.directory"))
    finally:
        await connection.close()
