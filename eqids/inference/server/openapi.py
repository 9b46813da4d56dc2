"""The OpenAPI document, from the table of operations and their types."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from eqids.inference.server.bodies import ErrorAnswer
from eqids.inference.server.http_errors import MEANINGS
from eqids.inference.server.operations import Operation

_REFERENCE = "#/components/schemas/{name}"


def statuses(operation: Operation) -> list[int]:
    """Returns the statuses of an operation's errors, ascending."""
    every = {400, 503} if operation.path != "/health/live" else {400}
    if operation.method == "POST":
        every |= {408, 413}
    if operation.path.startswith("/v1/"):
        every |= {401, 403}
    return sorted({*every, *operation.errors})


def openapi_document(operations: Sequence[Operation], version: str) -> bytes:
    """Returns the document of OpenAPI 3.1 as JSON.

    Args:
        operations: all endpoints.
        version: of this software.
    """
    kinds: set[type[Struct]] = {ErrorAnswer}
    kinds.update(kind for one in operations for kind in (*one.takes, *one.answers))
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        described = _operation(one, schemas)
        paths.setdefault(one.path, {})[one.method.lower()] = described
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "EqIDs", "version": version},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _operation(one: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": one.function.__name__,
        "summary": one.does,
        "responses": {
            "200": _body("The answer.", [kind.__name__ for kind in one.answers])
        },
    }
    for status in statuses(one):
        found["responses"][str(status)] = _body(MEANINGS[status], ["ErrorAnswer"])
    if one.path.startswith("/v1/"):
        found["security"] = [{"key": []}, {}]
    if one.method == "POST":
        body = _body("", [kind.__name__ for kind in one.takes])
        found["requestBody"] = {"required": True, "content": body["content"]}
        return found
    (kind,) = one.takes
    schema = schemas[kind.__name__]
    found["parameters"] = [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in one.path else "query",
            "required": name in schema["required"],
            "schema": field,
        }
        for name, field in schema["properties"].items()
    ]
    return found


def _body(description: str, names: Sequence[str]) -> dict[str, Any]:
    """Returns a body of JSON that is of one of the named types."""
    kinds = [{"$ref": _REFERENCE.format(name=name)} for name in names]
    schema = kinds[0] if len(kinds) == 1 else {"oneOf": kinds}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema}},
    }
