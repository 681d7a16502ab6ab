"""The shape of a CloudEvent, for descriptions: what is taken and given is in `incoming` and `outgoing`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from openstream_http.limits import MAX_KEY_BYTES, MAX_TYPE_CHARS

#: Headers of binary mode that every event has; any of them makes a request one in binary mode.
BINARY_HEADERS = {
    "ce-specversion": "CloudEvents in binary mode: 1.0. The body is the data, Content-Type its type.",
    "ce-id": "CloudEvents in binary mode: the attribute id. Values are percent-encoded.",
    "ce-source": "CloudEvents in binary mode: the attribute source.",
    "ce-type": "CloudEvents in binary mode: the attribute type. Every other attribute has a header like it.",
}


class CloudEvent(Struct, omit_defaults=True):
    """A CloudEvent 1.0 in JSON. Further members are extensions: a string, a boolean or an integer of 32 bits."""

    specversion: Literal["1.0"]
    id: Annotated[str, Meta(min_length=1)]
    source: Annotated[str, Meta(min_length=1, description="a URI reference")]
    type: Annotated[str, Meta(min_length=1, max_length=MAX_TYPE_CHARS, description="the event_type")]
    subject: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    time: Annotated[str, Meta(description="RFC 3339; the timestamp_ms")] | UnsetType = UNSET
    datacontenttype: Annotated[str, Meta(min_length=1, description="JSON when not given")] | UnsetType = UNSET
    dataschema: Annotated[str, Meta(min_length=1, description="an absolute URI")] | UnsetType = UNSET
    partitionkey: (
        Annotated[str, Meta(min_length=1, max_length=MAX_KEY_BYTES, description="the partition_key")] | UnsetType
    ) = UNSET
    data: Annotated[Any, Meta(description="byte for byte as it came")] = UNSET
    data_base64: Annotated[str, Meta(description="in the place of data")] | UnsetType = UNSET
    openstreampartition: Annotated[int, Meta(description="in answers: the partition, for acks")] | UnsetType = UNSET
    openstreamid: Annotated[str, Meta(description="in answers: the redis_id, for acks")] | UnsetType = UNSET
    openstreamdeliveries: (
        Annotated[int, Meta(description="in answers to reads: how often it was handed out, this time included")]
        | UnsetType
    ) = UNSET
