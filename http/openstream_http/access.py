"""Who may call which route: declared at the route itself, checked before its body is read.

A route without a declaration does not start: `check_declared` runs when the app is made, so that forgetting is an
error at the desk and not a hole in production.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from quart import Quart, request

from openstream_http.auth import Principal, Role
from openstream_http.connection import notes
from openstream_http.edge import edge
from openstream_http.problems import FORBIDDEN, Problem
from openstream_runtime.domain.names import check_group, check_topic

_ATTRIBUTE = "_openstream_access"
#: Where the identity of a request and the template of its route are kept: the guard reads the latter.
PRINCIPAL = "openstream.principal"
ROUTE = "openstream.route"

F = TypeVar("F", bound=Callable[..., Any])


class Reach(StrEnum):
    """What a token that is narrowed to some topics may do here."""

    #: The route names its topic, or answers only about topics the token covers.
    TOPICS = "topics"
    #: The route tells about every topic at once: only for tokens that are not narrowed.
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Access:
    """Roles that may call a route; None: everybody, without a token."""

    roles: frozenset[Role] | None
    reach: Reach = Reach.TOPICS


def permits(*roles: Role, reach: Reach = Reach.TOPICS) -> Callable[[F], F]:
    """Let these roles in, and the admin always."""
    return _declare(Access(frozenset(roles) | {Role.ADMIN}, reach))


def public(view: F) -> F:
    """Let everybody in."""
    return _declare(Access(None))(view)


def _declare(access: Access) -> Callable[[F], F]:
    def decorate(view: F) -> F:
        setattr(view, _ATTRIBUTE, access)
        return view

    return decorate


def access_of(app: Quart, endpoint: str) -> Access | None:
    """What the route declares."""
    return getattr(app.view_functions.get(endpoint), _ATTRIBUTE, None)


def check_declared(app: Quart) -> None:
    """RuntimeError when any route forgot to say who may call it."""
    forgotten = sorted({rule.rule for rule in app.url_map.iter_rules() if access_of(app, rule.endpoint) is None})
    if forgotten:
        raise RuntimeError(f"routes that declare no permission: {', '.join(forgotten)}")


def install(app: Quart) -> None:
    """Check every request before its route runs."""
    app.before_request(_check)


async def _check() -> None:
    rule = request.url_rule
    if rule is None:
        return  # no such route: the router's 404 or 405 says it
    notes(request)[ROUTE] = rule.rule
    access = access_of(edge().app, rule.endpoint)
    if access is None:  # a route added after create_app
        raise Problem(FORBIDDEN, "this route declares no permission")
    if access.roles is None or request.method == "OPTIONS":
        return
    principal = edge().verifier.verify(request.headers.getlist("Authorization"))
    notes(request)[PRINCIPAL] = principal
    if principal.role not in access.roles:
        needed = ", ".join(sorted(access.roles))
        raise forbidden(f"the role {principal.role} may not do this; it takes one of: {needed}")
    names = request.view_args or {}
    if "topic" in names:
        # Malformed before forbidden: a malformed name says nothing about what exists.
        check_topic(names["topic"])
        if not principal.allows(names["topic"]):
            raise forbidden("the token does not cover this topic")
    elif access.reach is Reach.EVERYTHING and principal.topics is not None:
        raise forbidden("the token is narrowed to topics, and this tells about all of them")
    if "group" in names:
        check_group(names["group"])


def principal() -> Principal:
    """Whose request this is; only behind `permits`."""
    found: Principal = notes(request)[PRINCIPAL]
    return found


def forbidden(detail: str) -> Problem:
    """The token is good, and not for this."""
    return Problem(FORBIDDEN, detail, headers=[("www-authenticate", 'Bearer error="insufficient_scope"')])
