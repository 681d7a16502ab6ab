"""Media types: which there are beside plain JSON, and which of those on offer a request gets."""

from __future__ import annotations

from quart import request
from werkzeug.datastructures import MIMEAccept

from openstream_http.problems import NOT_ACCEPTABLE, Problem

JSON = "application/json"
#: One JSON value a line, under both of its names.
LINES = ("application/x-ndjson", "application/jsonl")
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
#: For answers that depend on what was asked for.
VARY = {"Vary": "Accept"}


def wanted(*offers: str) -> str:
    """The one of `offers` that the request likes best, the first of equals; Problem 406 when it likes none of them.

    Without an Accept, and to `*/*`, it is the first.
    """
    if not request.headers.get("Accept", "").strip():
        return offers[0]
    # Parameters such as a charset do not tell our types apart.
    liked = MIMEAccept([(media.partition(";")[0].strip(), quality) for media, quality in request.accept_mimetypes])
    found = liked.best_match(offers)
    if found is None:
        raise Problem(
            NOT_ACCEPTABLE, f"this comes as {' or '.join(offers)}", headers=list(VARY.items()), accepted=list(offers)
        )
    return found
