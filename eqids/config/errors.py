"""How a mistake of the user is told, and a run that was told to stop."""

TEXT_WANTED = (
    "--text is '', wanted names of columns in braces, such as '{title}, {genres}'"
)


class UserError(ValueError):
    """A mistake the user can mend: one sentence, shown without a traceback.

    It names the file or field, the value that came and what was wanted. Doors
    print it and exit with code 2.
    """


class Stopped(Exception):
    """A run that a signal ended, after all that it had to save was saved."""

    def __init__(self, message: str, signal: int):
        """Says how far it came.

        Args:
            message: one sentence.
            signal: the number of the signal that ended it.
        """
        super().__init__(message)
        self.signal = signal


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
