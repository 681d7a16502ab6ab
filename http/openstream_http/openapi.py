"""The description of the API, OpenAPI 3.1: made of the routes, the shapes in schemas.py and what each route declares.

quart-schema walks the routes and turns shapes into JSON Schema. It knows neither NDJSON nor problems nor headers in
their right place, so the provider below adds those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from quart import Quart
from quart_schema import Info, QuartSchema
from quart_schema.openapi import HttpSecurityScheme, OpenAPIProvider
from werkzeug.routing import Rule

from openstream_http import problems, schemas, sse
from openstream_http.access import Access, access_of
from openstream_http.limits import NAME_SCHEMA
from openstream_http.negotiation import JSON, LINES
from openstream_runtime.domain.topics import MAX_PARTITIONS

_ATTRIBUTE = "_openstream_description"
_SECURITY = "bearer"
_SCHEMAS = "#/components/schemas/"
_PROBLEM = {"$ref": f"{_SCHEMAS}ProblemAnswer"}
_BODY_PROBLEMS = (400, 408, 413, 415, 422)
#: What the guard answers to messages that come no further, on every route.
_GUARD_PROBLEMS = (400, 414, 431)
_TEXT = {"type": "string"}
#: The answers that have no shape of their own, by media type.
_UNSHAPED: Mapping[str, dict[str, Any]] = {
    JSON: {"type": "object"},
    # Of each event, as descriptions before 3.2 have it.
    sse.MEDIA_TYPE: {
        "type": "object",
        "properties": {"event": _TEXT, "data": _TEXT | {"contentMediaType": JSON}},
        "required": ["event", "data"],
    },
}
#: What stands in a path, by its name there.
_PATH: Mapping[str, dict[str, Any]] = {
    "topic": {"type": "string"} | NAME_SCHEMA,
    "group": {"type": "string"} | NAME_SCHEMA,
    "partition": {"type": "integer", "minimum": 0, "maximum": MAX_PARTITIONS - 1},
}
_ABOUT = """Produce, read, acknowledge: ordered partitions on Redis Streams, remembered by PostgreSQL.

Errors are RFC 9457 problems; `type` links to an explanation. 429 and 503 carry Retry-After. Whatever the route, an
Upgrade is a 501 and another version of HTTP a 505."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Description:
    """What a route says of itself. `responses`: a shape, the media type of something else, or None for no body."""

    tag: str
    responses: Mapping[int, type[schemas.Answer] | str | None]
    request: type[schemas.Request] | None = None
    #: The shape of one line, where NDJSON is taken too.
    lines: type[schemas.Request] | None = None
    query: type[schemas.Request] | None = None
    problems: Sequence[int] = ()
    #: The shape of one line, where the 200 is given as NDJSON too.
    answer_lines: type[schemas.Answer] | None = None
    #: Shapes of other media types, of the request and of the 200.
    also: Mapping[str, Any] = field(default_factory=dict)
    answer_also: Mapping[str, Any] = field(default_factory=dict)
    #: Request headers by name, and what each says.
    headers: Mapping[str, str] = field(default_factory=dict)
    body_optional: bool = False


def describes(
    tag: str,
    *,
    responses: Mapping[int, type[schemas.Answer] | str | None],
    request: type[schemas.Request] | None = None,
    lines: type[schemas.Request] | None = None,
    query: type[schemas.Request] | None = None,
    problems: Sequence[int] = (),
    answer_lines: type[schemas.Answer] | None = None,
    also: Mapping[str, Any] | None = None,
    answer_also: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    body_optional: bool = False,
) -> Callable[[F], F]:
    """Describe a route; its docstring is the text."""

    def decorate(view: F) -> F:
        about = Description(
            tag, responses, request, lines, query, problems, answer_lines, also or {}, answer_also or {}, headers or {},
            body_optional,
        )  # fmt: skip
        setattr(view, _ATTRIBUTE, about)
        return view

    return decorate


