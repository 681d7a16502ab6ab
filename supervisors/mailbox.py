"""Mailbox: bounded by count and by bytes, and part of the tree rather than of its actor.

It outlives the incarnations of the actor that reads it: while the actor is down messages stay and senders feel
backpressure, not errors. Unlike Erlang's it survives a crash; the message that was being handled does not.

It is built on a deque and events of our own. A memory object stream hands an item to a waiting task, and a native
asyncio cancellation of that task (Quart cancels request tasks so) loses it. Here the receiver takes the message itself
once it runs, and a sender puts it in itself once it has been granted room, so a cancelled one has done nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

import anyio
from anyio import Event

from supervisors.envelope import Envelope
from supervisors.errors import CallTimeout, MailboxClosed, MailboxFull, MessageTooLarge

M = TypeVar("M")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """The state of a mailbox at one moment."""

    #: Messages that wait, and their bytes.
    depth: int
    bytes: int
    #: What the mailbox may hold of each; `inf` is no bound.
    max_count: float
    max_bytes: float
    #: Tasks that wait for room, and tasks that wait for a message.
    senders: int
    receivers: int
    #: Since the beginning: messages taken in, and messages refused for want of room.
    accepted: int
    refused: int


class _Sender:
    """A task that waits for room; `granted` once room is set aside for it."""

    __slots__ = ("granted", "size", "wake")

    def __init__(self, size: int) -> None:
        self.size = size
        self.granted = False
        self.wake = Event()


class Mailbox(Generic[M, R]):
    """Messages of type M on their way to one actor, which may answer with R.

    `size` measures a message in bytes; a size given with the message wins. Bounds are kept exactly: a message larger
    than `max_bytes` is refused for good (MessageTooLarge), and while anybody waits for room nobody overtakes.
    Receiving and sending only give way to other tasks when they have to wait.
    """

    def __init__(
        self,
        max_count: float = 1024,
        *,
        max_bytes: float = math.inf,
        size: Callable[[M], int] | None = None,
    ) -> None:
        if not max_count >= 1 or not max_bytes >= 1:
            raise ValueError(f"a mailbox has room for at least one, not {max_count!r} messages of {max_bytes!r} bytes")
        self.max_count = max_count
        self.max_bytes = max_bytes
        self._size = size
        self._queue: deque[Envelope[M, R]] = deque()
        self._senders: deque[_Sender] = deque()
        self._arrival: Event | None = None
        self._receivers = 0
        self._closed = False
        # Room in use: by messages that wait, and by granted senders that have not run yet.
        self._used_count = 0
        self._used_bytes = 0
        self._depth_bytes = 0
        self._accepted = 0
        self._refused = 0

    # -- sending

    async def cast(self, message: M, *, size: int | None = None) -> None:
        """Put the message in, waiting for room. Cancelled, it has not been put in."""
        envelope = Envelope[M, R](message, self._measure(message, size))
        await self._room(envelope.size)
        self._put(envelope)

    def offer(self, message: M, *, size: int | None = None) -> bool:
        """Put the message in if there is room now; False when there is not."""
        envelope = Envelope[M, R](message, self._measure(message, size))
        if not self._take_room(envelope.size):
            self._refused += 1
            return False
        self._put(envelope)
        return True

    async def call(self, message: M, *, timeout: float | None = 5.0, size: int | None = None, wait: bool = True) -> R:
        """Put the message in and wait for the answer, both within `timeout` seconds.

        With `wait=False` a full mailbox raises MailboxFull at once. ActorGone comes as soon as the actor that has taken
        the message ends without an answer. Cancelled or timed out after it was put in, the message stays and is
        delivered once, its envelope `abandoned`.
        """
        reply = Event()
        envelope = Envelope[M, R](message, self._measure(message, size), reply=reply)
        delivered = False
        try:
            with anyio.move_on_after(timeout):
                if wait:
                    await self._room(envelope.size)
                elif not self._take_room(envelope.size):
                    self._refused += 1
                    raise MailboxFull
                self._put(envelope)
                delivered = True
                await reply.wait()
            if not envelope.done:
                raise CallTimeout(delivered=delivered)
            return envelope.outcome()
        finally:
            envelope.hang_up()

    # -- receiving

    async def receive(self) -> Envelope[M, R]:
        """The next message, waiting for one."""
        await self._arrived()
        return self._pop()

    async def receive_all(self, max_count: float = math.inf, max_bytes: float = math.inf) -> list[Envelope[M, R]]:
        """Everything that waits, at least one message: what a group commit is made of.

        The bounds cut the list short; the first message comes whatever its size.
        """
        await self._arrived()
        return self.drain(max_count, max_bytes)

    def drain(self, max_count: float = math.inf, max_bytes: float = math.inf) -> list[Envelope[M, R]]:
        """Everything that waits, without waiting: possibly nothing."""
        batch: list[Envelope[M, R]] = []
        total = 0
        while self._queue and len(batch) < max_count:
            total += self._queue[0].size
            if batch and total > max_bytes:
                break
            batch.append(self._pop(grant=False))
        self._grant()
        return batch

    # -- the end

    def close(self, *, drain: bool = False) -> int:
        """Take no more messages; tasks that wait for room get MailboxClosed.

        What still waits is dropped (its callers get MailboxClosed) and counted in the result; with `drain=True` it may
        still be received, and only then receiving raises MailboxClosed.
        """
        self._closed = True
        for sender in self._senders:
            sender.wake.set()
        self._senders.clear()
        dropped = 0
        while self._queue and not drain:
            self._pop(grant=False).fail(MailboxClosed())
            dropped += 1
        self._wake_receivers()
        return dropped

    # -- introspection

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def depth(self) -> int:
        """Messages that wait."""
        return len(self._queue)

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._depth_bytes

    def statistics(self) -> MailboxStatistics:
        return MailboxStatistics(
            depth=len(self._queue),
            bytes=self._depth_bytes,
            max_count=self.max_count,
            max_bytes=self.max_bytes,
            senders=len(self._senders),
            receivers=self._receivers,
            accepted=self._accepted,
            refused=self._refused,
        )

    def describe(self) -> dict[str, object]:
        """The statistics for an actor's own `describe()`; no bound is None, because JSON knows no infinity."""
        return {key: None if value == math.inf else value for key, value in asdict(self.statistics()).items()}

    # -- room

    def _measure(self, message: M, size: int | None) -> int:
        if self._closed:
            raise MailboxClosed
        if size is None:
            size = self._size(message) if self._size is not None else 0
        if size < 0:
            raise ValueError(f"a message has a size of zero bytes or more, not {size!r}")
        if size > self.max_bytes:
            raise MessageTooLarge(f"a message of {size} bytes for a mailbox of {self.max_bytes:g}")
        return size

    def _fits(self, size: int) -> bool:
        return self._used_count < self.max_count and self._used_bytes + size <= self.max_bytes

    def _take_room(self, size: int) -> bool:
        if self._senders or not self._fits(size):
            return False
        self._used_count += 1
        self._used_bytes += size
        return True

    async def _room(self, size: int) -> None:
        """Take room for a message, waiting for it in line."""
        if self._take_room(size):
            return
        sender = _Sender(size)
        self._senders.append(sender)
        try:
            await sender.wake.wait()
            if self._closed:
                raise MailboxClosed
        except BaseException:
            if sender.granted:
                self._used_count -= 1
                self._used_bytes -= size
            elif not self._closed:
                self._senders.remove(sender)
            self._grant()
            raise

    def _grant(self) -> None:
        """Set room aside for those first in line, as many as fit."""
        while self._senders and self._fits(self._senders[0].size):
            sender = self._senders.popleft()
            sender.granted = True
            self._used_count += 1
            self._used_bytes += sender.size
            sender.wake.set()

    # -- the queue

    def _put(self, envelope: Envelope[M, R]) -> None:
        self._queue.append(envelope)
        self._depth_bytes += envelope.size
        self._accepted += 1
        self._wake_receivers()

    def _pop(self, *, grant: bool = True) -> Envelope[M, R]:
        envelope = self._queue.popleft()
        self._depth_bytes -= envelope.size
        self._used_count -= 1
        self._used_bytes -= envelope.size
        if grant:
            self._grant()
        envelope.taken()
        return envelope

    async def _arrived(self) -> None:
        """Wait until there is a message. All receivers wake and look, so none can sleep on another's wake-up call."""
        while not self._queue:
            if self._closed:
                raise MailboxClosed
            if self._arrival is None:
                self._arrival = Event()
            self._receivers += 1
            try:
                await self._arrival.wait()
            finally:
                self._receivers -= 1

    def _wake_receivers(self) -> None:
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None
