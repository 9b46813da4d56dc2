"""A run: everything that stays the same while its state changes."""

from dataclasses import dataclass

import equinox as eqx
from jaxtyping import PRNGKeyArray

from eqids.config import RunConfig
from eqids.data import Dataset
from eqids.fit.cold_start import ColdItems
from eqids.fit.evaluation import Evaluation, Ranker, Split, evaluate
from eqids.fit.gate import evaluate_with_best_gates, gates
from eqids.fit.placed_batches import PlacedBatches
from eqids.fit.run_checkpoints import RunCheckpoints
from eqids.fit.step import State, Step
from eqids.model import EqIDs, PrefixCache


@dataclass(frozen=True)
class Run:
    """What `train` needs besides a state.

    Attributes:
        config: the run's config.
        step: the train step, from `make_step`.
        key: the key of the run's steps.
        frozen: the part of the model that does not train.
        prefix: the prompt's keys and values, if the batches lack the prompt.
        cold: unused items, if training leaves them out.
        batches: what to train on.
        dataset: the dataset whose validation split is evaluated during training.
        ranker: ranks the targets of evaluations.
        checkpoints: saves the states.
    """

    config: RunConfig
    step: Step
    key: PRNGKeyArray
    frozen: EqIDs
    prefix: PrefixCache | None
    cold: ColdItems | None
    batches: PlacedBatches
    dataset: Dataset
    ranker: Ranker
    checkpoints: RunCheckpoints

    def evaluate(
        self, params: EqIDs, split: Split, dataset: Dataset | None = None
    ) -> Evaluation:
        """Returns the metrics of weights on a split.

        Args:
            params: the weights.
            split: the split.
            dataset: its users, by default those evaluated during training.
        """
        model = eqx.combine(params, self.frozen)
        return evaluate(model, dataset or self.dataset, split, self.ranker)

    def validate(self, state: State) -> tuple[State, Evaluation]:
        """Returns a state as it is saved, and its metrics on validation.

        Unused items have vectors, and the gates are chosen.
        """
        state = self.with_cold_items(state)
        if not gates(state.params):
            return state, self.evaluate(state.params, "valid")
        model = eqx.combine(state.params, self.frozen)
        fitted, found = evaluate_with_best_gates(model, self.dataset, self.ranker)
        return eqx.tree_at(lambda s: gates(s.params), state, gates(fitted)), found

    def with_cold_items(self, state: State) -> State:
        """Returns a state whose unused items have vectors, for use outside training."""
        return state if self.cold is None else self.cold.filled(state)
