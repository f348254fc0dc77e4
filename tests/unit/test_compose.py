"""docker-compose.yml has no secret that everybody knows, and its containers can do no more than they need."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.directory import check
from shared.wire.signing import SHORTEST_SECRET, key_hash


@pytest.fixture
def compose(root: Path) -> str:
    return (root / "docker-compose.yml").read_text()


def written(root: Path) -> dict[str, str]:
    made = subprocess.run(
        [sys.executable, "-I", str(root / "deploy/compose/env.py")], check=True, capture_output=True, text=True
    )
    return dict(line.split("=", 1) for line in made.stdout.splitlines())


def test_nothing_starts_without_secrets_of_its_own(root: Path, compose: str) -> None:
    """Each is asked for, `make env` makes each, and none twice the same."""
    asked = re.findall(r"(?<!\$)\$\{(\w+)([^}]*)\}", compose)
    assert len(asked) >= 6
    assert {rest for _, rest in asked} == {":?is not set; run make env"}
    first, second = written(root), written(root)
    assert {name for name, _ in asked} <= set(first)
    assert all(first[name] != second[name] for name in first)
    assert len(set(first.values())) == len(first)
    assert len(first["FIILIS_SECRET"]) >= SHORTEST_SECRET
    assert first["FIILIS_KEY_SHA256"] == key_hash(first["FIILIS_KEY"])
    assert all(re.fullmatch(r"[\w-]+", value) for value in first.values()), "no URL and no shell reads them otherwise"


def test_its_directory_is_valid_with_such_a_key(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "directory.yaml"
    text = (root / "deploy/compose/directory.yaml").read_text()
    assert "change_me" not in text
    file.write_text(text.replace("KEY_SHA256", written(root)["FIILIS_KEY_SHA256"]))
    assert check.parse_file(file).keys


def test_containers_are_closed(compose: str) -> None:
    """Nothing is written but where it belongs, nobody gains a right, and one cannot take all of the machine."""
    services: dict[str, Any] = yaml.safe_load(compose)["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    roles = [
        service["environment"].get("FIILIS_DATABASE_URL", "")
        for service in services.values()
        if "environment" in service
    ]
    for name in ("ingest", "scoring", "ticketing", "notify"):
        assert sum(f"//fiilis_{name}:" in url for url in roles) == 1
