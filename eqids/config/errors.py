"""How a mistake of the user is told."""


class UserError(ValueError):
    """A mistake the user can mend: one sentence, shown without a traceback.

    It names the file or field, the value that came and what was wanted. Doors
    print it and exit with code 2.
    """


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
