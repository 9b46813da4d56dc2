"""Import Orbax, which is optional, when it is needed."""

import importlib
from typing import Any

from eqids.config import UserError


def import_orbax(module: str, reason: str) -> Any:
    """Returns a module of Orbax.

    Args:
        module: its name, such as orbax.checkpoint.
        reason: why it is needed, for the message.

    Raises:
        UserError: Orbax is not installed, or not in a version that can be imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"{reason}: pip install 'eqids[orbax]'") from error
    except Exception as error:  # a version for another jax may raise any type
        raise UserError(
            f"{reason}, and the installed one cannot be imported ({error}): "
            "pip install -U 'eqids[orbax]'"
        ) from error
