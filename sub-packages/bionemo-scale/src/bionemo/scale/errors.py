"""The one exception a user's mistake raises."""


class InputError(ValueError):
    """Something the user gave is wrong; the message is one sentence that names the thing and the mend."""
