"""The random keys of a run."""

import jax
from jaxtyping import PRNGKeyArray


def run_keys(seed: int) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Returns the key of a run's first weights and the key of its steps."""
    first, steps = jax.random.split(jax.random.key(seed))
    return first, steps
