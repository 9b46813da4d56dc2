"""Bounds of numbers: what a flag may be, and the sentence that says so."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from eqids.config.errors import require


@dataclass(frozen=True)
class Bound:
    """A condition on a number.

    Attributes:
        holds: the condition.
        wanted: the condition in words.
    """

    holds: Callable[[float], bool]
    wanted: str


ONE_OR_MORE = Bound(lambda x: x >= 1, "1 or more")
ZERO_OR_MORE = Bound(lambda x: x >= 0, "0 or more")
ABOVE_ZERO = Bound(lambda x: x > 0, "more than 0")
FINITE = Bound(math.isfinite, "a finite number")
SHARE = Bound(lambda x: 0 <= x < 1, "at least 0 and less than 1")
OPEN_SHARE = Bound(lambda x: 0 < x < 1, "more than 0 and less than 1")
SEED = Bound(lambda x: 0 <= x < 2**32, "0 to 2**32 - 1")


def check_flags(config: object, names: str, bound: Bound) -> None:
    """Requires that flags are within a bound.

    Args:
        config: holds the values: a number, several in a tuple, or None for no value.
        names: the fields, separated by spaces.
        bound: the bound of each.

    Raises:
        UserError: a value is outside of it, or there are none in a tuple.
    """
    for name in names.split():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        shown = " ".join(map(str, values)) or "empty"
        good = all(one is None or bound.holds(one) for one in values)
        require(good and len(values) > 0, f"--{name} is {shown}, wanted {bound.wanted}")
