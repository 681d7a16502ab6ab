"""How much of anything a request may hold, and the types that say so."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from openstream_runtime.domain.topics import MAX_PARTITIONS

MAX_EVENTS = 5_000
MAX_KEY_BYTES = 1_024
MAX_TYPE_CHARS = 200
MAX_HEADERS = 64
MAX_HEADER_BYTES = 8_192
MAX_EVENT_ID_CHARS = 200
MAX_BLOCK_MS = 30_000
#: Exact in every JSON parser, JavaScript's too; in milliseconds it is the year 287396.
MAX_INTEGER = 2**53
DAY_S = 86_400

#: What an id looks like, for descriptions; Position.parse decides.
_ID = "[0-9]{1,19}-[0-9]{1,19}"

PartitionCount = Annotated[int, Meta(ge=1, le=MAX_PARTITIONS)]
PartitionNumber = Annotated[int, Meta(ge=0, lt=MAX_PARTITIONS)]
Partitions = Annotated[list[PartitionNumber], Meta(min_length=1, max_length=MAX_PARTITIONS)]
Milliseconds = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Count = Annotated[int, Meta(ge=1, le=MAX_EVENTS)]
EventId = Annotated[
    str,
    Meta(max_length=41, description="opaque: hand it back as it came", extra_json_schema={"pattern": f"^{_ID}$"}),
]
StartId = Annotated[
    str,
    Meta(
        max_length=41,
        description="`$` new events only, `0-0` everything retained, or an event id",
        extra_json_schema={"pattern": rf"^(\$|{_ID})$"},
    ),
]
#: `p<partition>@<id>`: an event among those of all partitions.
PlaceId = Annotated[str, Meta(max_length=48, extra_json_schema={"pattern": f"^p[0-9]{{1,4}}@{_ID}$"})]
#: Checked by domain/names.py, which says more about what is wrong than a pattern could.
NAME_SCHEMA = {"pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,200}$", "minLength": 1, "maxLength": 200}
Name = Annotated[str, Meta(description="1 to 200 of A-Z a-z 0-9 . _ -", extra_json_schema=NAME_SCHEMA)]
Consumer = Annotated[
    str, Meta(description="1 to 200 printable characters", extra_json_schema={"minLength": 1, "maxLength": 200})
]
