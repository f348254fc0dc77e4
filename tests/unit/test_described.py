"""The OpenAPI document of each service, and of all: which key an address needs, and how it can refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from services.registry import ServiceName
from tests.contract.test_keys import PUBLIC, scope_of
from tests.support.documents import document
from tests.support.services import NAMES

EACH = pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES], ids="+".join)


def operations(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    return ((path, method, said) for path, item in told["paths"].items() for method, said in item.items())


@EACH
async def test_who_may(names: tuple[ServiceName, ...]) -> None:
    """What is public says no key; the others say a scheme that is there, and the scope."""
    told = await document(names)
    schemes = told["components"]["securitySchemes"]
    assert ("key_in_address" in schemes) == ("ingest" in names)
    for path, method, said in operations(told):
        assert ("security" in said) == (path not in PUBLIC), (method, path)
        for one in said.get("security", ()):
            assert [(name in schemes, scopes) for name, scopes in one.items()] == [(True, [scope_of(path)])]
            assert {"401", "403"} <= set(said["responses"])


@EACH
async def test_how_it_refuses(names: tuple[ServiceName, ...]) -> None:
    """By what it is asked; and never as the framework would tell it."""
    told = await document(names)
    assert "ValidationError" not in json.dumps(told)
    for path, method, said in operations(told):
        statuses = set(said["responses"])
        asked = {one["name"].lower() for one in said.get("parameters", ()) if one["in"] != "path"}
        for needed, why in {
            ("400", "503"): True,
            ("404",): "{" in path,
            ("413", "422"): "requestBody" in said,
            ("415",): "requestBody" in said and "security" in said,
            ("422",): bool(asked - {"accept-language"}),
            ("412", "428"): "if-match" in asked,
            ("429",): path == "/v1/feedback",
        }.items():
            assert not why or statuses >= set(needed), (method, path, statuses)
        for status, response in said["responses"].items():
            assert response["description"]
            if status >= "400" and (path, status) != ("/readyz", "503"):
                assert "application/problem+json" in response["content"], (path, status)


async def test_operations_are_called_by_what_they_do() -> None:
    """A generated client has a function of each name: an act and what it is done to, once."""
    ids = [said["operationId"] for _, _, said in operations(await document(NAMES)) if "operationId" in said]
    assert len(ids) == len(set(ids))
    unclear = [id_ for id_ in ids if not re.fullmatch(r"[a-z]+(_[a-z]+)+|healthz|readyz|metrics", id_)]
    assert not unclear
