"""The jars of Kafka: downloaded once into the user's cache, and only exactly what kafka-4.3.0.jars lists.

A folder of jars is built beside its place, verified against the list, and renamed: what is there is whole and right.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.embedded.errors import EmbeddedUnavailable
from shared.embedded.lock import try_flock

SETTING = "FIILIS_KAFKA"
LIST = Path(__file__).with_name("kafka-4.3.0.jars")
AT_ONCE = 4
"""Downloads in parallel: 46 jars, 45 MB in 7 s, where resolving them anew took 14 s more."""
PAUSES_S = (0.5, 1.0, None)
"""After each failed attempt of a jar; none after the last."""
READ_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the list."""

    sha256: str
    name: str
    coordinate: str


class Cancelled(Exception):
    """Nobody waits for the download any more."""


def cache_folder() -> Path:
    """Return where downloads live: $FIILIS_CACHE, else $XDG_CACHE_HOME/fiilis, else ~/.cache/fiilis."""
    own = os.environ.get("FIILIS_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "fiilis"


def read_list(path: Path = LIST) -> list[Jar]:
    """Read the list of jars."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Jar(*line.split()) for line in lines if line and not line.startswith("#")]


def folder_name(listed: Path) -> str:
    """Return the list's name and hash: another list is another folder, and both may be in use."""
    return f"{listed.stem}-{hashlib.sha256(listed.read_bytes()).hexdigest()[:12]}"


async def kafka_jars(say: Callable[[str], None], *, cache: Path | None = None, listed: Path = LIST) -> list[Path]:
    """Return the jars of Kafka, from the cache or downloaded now; raise EmbeddedUnavailable without a network."""
    jars = read_list(listed)
    folder = (cache or cache_folder()) / folder_name(listed)
    paths = [folder / jar.name for jar in jars]
    if not all(path.is_file() for path in paths):
        nobody_waits = threading.Event()
        try:
            await asyncio.to_thread(download_once, jars, folder, say, nobody_waits)
        except asyncio.CancelledError:
            nobody_waits.set()
            raise
    return paths


def download_once(jars: list[Jar], folder: Path, say: Callable[[str], None], nobody_waits: threading.Event) -> None:
    """Fill the folder, one process at a time."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_process(folder.with_name(f".{folder.name}.lock"), say, nobody_waits):
            if folder.is_dir() and all((folder / jar.name).is_file() for jar in jars):
                return  # the process that was waited for did it
            for left in folder.parent.glob(f".{folder.name}-*.part"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(
                prefix=f".{folder.name}-", suffix=".part", dir=folder.parent, ignore_cleanup_errors=True
            ) as part:
                ready = Path(part) / "jars"
                ready.mkdir()
                download(jars, Path(part) / "maven", ready, say, nobody_waits)
                if folder.exists():
                    shutil.rmtree(folder)
                ready.rename(folder)
    except OSError as error:  # requests' errors are OSErrors too
        raise EmbeddedUnavailable(
            f"The jars of Kafka could not be downloaded into {folder.parent}: {type(error).__name__}: {error}\n"
            "They are needed once: start again with a network, or copy that folder from a machine that has it.",
            SETTING,
        ) from error


@contextmanager
def one_process(path: Path, say: Callable[[str], None], nobody_waits: threading.Event) -> Generator[None]:
    """Hold a lock among processes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not try_flock(fd):
            say("another process downloads Kafka, waiting for it")
            while not try_flock(fd):
                if nobody_waits.wait(0.1):
                    raise Cancelled
        yield
    finally:
        os.close(fd)


def download(jars: list[Jar], scratch: Path, ready: Path, say: Callable[[str], None], stop: threading.Event) -> None:
    """Download and verify all jars into `ready`; `scratch` is jgo's Maven repository meanwhile."""
    try:
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 (of the extra, which may be missing)
    except ImportError as error:
        raise EmbeddedUnavailable(
            "The package jgo is missing: install Fiilis with its extra 'embedded'.", SETTING
        ) from error

    say(f"Kafka is downloaded, this once: {len(jars)} jars")
    received: list[int] = []

    @contextmanager
    def progress(_name: str, _size: int) -> Generator[Callable[[int], None]]:
        def update(count: int) -> None:
            if stop.is_set():
                raise Cancelled
            received.append(count)

        yield update

    maven = MavenContext(PythonResolver(progress_callback=progress), repo_cache=scratch, timeout=READ_TIMEOUT_S)

    def fetch(jar: Jar) -> None:
        group, artifact, version = jar.coordinate.split(":")
        wanted = maven.project(group, artifact).at_version(version).artifact()
        for pause in PAUSES_S:
            if stop.is_set():
                raise Cancelled
            try:
                path = wanted.resolve()
            except (OSError, RuntimeError) as error:  # RuntimeError: no repository has it, or one answered an error
                if wanted.cached_path is not None:
                    wanted.cached_path.unlink(missing_ok=True)
                if pause is None:
                    raise OSError(f"{jar.name}: {error}") from error
                stop.wait(pause)
            else:
                verify(path, jar)
                path.rename(ready / jar.name)
                return

    done = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        fetches = [pool.submit(fetch, jar) for jar in jars]
        try:
            for each in fetches:
                each.result()
                done += 1
                if done % 10 == 0 or done == len(jars):
                    say(f"  {done} of {len(jars)} jars, {sum(received) / 1e6:.0f} MB")
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def verify(path: Path, jar: Jar) -> None:
    """Refuse a file that is not the listed one."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != jar.sha256:
        raise EmbeddedUnavailable(
            f"{jar.name} was downloaded with sha256 {actual}, but {jar.sha256} is expected. Nothing of it was kept. "
            "Start again; if it stays so, somebody between here and Maven changes files.",
            SETTING,
        )


def print_list(*coordinates: str) -> None:
    """Print the lines of a list for these coordinates and all they need at run time."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["M2_REPO"] = scratch
        import jgo  # noqa: PLC0415 (it reads M2_REPO when it is imported)

        for artifact in sorted(jgo.resolve("+".join(coordinates)), key=lambda each: each.filename):
            digest = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
            line = f"{digest}  {artifact.filename}  {artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            print(line)  # noqa: T201 (the list is the output)
