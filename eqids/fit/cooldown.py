"""The cool-down of schedule wsd (warmup-stable-decay): when it begins and ends.

The learning rate is constant until the cool-down, which makes up the last fifth of the
run's own steps (Hu et al. 2024, MiniCPM; Hägele et al. 2024 compare it with a cosine).
So a run's end may be decided while it trains: a cool-down that begins after d steps
takes a quarter of d steps. The state records d, so that a resumed run decides nothing
anew.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SHARE = 0.2
"""The cool-down's share of all steps."""
LOWEST = 0.01
"""The learning rate at the end of a schedule, over its largest."""
NOT_BEGUN = np.int32(np.iinfo(np.int32).max)
"""What a state records as long as no cool-down was begun before its time."""


class Cooldown(NamedTuple):
    """A cool-down, by numbers of steps."""

    first: Int[Array, ""]
    """Steps before it."""
    last: Int[Array, ""]
    """Steps of the whole run."""


def cooldown(
    num_steps: int, begun: Int[Array, ""] | np.int32, first_step: int = 0
) -> Cooldown:
    """Returns the cool-down of a run.

    Args:
        num_steps: most steps of the run.
        begun: the steps after which it was begun, or `NOT_BEGUN`.
        first_step: those of the steps that the run which it continues made.
    """
    first = jnp.minimum(begun, num_steps - int(SHARE * (num_steps - first_step)))
    length = -(-(first - first_step) // 4)
    return Cooldown(first, jnp.minimum(first + length, num_steps))


def cooled(
    num_steps: int,
    step: Int[Array, ""],
    begun: Int[Array, ""] | np.int32,
    first_step: int = 0,
) -> Float[Array, ""]:
    """Returns the learning rate of a step over its largest, from 1 to `LOWEST`.

    Args:
        num_steps: most steps of the run.
        step: number of the steps before it.
        begun: as for `cooldown`.
        first_step: as for `cooldown`.
    """
    first, last = cooldown(num_steps, begun, first_step)
    share = (step - first) / jnp.maximum(last - first, 1)
    return 1 - (1 - LOWEST) * jnp.clip(share, 0, 1)
