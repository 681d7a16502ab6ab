"""What a query says, in the shape of its route: each name once, and none that the route does not know."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from quart import request

from openstream_http.problems import INVALID, Problem, invalid
from openstream_http.schemas import Request

Q = TypeVar("Q", bound=Request)


def read_query(shape: type[Q]) -> Q:
    """The query of the current request; Problem 422."""
    # A name said twice means one thing to us and may mean the other to a proxy that looks at it.
    for name, values in request.args.lists():
        if len(values) > 1:
            raise invalid("expected once", "query", name)
    try:
        return msgspec.convert(request.args.to_dict(), shape, strict=False)
    except msgspec.ValidationError as error:
        message = str(error)
        raise Problem(INVALID, f"query: {message}", errors=[{"loc": ["query"], "msg": message}]) from None
