"""The OpenAPI 3.1 document, made from the routes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tidemill.client.problems import MEDIA_TYPE, Problem
from tidemill.client.transport import IDEMPOTENCY_HEADER
from tidemill.core.codec import decode_any, encode, schemas
from tidemill.server.rest.route import BYTES_TYPE, JSON_TYPE, Route

_REF = "#/components/schemas/{name}"
_CONVERTOR = re.compile(r"{(\w+):\w+}")


def document(nouns: Mapping[str, Sequence[Route]], *, version: str, prefix: str) -> dict[str, Any]:
    """Return the document. prefix stands before the path of every route and may hold {project}."""
    routes = [(noun, route) for noun, table in nouns.items() for route in table]
    kinds = list(_kinds(routes))
    shapes, components = schemas([kind for _, kind in kinds], ref_template=_REF)
    schema_of = {key: shape for (key, _), shape in zip(kinds, shapes, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for noun, route in routes:
        path = _CONVERTOR.sub(r"{\1}", prefix + route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(noun, route, schema_of, in_project="{project}" in prefix)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "The native API. Errors are problem details (RFC 9457); names and times are in UTC and RFC 3339.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": noun} for noun in nouns],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key: tm_<id>_<secret>"}},
        },
        "security": [{}, {"key": []}],
    }


def _kinds(routes: Sequence[tuple[str, Route]]) -> Iterator[tuple[str, Any]]:
    yield "problem", Problem
    for noun, route in routes:
        shape, key = route.shape, f"{noun}.{route.name}"
        if shape.body is not None and not shape.takes_file:
            yield f"{key}.body", shape.body
        if shape.answer is not None and not shape.gives_bytes:
            yield f"{key}.answer", shape.answer
        if shape.once is not None:
            yield f"{key}.once", shape.once
        yield from ((f"{key}.path.{name}", kind) for name, kind in shape.path.items())
        yield from ((f"{key}.query.{name}", query.kind) for name, query in shape.query.items())


def _operation(noun: str, route: Route, schema_of: Mapping[str, Any], *, in_project: bool) -> dict[str, Any]:
    key, shape = f"{noun}.{route.name}", route.shape
    parameters: list[dict[str, Any]] = (
        [{"name": "project", "in": "path", "required": True, "schema": {"type": "string"}}] if in_project else []
    )
    parameters += [{"name": name, "in": "path", "required": True, "schema": schema_of[f"{key}.path.{name}"]} for name in shape.path]
    for name, query in shape.query.items():
        schema = dict(schema_of[f"{key}.query.{name}"])
        if not query.required and query.default is not None:
            schema["default"] = decode_any(encode(query.default))
        parameters.append({"name": name, "in": "query", "required": query.required, "schema": schema})
    if shape.once is not None:
        parameters.append({"name": IDEMPOTENCY_HEADER, "in": "header", "required": False, "schema": schema_of[f"{key}.once"]})
    operation: dict[str, Any] = {
        "operationId": key.replace(".", "_"),
        "tags": [noun],
        "summary": route.summary,
        "parameters": parameters,
        "responses": {str(204 if shape.answer is None else route.status): _answer(key, route, schema_of), "default": _problem(schema_of)},
    }
    if shape.takes_file:
        operation["requestBody"] = {"required": True, "content": {media: {"schema": {}} for media in route.takes}}
    elif shape.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": schema_of[f"{key}.body"]}}}
    return operation


def _answer(key: str, route: Route, schema_of: Mapping[str, Any]) -> dict[str, Any]:
    if route.shape.answer is None:
        return {"description": "Done."}
    if route.shape.gives_bytes:
        return {"description": "The bytes.", "content": {BYTES_TYPE: {"schema": {}}}}
    return {"description": "The answer.", "content": {JSON_TYPE: {"schema": schema_of[f"{key}.answer"]}}}


def _problem(schema_of: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": "What went wrong.", "content": {MEDIA_TYPE: {"schema": schema_of["problem"]}}}
