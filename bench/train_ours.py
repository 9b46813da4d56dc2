"""Our train step, as a contender of `python -m bench train`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from bench.contender import Contender, lowered
from bench.flops import Amount, train_flops
from bench.record import OURS
from eqids.data.batches.host_batch import HostBatch
from eqids.fit import make_optimizer, make_step, split, start
from eqids.model import Batch, EqIDs
from eqids.planning.abstract import Job
from eqids.runs.run_keys import run_keys


class OurTrainStep:
    """A model of random weights, with the train step of a run."""

    def __init__(
        self,
        job: Job,
        valid: Bool[np.ndarray, "cluster place"] | None,
        seed: int,
    ):
        """Starts at step 0.

        Args:
            job: the training job.
            valid: the places of the catalog that hold an item; by default all.
            seed: seed of weights and dropout.
        """
        self.job = job
        first, self._key = run_keys(seed)
        model = EqIDs(job.model, valid=valid, key=first)
        config = job.step
        params, self._frozen = split(model, config.strategy, jnp.dtype(config.dtype))
        self._state = start(params, make_optimizer(config))
        self._step = make_step(config)

    def steps(self, name: str, batches: Sequence[HostBatch]) -> Contender:
        """One step on each batch; they have one shape and are on the device already.

        Args:
            name: name of the work.
            batches: the batches.
        """
        placed = [Batch.of(arrays) for arrays in batches]
        program = lowered(self._step, *self._args(placed[0]))

        def run() -> None:
            for batch in placed:
                self._state, metrics = program.call(*self._args(batch))
            jax.block_until_ready((self._state, metrics))

        amount = Amount.of(batches)
        flops = train_flops(self.job.model, self.job.step.strategy, amount)
        facts = {"tokens": float(amount.positions), "GFLOP": flops / 1e9}
        return Contender(OURS, name, run, program, facts)

    def _args(self, batch: Batch) -> tuple[object, ...]:
        return self._state, self._frozen, batch, self._key, None
