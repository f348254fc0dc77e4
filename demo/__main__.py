"""`make demo`: everything in one process, with example customers, simulated traffic and a mailbox to click in."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from demo.inbox import Inbox
from services.cli.environment import settings
from services.run import Everything, run_everything, say_ready
from services.simulation.service import Simulation
from shared.directory.check import parse_file
from shared.directory.model import Directory, Key
from shared.errors import Misconfigured
from shared.runtime import logs
from shared.runtime.process import Parts
from shared.runtime.service import Service, run_process
from shared.runtime.settings import Settings
from shared.wire.signing import key_hash, new_key

DIRECTORY = Path(__file__).parent / "directory.yaml"
SMTP_PORT, INBOX_PORT = 1025, 8025
"""The ports that mail catchers use; a free one is taken where another program has them."""
_out = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class DemoKeys:
    """The demo's API keys; they stay the same over restarts, in the data directory."""

    ops: str
    widget: str

    def local(self) -> tuple[Key, ...]:
        """Return what this process knows of them; they are never published."""
        scopes = ("admin", "feedback", "scores", "tickets", "oncall")
        return (
            Key(id="demo-ops", kind="secret", sha256=key_hash(self.ops), scopes=scopes),
            Key(
                id="demo-widget",
                kind="publishable",
                sha256=key_hash(self.widget),
                customers=("aurora-foods",),
                origins=("http://127.0.0.1:8080", "http://localhost:8080"),
            ),
        )


def kept_keys(data: Path) -> DemoKeys:
    """Return the keys of this data directory; the first start makes them."""
    file = data / "demo-keys.json"
    if not file.exists():
        data.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps({"ops": new_key("secret"), "widget": new_key("publishable")}))
        draft.replace(file)
    return DemoKeys(**json.loads(file.read_text()))


_CLICK = {
    "customer": "aurora-foods",
    "kind": "mood",
    "score": 1,
    "touchpoint": "support",
    "comment": "Nobody called back",
}
_TO_READ = (
    "/v1/customers/aurora-foods/scores",
    "/v1/alerts?state=open",
    "/v1/tickets",
    "/v1/pages",
    "/v1/oncall?customer=aurora-foods",
)


def _what_to_try(address: str, inbox: str, keys: DemoKeys, bad: str) -> str:
    read = "\n".join(f"""  curl -H "Authorization: Bearer $KEY" '{address}{path}'""" for path in _TO_READ)
    return f"""
[bold]Fiilis runs at {address}[/bold]   Ctrl-C stops all of it.

  Pages arrive here:       [bold]{inbox}[/bold]   (open it in a browser and click a link)
  A kiosk to press:        {address}/kiosk/{keys.widget}
  API documentation:       {address}/docs
  Figures for Prometheus:  {address}/metrics

  Simulated answers flow for five customers; {bad} goes bad after a minute. Or do it yourself:

  export KEY={keys.ops}
  curl -H "Authorization: Bearer $KEY" --json '{json.dumps(_CLICK)}' {address}/v1/feedback
{read}

  A widget's key (can only post, wakes nobody by itself): {keys.widget}
"""


def _main(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(".data"),
    rate: Annotated[float, typer.Option(help="Simulated answers a second.", min=0.01, max=1000)] = 5,
) -> None:
    """Run everything, with example customers, simulated traffic and a mailbox."""
    try:
        given = settings(host=host, port=port)
        keys, simulation, inbox = kept_keys(data), Simulation(rate), Inbox(_free(SMTP_PORT), _free(INBOX_PORT))
    except (Misconfigured, OSError) as error:
        _out.print(f"[red]{error}[/red]")
        sys.exit(2)
    # Services say what they do at INFO; here the screen belongs to what a person can try.
    logs.set_up(level="warning" if given.log_level == "info" else given.log_level, form=given.log_format)
    _out.print("Starting Kafka and PostgreSQL ...")

    def besides(parts: Parts) -> Sequence[Service]:
        return [simulation.service(parts)]

    def ready(address: str) -> None:
        say_ready(address)
        _out.print(_what_to_try(address, inbox.address, keys, "borealis-telecom"))
        simulation.ready(address)

    async def run(stop: asyncio.Event) -> None:
        await inbox.start()
        try:
            how = Everything(data, _directory(inbox), (*keys.local(), simulation.key), besides)
            await run_everything(how, _for_the_demo(given), stop, ready)
        finally:
            await inbox.close()

    sys.exit(run_process(run))


def _free(port: int) -> int:
    """Return the port, or 0 (a free one) where it is taken."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return 0
    return port


def _directory(inbox: Inbox) -> Directory:
    """Return the example directory, its mail going to this demo's mailbox."""
    found = parse_file(DIRECTORY)
    assert found.smtp is not None
    return msgspec.structs.replace(found, smtp=msgspec.structs.replace(found.smtp, port=inbox.smtp_port))


def _for_the_demo(given: Settings) -> Settings:
    """Allow targets on this machine, where the demo's phones are."""
    return given.model_copy(update={"allow_private_targets": given.allow_private_targets or "true"})


if __name__ == "__main__":
    typer.run(_main)
