"""Kafka's jars: whole and as listed, or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from shared.embedded.errors import EmbeddedUnavailable
from shared.embedded.jars import LIST, Jar, cache_folder, download_once, folder_name, kafka_jars, read_list, verify

ROOT = Path(__file__).parents[2]
WRONG = f"{'0' * 64}  jspecify-1.0.0.jar  org.jspecify:jspecify:1.0.0\n"

REPORT = """
import asyncio, signal, sys
from pathlib import Path
from shared.embedded import EmbeddedUnavailable
from shared.embedded.jars import kafka_jars
# A shell starts what is in its background with SIGINT ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    asyncio.run(kafka_jars(print, cache=Path(sys.argv[1])))
except EmbeddedUnavailable as error:
    print(error)
    sys.exit(3)
"""


def closed_port() -> int:
    """Return a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def without_network() -> dict[str, str]:
    """Return an environment in which every request goes to a closed port."""
    nowhere = f"http://127.0.0.1:{closed_port()}"
    proxies = {f"{scheme}_proxy": nowhere for scheme in ("http", "https", "HTTP", "HTTPS", "all")}
    return os.environ | proxies | {"no_proxy": "", "NO_PROXY": "", "PYTHONPATH": str(ROOT)}


def left_in(cache: Path) -> list[str]:
    """Return what stayed in a cache, but for its locks."""
    # Not rglob, which fails when a folder goes away under it.
    found = [name for _folder, folders, files in os.walk(cache) for name in folders + files]
    return [name for name in found if not name.endswith(".lock")]


def test_every_listed_jar_has_a_hash_a_name_and_a_place() -> None:
    """A bad line would only be seen by the first user without a cache."""
    jars = read_list()
    assert len(jars) == 46
    for jar in jars:
        assert len(bytes.fromhex(jar.sha256)) == 32
        _group, artifact, version = jar.coordinate.split(":")
        assert jar.name == f"{artifact}-{version}.jar"


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ours first, then the desktop's, then the home folder's."""
    monkeypatch.setenv("FIILIS_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("FIILIS_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "fiilis"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "fiilis"


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    """One bit is enough."""
    path = tmp_path / "a.jar"
    path.write_bytes(b"jar")
    verify(path, Jar(hashlib.sha256(b"jar").hexdigest(), "a.jar", "g:a:1"))
    with pytest.raises(EmbeddedUnavailable, match=r"FIILIS_KAFKA"):
        verify(path, Jar(hashlib.sha256(b"jaR").hexdigest(), "a.jar", "g:a:1"))


async def test_a_whole_cache_needs_no_network(tmp_path: Path) -> None:
    """A laptop on a train starts."""
    listed = tmp_path / "few.jars"
    listed.write_text(WRONG)
    folder = tmp_path / "cache" / folder_name(listed)
    folder.mkdir(parents=True)
    (folder / "jspecify-1.0.0.jar").write_bytes(b"as it was verified when it came")
    said: list[str] = []
    assert await kafka_jars(said.append, cache=tmp_path / "cache", listed=listed) == [folder / "jspecify-1.0.0.jar"]
    assert said == []


async def test_a_wrong_hash_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    """What Maven sends is not what was listed: it is not run, now or at the next start."""
    listed = tmp_path / "few.jars"
    listed.write_text(WRONG)
    for _ in range(2):
        with pytest.raises(EmbeddedUnavailable, match=r"(?s)jspecify-1\.0\.0\.jar.*FIILIS_KAFKA") as refused:
            await kafka_jars(lambda _line: None, cache=tmp_path / "cache", listed=listed)
        if "could not be downloaded" in str(refused.value):
            pytest.skip("no network to download a jar from")
        assert left_in(tmp_path / "cache") == []


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    """No traceback of a library: what failed, and which setting helps."""
    run = subprocess.run(
        [sys.executable, "-c", REPORT, str(tmp_path / "cache")],
        env=without_network(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 3, run.stderr
    assert "FIILIS_KAFKA" in run.stdout
    assert "could not be downloaded" in run.stdout
    assert left_in(tmp_path / "cache") == []


def test_half_a_download_is_never_used(tmp_path: Path) -> None:
    """Killed in the middle, the next start begins anew instead of running what is there."""
    cache = tmp_path / "cache"
    first = subprocess.Popen(
        [sys.executable, "-c", REPORT, str(cache)], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    wait_until(lambda: any(name.endswith(".jar") for name in left_in(cache)) or first.poll() is not None)
    if first.poll() is not None:
        pytest.skip("no network to download a jar from")
    first.kill()
    first.communicate()
    names = left_in(cache)
    assert any(name.endswith(".jar") for name in names)
    # Only what begins with a dot and is named .part: no folder that a start would take for the real one.
    assert all(path.name.startswith(".") for path in cache.iterdir())
    again = subprocess.run(
        [sys.executable, "-c", REPORT, str(cache)], env=without_network(), capture_output=True, timeout=60
    )
    assert again.returncode == 3
    assert left_in(cache) == []


def test_a_folder_that_lost_a_jar_is_not_used(tmp_path: Path) -> None:
    """A cleaner of old files took one: the folder is made anew, not used with a hole."""
    cache = tmp_path / "cache"
    folder = cache / folder_name(LIST)
    folder.mkdir(parents=True)
    for jar in read_list()[1:]:
        (folder / jar.name).write_bytes(b"")
    run = subprocess.run([sys.executable, "-c", REPORT, str(cache)], env=without_network(), timeout=60, check=False)
    assert run.returncode == 3


def test_an_interrupted_download_ends_soon_and_cleans_up(tmp_path: Path) -> None:
    """Ctrl-C during the first start does not hang until 45 MB are there."""
    cache = tmp_path / "cache"
    start = subprocess.Popen(
        [sys.executable, "-c", REPORT, str(cache)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: bool(left_in(cache)) or start.poll() is not None)
    start.send_signal(signal.SIGINT)
    try:
        start.wait(20)
    finally:
        start.kill()
        start.wait()
    assert left_in(cache) == []


def test_two_at_once_download_once(tmp_path: Path) -> None:
    """The second waits for the first and uses what it made."""
    said: list[str] = []
    folder = tmp_path / "cache" / "few"
    barrier = threading.Barrier(2)
    jar = read_list()[0]

    def start() -> None:
        barrier.wait()
        with suppress(EmbeddedUnavailable):
            download_once([jar], folder, said.append, threading.Event())

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    if not folder.exists():
        pytest.skip("no network to download a jar from")
    assert said.count("Kafka is downloaded, this once: 1 jars") == 1
    assert hashlib.sha256((folder / jar.name).read_bytes()).hexdigest() == jar.sha256


def wait_until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Poll until it holds."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "did not become true in time"
        time.sleep(0.01)
