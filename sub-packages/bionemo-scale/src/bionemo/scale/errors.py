"""These exceptions end a run before its last step, with one sentence to the user."""

import signal


class Stopped(RuntimeError):
    """Training ended before its last step, and goes on when it is started again; the message is one sentence."""

    exit_code = 1

    @property
    def sentence(self) -> str:
        """Return what the command prints."""
        return f"stopped: {self}"


class LostRank(Stopped):
    """Another process of the training ended, and this one cannot go on without it."""


class Preempted(Stopped):
    """Training was told to end by a signal.

    Parameters
    ----------
    message : str
        One sentence.
    by : signal.Signals
        SIGINT or SIGTERM. The exit code is 128 + its number, what a process ends with that the signal has killed: not a
        success, and not the user's mistake.
    """

    def __init__(self, message: str, by: signal.Signals):
        super().__init__(message)
        self.exit_code = 128 + by

    @property
    def sentence(self) -> str:
        """Return what the command prints; the message says that it stopped."""
        return str(self)
