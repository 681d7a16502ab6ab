"""What can go wrong before or around a node, told to a person: one sentence and, where there is one, the way out."""


class OpsError(Exception):
    """The command cannot go on. `hint` says what to do about it; `exit_code` is what the shell sees."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OpsError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class DataDirBusy(OpsError):
    """Another process holds the data directory."""


class ServerFailed(OpsError):
    """A server did not start, or ended by itself."""


class StartCancelled(OpsError):
    """The user asked to stop while something was still starting; not a failure."""

    exit_code = 0


class NodeFailed(OpsError):
    """A node ended by itself or never became ready."""


class Refused(OpsError):
    """The node said no."""


class OutOfReach(OpsError):
    """No node answered."""

    exit_code = 3


class NotAllowed(OpsError):
    """The token is missing, expired or may not do this."""

    exit_code = 4


class GaveUp(OpsError):
    """The node stayed overloaded for longer than we wait."""

    exit_code = 5


class Interrupted(OpsError):
    """Ctrl-C, or a SIGTERM."""

    exit_code = 130
