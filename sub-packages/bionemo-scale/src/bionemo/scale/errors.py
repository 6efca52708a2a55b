"""These exceptions end a run before its last step, with one sentence to the user."""


class Stopped(RuntimeError):
    """Training ended before its last step, and goes on when it is started again; the message is one sentence."""

    exit_code = 1


class Preempted(Stopped):
    """Training was told to end (SIGTERM) and has saved its state."""

    exit_code = 143
    """128 + SIGTERM, what a process ends with that the signal has killed: not a success, and not the user's mistake."""
