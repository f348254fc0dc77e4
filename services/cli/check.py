"""`check`: a directory is validated; every fault is told by its line."""

from __future__ import annotations

from pathlib import Path

import typer

from services.cli.terminal import WRONG, err, out
from shared.directory import check as checking
from shared.directory.model import Directory

app = typer.Typer()


@app.command()
def check(file: Path) -> None:
    """Validate a directory; errors as FILE:LINE: path: what is wrong."""
    directory = read_directory(file)
    out.print(f"{file}: {len(directory.customers)} customers, {len(directory.people)} people: valid", markup=False)


def read_directory(file: Path) -> Directory:
    """Return a directory; one that is not valid ends the command, with every fault by its line."""
    try:
        return checking.parse_file(file)
    except checking.Findings as findings:
        for finding in findings.findings:
            err.print(finding.render(str(file)), markup=False)
        err.print(f"{len(findings.findings)} to mend", style="red")
    except OSError as error:
        err.print(f"cannot read {file}: {error.strerror}", style="red", markup=False)
    raise typer.Exit(WRONG)
