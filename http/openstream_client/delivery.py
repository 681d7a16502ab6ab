"""One batch on its way until each of its events has an outcome."""

from __future__ import annotations

import anyio

from openstream_client.backoff import Backoff, patiently
from openstream_client.batch import Batch
from openstream_client.calls import Calls
from openstream_client.errors import (
    ClientError,
    OutcomeUnknown,
    Overloaded,
    PartlyDone,
    Rejected,
    Retryable,
    UnknownProducer,
)
from openstream_client.numbering import Numbering


async def deliver(
    calls: Calls, topic: str, batch: Batch, *, ack: str, give_up_after: float, partitions: int | None = None
) -> None:
    """Sends again only what certainly was not kept. An event may end with an error of its own; what concerns all that
    are left is raised."""
    backoff = Backoff()
    deadline = anyio.current_time() + give_up_after
    while places := batch.open_places():
        events = [batch.encoded[place] for place in places]
        try:
            produced = await patiently(
                lambda events=events: calls.produce_raw(topic, events, partitions, ack),  # type: ignore[misc]
                give_up_after=max(0.0, deadline - anyio.current_time()),
                backoff=backoff,
            )
        except Rejected as rejected:
            _settle_rejected(batch, places, rejected)
        except PartlyDone as partly:
            batch.settle_partly(places, partly)
            if batch.open_places():
                pause = backoff.pause(Overloaded(facts=partly.facts).retry_after)
                if anyio.current_time() + pause > deadline:
                    # What is still open was refused: nothing of it was kept.
                    raise Overloaded(partly.detail, status=partly.status, facts=partly.facts) from partly
                await anyio.sleep(pause)
        else:
            for place, placed in zip(places, produced.results, strict=True):
                batch.settle(place, placed)


async def deliver_numbered(
    calls: Calls,
    topic: str,
    batch: Batch,
    numbering: Numbering,
    *,
    ack: str,
    give_up_after: float,
    partitions: int | None = None,
) -> None:
    """Sends the same request until it is answered, also when an answer was lost: it is kept once.

    What raises leaves the number used: go on with `begin_anew`, or repeat exactly this request later.
    """
    backoff = Backoff()
    deadline = anyio.current_time() + give_up_after
    while places := batch.open_places():
        events = [batch.encoded[place] for place in places]
        trouble: ClientError
        try:
            produced = await calls.produce_raw(topic, events, partitions, ack, numbering.stamp)
        except Rejected as rejected:
            _settle_rejected(batch, places, rejected)
            continue
        except UnknownProducer as forgotten:
            # It has forgotten us and what we have sent. When no try of this request can be kept, nothing is open.
            if numbering.unsure or not numbering.own:
                raise numbering.final(forgotten) from forgotten
            numbering.begin_anew()
            trouble = forgotten
        except (OutcomeUnknown, PartlyDone) as error:
            numbering.unsure = True
            if error.status is not None and not error.facts.get("repeatable"):
                raise
            trouble = error
        except Retryable as error:
            trouble = error
        except ClientError as error:
            raise numbering.final(error) from error
        else:
            for place, placed in zip(places, produced.results, strict=True):
                batch.settle(place, placed)
            numbering.kept(len(places))
            return
        wait_ms = trouble.facts.get("retry_after_ms")
        pause = backoff.pause(None if wait_ms is None else wait_ms / 1000)
        if anyio.current_time() + pause > deadline:
            if isinstance(trouble, PartlyDone):
                batch.settle_partly(places, trouble)
            raise numbering.final(trouble) from trouble
        await anyio.sleep(pause)


def _settle_rejected(batch: Batch, places: list[int], rejected: Rejected) -> None:
    """The events the node names are settled and the rest stays open: nothing of the request was done."""
    named = {error["loc"][1] for error in rejected.errors if error.get("loc", [])[:1] == ["events"]}
    if not named:
        raise rejected
    for index in named:
        batch.settle(places[index], rejected)
