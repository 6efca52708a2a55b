"""These exceptions end a run before its last step, with one sentence to the user."""

import signal


class Stopped(RuntimeError):
    """A `Stopped` run goes on when it is started again; the message is one sentence."""

    exit_code = 1

    @property
    def sentence(self) -> str:
        """Return what the command prints."""
        return f"stopped: {self}"


class LostRank(Stopped):
    """A `LostRank` says that another process of the training ended, without which this one cannot go on."""


class Preempted(Stopped):
    """A `Preempted` run was told to end by a signal, SIGINT or SIGTERM.

    The exit code is 128 + its number, what a process ends with that the signal has killed: not a success, and not the
    user's mistake.
    """

    def __init__(self, message: str, by: signal.Signals):
        super().__init__(message)
        self.exit_code = 128 + by

    @property
    def sentence(self) -> str:
        """Return what the command prints; the message says that it stopped."""
        return str(self)
