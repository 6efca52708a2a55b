"""Which exceptions are a user's mistake."""


def user_mistakes() -> tuple[type[Exception], ...]:
    """The ``InputError`` of each package. Their modules import nothing, so this is free."""
    from bionemo.cellsets.errors import InputError as CellsError
    from bionemo.perteval.errors import InputError as EvaluationError
    from bionemo.scale.errors import InputError

    return InputError, CellsError, EvaluationError