class Provider(OpenAPIProvider):
    """Our routes as OpenAPI."""

    def __init__(self, app: Quart, extension: QuartSchema) -> None:
        super().__init__(app, extension)
        self._quart = app

    def generate_rules(self) -> list[Rule]:
        return [rule for rule in self._quart.url_map.iter_rules() if self._description(rule) is not None]

    def schema(self) -> dict[str, Any]:
        whole = super().schema()
        whole["paths"] = dict(sorted(whole["paths"].items()))
        whole["components"]["schemas"].update(_components(schemas.ProblemAnswer)[1])
        whole["components"]["schemas"] = dict(sorted(whole["components"]["schemas"].items()))
        return whole

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        paths, components = super().build_paths(rule)
        about = self._description(rule)
        access = access_of(self._quart, rule.endpoint)
        if about is None or access is None:  # pragma: no cover - generate_rules and check_declared see to it
            return {}, {}
        for operations in paths.values():
            for operation in operations.values():
                operation["tags"] = [about.tag]
                operation["security"] = [] if access.roles is None else [{_SECURITY: []}]
                if access.roles is not None:
                    operation["description"] += f"\n\nRoles: {', '.join(sorted(access.roles))}."
                for parameter in operation["parameters"]:
                    parameter["schema"] = _PATH.get(parameter["name"], parameter["schema"])
                self._add_query(operation, about, components)
                operation["parameters"] = operation["parameters"] + _header_parameters(about.headers)
                self._add_request(operation, about, components)
                operation["responses"] = self._responses(rule, about, access, components)
        return paths, components

    def operation_id(self, method: str, path: str, func: Callable[..., Any]) -> str | None:
        # Two paths of one view (/metrics and /metrics/) are two operations.
        return func.__name__ if not path.endswith("/") or path == "/" else f"{func.__name__}_alias"

    def _description(self, rule: Rule) -> Description | None:
        return getattr(self._quart.view_functions[rule.endpoint], _ATTRIBUTE, None)

    def _add_query(self, operation: dict[str, Any], about: Description, components: dict[str, Any]) -> None:
        if about.query is None:
            return
        _, found = _components(about.query)
        shape = found.pop(about.query.__name__)
        components.update(found)
        operation["parameters"] = operation["parameters"] + [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in shape["properties"].items()
        ]

    def _add_request(self, operation: dict[str, Any], about: Description, components: dict[str, Any]) -> None:
        content = {}
        for media, shape in ((JSON, about.request), (LINES[0], about.lines), *about.also.items()):
            if shape is not None:
                content[media] = {"schema": _add(shape, components)}
        if content:
            operation["requestBody"] = {"required": not about.body_optional, "content": content}

    def _responses(
        self, rule: Rule, about: Description, access: Access, components: dict[str, Any]
    ) -> dict[str, dict[str, Any]]:
        responses: dict[str, dict[str, Any]] = {}
        for status, shape in about.responses.items():
            response: dict[str, Any] = {"description": _sentence(shape)}
            responses[str(status)] = response
            if isinstance(shape, str):
                response["content"] = {shape: {"schema": _UNSHAPED.get(shape, _TEXT)}}
            elif shape is not None:
                response["content"] = {JSON: {"schema": _add(shape, components)}}
            if status == 200 and about.answer_lines is not None:
                response.setdefault("content", {})[LINES[0]] = {"schema": _add(about.answer_lines, components)}
            if status == 200:
                for media, other in about.answer_also.items():
                    response.setdefault("content", {})[media] = {"schema": _add(other, components)}
        statuses = {*about.problems, *_GUARD_PROBLEMS, 500, 503}
        if access.roles is not None:
            statuses |= {401, 403}
        if about.request is not None:
            statuses |= set(_BODY_PROBLEMS)
        if rule.arguments:
            statuses |= {404, 422}
        if about.query is not None:
            statuses.add(422)
        for status in sorted(statuses - set(about.responses)):
            responses[str(status)] = _problem_response(status)
        return responses


def _header_parameters(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}
        for name, about in headers.items()
    ]


def _problem_response(status: int) -> dict[str, Any]:
    titles = sorted({kind.title for kind in problems.KINDS.values() if kind.status == status})
    response: dict[str, Any] = {
        "description": " / ".join(titles),
        "content": {problems.MEDIA_TYPE: {"schema": _PROBLEM}},
    }
    if status in {429, 503}:
        response["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return response


def _sentence(shape: type[Any] | str | None) -> str:
    if shape is None:
        return "Done; there is nothing to say."
    if isinstance(shape, str):
        return shape
    return (shape.__doc__ or shape.__name__).strip().splitlines()[0]


def _components(shape: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A reference to a shape, and every component it needs."""
    # Not quart-schema's own conversion: of a shape made of shapes it keeps one.
    (reference,), components = msgspec.json.schema_components([shape], ref_template=f"{_SCHEMAS}{{name}}")
    return reference, components


def _add(shape: Any, components: dict[str, Any]) -> dict[str, Any]:
    reference, needed = _components(shape)
    components.update(needed)
    return reference


def describe(app: Quart, version: str) -> dict[str, Any]:
    """The whole description."""
    app.config.setdefault("QUART_SCHEMA_CONVERSION_PREFERENCE", "msgspec")
    app.config.setdefault("QUART_SCHEMA_CONVERT_CASING", False)
    # Not attached to the app: it would wrap every answer to convert models that we never return.
    extension = QuartSchema(
        info=Info(title="OpenStream", version=version, description=_ABOUT),
        security_schemes={_SECURITY: HttpSecurityScheme(scheme="bearer", bearer_format="JWT")},
    )
    return Provider(app, extension).schema()
