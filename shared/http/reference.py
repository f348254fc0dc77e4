"""/docs: the API's reference as a page of our own, made of the OpenAPI document; no script, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from shared.http.html import templates

Schema = Mapping[str, Any]

_templates = templates(__file__)
_METHODS = ("get", "post", "put", "patch", "delete", "head", "options")


class Parameter(NamedTuple):
    """What can be asked."""

    name: str
    place: str
    type: str
    note: str


class Operation(NamedTuple):
    """What can be done at an address."""

    method: str
    path: str
    summary: str
    description: str
    parameters: list[Parameter]
    body: list[tuple[str, str]]
    responses: list[tuple[str, str]]


def page(schema: Schema) -> str:
    """Return the page of an OpenAPI document."""
    groups: dict[str, list[Operation]] = {}
    for path, item in sorted(schema.get("paths", {}).items()):
        for method in _METHODS:
            if method in item:
                tag = next(iter(item[method].get("tags", ())), "other")
                groups.setdefault(tag, []).append(_operation(method, path, item[method]))
    schemas = schema.get("components", {}).get("schemas", {})
    return _templates.get_template("reference.html").render(
        title=schema["info"]["title"],
        version=schema["info"]["version"],
        groups=dict(sorted(groups.items())),
        schemas=[(name, json.dumps(one, indent=2, ensure_ascii=False)) for name, one in sorted(schemas.items())],
    )


def _operation(method: str, path: str, told: Schema) -> Operation:
    content: Schema = told.get("requestBody", {}).get("content", {})
    return Operation(
        method.upper(),
        path,
        told.get("summary", ""),
        told.get("description", ""),
        list(_parameters(told)),
        [(media, type_of(one.get("schema", {}))) for media, one in content.items()],
        [(status, one.get("description", "")) for status, one in told.get("responses", {}).items()],
    )


def _parameters(told: Schema) -> Iterator[Parameter]:
    for one in told.get("parameters", ()):
        schema: Schema = one.get("schema", {})
        notes = ["required"] if one.get("required") else []
        notes += [f"default {schema['default']}"] if schema.get("default") is not None else []
        notes += [one["description"]] if one.get("description") else []
        yield Parameter(one["name"], one["in"], type_of(schema), ", ".join(notes))


def type_of(schema: Schema) -> str:
    """Return a schema in a word or two."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    for union in ("anyOf", "oneOf"):
        if union in schema:
            kinds = [type_of(one) for one in schema[union] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "anything")
