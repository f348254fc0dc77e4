"""Everything in one process on servers of its own: they are their user's alone, and commands find them."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from services import kept
from shared.bus.client import Kafka
from shared.directory.follower import read_newest
from shared.errors import Transient
from shared.runtime.process import kafka_of
from shared.runtime.settings import Settings
from tests.support.processes import command


@pytest.mark.timeout(300)
async def test_another_user_of_the_machine_is_not_let_in(root: Path, tmp_path: Path) -> None:
    """The port is open to every user: the password lies where only its own can read it, and commands read it there."""
    data, directory = tmp_path / "data", root / "demo" / "directory.yaml"
    arguments = ("-m", "services", "--port", "0", "--data", str(data), "--directory", str(directory))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=root, stdout=asyncio.subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 120)
        assert line.startswith(b"ready "), line
        for folder in (data, data / "kafka"):
            assert not stat.S_IMODE(folder.stat().st_mode) & 0o066, folder
        ours = kept.kafka(data)
        assert ours is not None
        with pytest.raises(Transient):
            await Kafka(ours["kafka"]).describe()
        newest = await read_newest(kafka_of(Settings(**ours)))  # pyright: ignore[reportArgumentType]
        assert newest is not None
        for arguments, said in (
            (("apply", str(directory)), "nothing to change; revision 1 is in use"),
            (("dead-letters", "list", "feedback.v1"), "0 dead letters of feedback.v1"),
            (("offsets", "show"), "feedback.v1/0"),
        ):
            done = await command(*arguments, "--data", str(data))
            assert (done.code, said in done.out) == (0, True), done
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 60)


async def test_settings_of_a_login_without_a_cluster_are_wrong(tmp_path: Path) -> None:
    """They would be of nobody: the servers of its own have a login of their own."""
    for settings in ({"FIILIS_KAFKA_SECURITY": "sasl_ssl"}, {"FIILIS_KAFKA_SASL_PASSWORD": "x"}):
        done = await command("--port", "0", "--data", str(tmp_path / "data"), **settings)
        assert done.code == 2, done
        assert "FIILIS_KAFKA_S" in done.err
        assert not (tmp_path / "data").exists()
