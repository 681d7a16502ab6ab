"""A client for OpenStream. `OpenStream` is the way in on asyncio and trio, `SyncOpenStream` without either."""

from openstream_client.batch import Receipt
from openstream_client.client import OpenStream
from openstream_client.consumer import Consumer
from openstream_client.errors import (
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    NotSent,
    OutcomeUnknown,
    OutOfSequence,
    Overloaded,
    PartlyDone,
    Rejected,
    Retryable,
    SequenceReused,
    ServerFault,
    StaleEpoch,
    Unauthenticated,
    Unavailable,
    UnknownProducer,
    Unreachable,
)
from openstream_client.message import Message
from openstream_client.models import Event
from openstream_client.numbering import Stamp
from openstream_client.producer import Producer
from openstream_client.sync import SyncOpenStream

__all__ = [
    "ClientError",
    "Conflict",
    "Consumer",
    "Event",
    "Forbidden",
    "Gone",
    "Message",
    "NotFound",
    "NotSent",
    "OpenStream",
    "OutOfSequence",
    "OutcomeUnknown",
    "Overloaded",
    "PartlyDone",
    "Producer",
    "Receipt",
    "Rejected",
    "Retryable",
    "SequenceReused",
    "ServerFault",
    "StaleEpoch",
    "Stamp",
    "SyncOpenStream",
    "Unauthenticated",
    "Unavailable",
    "UnknownProducer",
    "Unreachable",
]
