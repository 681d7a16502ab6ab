"""What can go wrong in a tree, named by what the caller can do about it.

The message of an error defaults to its docstring, so a bare `raise NotRunning` already reads well.
"""

from __future__ import annotations

# An error's text goes into logs, events and the dashboard: enough to recognise it, never a whole payload.
LONGEST_TEXT = 500


class SupervisorError(Exception):
    """Something went wrong in the supervision tree."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class StartFailed(SupervisorError):
    """The child did not become ready."""


class StartTimedOut(StartFailed):
    """The child did not become ready within its start timeout."""


class ReturnedBeforeReady(StartFailed):
    """The child returned without ever saying that it was ready."""


class StrayCancellation(SupervisorError):
    """The child ended by a cancellation nobody had asked for (a library's, most likely)."""


class RestartLimitExceeded(SupervisorError):
    """The children failed more often than the restart budget allows."""


class NotRunning(SupervisorError):
    """The supervisor is not running, or is stopping: its set of children cannot be changed now."""


class DuplicateChild(SupervisorError):
    """There is a child with this id already."""


class UnknownChild(SupervisorError):
    """There is no child with this id."""


class MailboxError(SupervisorError):
    """The message could not be delivered, or not be answered."""


class MailboxFull(MailboxError):
    """The mailbox is full; the message was not taken."""


class MailboxClosed(MailboxError):
    """The mailbox is closed; nobody will take the message any more."""


class MessageTooLarge(MailboxError):
    """The message alone is larger than the mailbox may ever hold."""


class ActorGone(MailboxError):
    """The actor that had taken the message is gone without an answer; what it did with it is unknown."""


class CallTimeout(MailboxError, TimeoutError):
    """No answer within the timeout."""

    def __init__(self, message: str | None = None, *, delivered: bool = False) -> None:
        super().__init__(message)
        #: False: there was no room in time, the message was never taken. True: the outcome is unknown.
        self.delivered = delivered


def flatten(error: BaseException) -> str:
    """One line for an error: `ValueError: no`; a group is the list of its leaves."""
    if isinstance(error, BaseExceptionGroup):
        text = "; ".join(flatten(each) for each in error.exceptions)
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
