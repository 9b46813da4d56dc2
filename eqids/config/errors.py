"""Mistakes of the user, and runs that a signal stopped."""

TEXT_WANTED = (
    "--text is '', wanted names of columns in braces, such as '{title}, {genres}'"
)


class UserError(ValueError):
    """A mistake that the user can mend: one sentence, shown without a traceback.

    It names the file or field, the value and what was wanted. Commands print it and
    exit with code 2.
    """


class Stopped(Exception):
    """A run that a signal stopped, raised after everything to save was saved."""

    def __init__(self, message: str, signal: int):
        """Records how far the run came.

        Args:
            message: one sentence.
            signal: the number of the signal.
        """
        super().__init__(message)
        self.signal = signal


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
