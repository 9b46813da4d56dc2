"""The checkpoints of a run: its states, saved and restored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eqids.checkpoints import Saver, best_step, read_manifest, restore_sound
from eqids.fit.evaluation import Evaluation
from eqids.fit.step import State, with_text
from eqids.model import EqIDs

Meta = Callable[[Evaluation | None, float], Mapping[str, Any]]
"""Returns what a checkpoint records, given the evaluation of its weights, if any, and
the seconds that the run has trained."""


@dataclass(frozen=True)
class RunCheckpoints:
    """Saves the states of a run, and restores the best.

    Attributes:
        saver: the saver of the run's folder.
        meta: what checkpoints record.
        like: shapes and shardings of a state in checkpoints, see `with_text`.
        stored: the shapes without what a mesh adds, see `stored_shapes`.
        text: the frozen columns of texts, which every checkpoint holds.
    """

    saver: Saver
    meta: Meta
    like: State
    stored: State
    text: EqIDs

    def save(
        self,
        step: int,
        state: State,
        validation: Evaluation | None,
        seconds: float,
        *,
        keep: bool = False,
    ) -> None:
        """Saves a state.

        Args:
            step: its step.
            state: the state.
            validation: the evaluation of its weights, if any.
            seconds: how long the run has trained.
            keep: no step follows that donates the state, so it is not copied.
        """
        whole, meta = with_text(state, self.text), self.meta(validation, seconds)
        self.saver.save(step, whole, meta, self.stored, keep=keep)

    def seconds(self, step: int) -> float:
        """Returns how long a run had trained at a saved step; 0 at step 0."""
        if step == 0:
            return 0.0
        meta = read_manifest(self.saver.directory / str(step)).meta
        return float(meta.get("train_seconds", 0.0))

    def restore_best(self, report: Callable[[str], None]) -> tuple[int, EqIDs]:
        """Returns the step that is best on validation, and its weights.

        Args:
            report: receives a message about each damaged step.

        Raises:
            UserError: all steps are damaged.
        """
        return restore_sound(
            self.saver.directory, best_step, self.like.params, self.stored.params,
            report, "params",
        )  # fmt: skip

    def score(self, step: int) -> float | None:
        """Returns a step's NDCG@10 on validation, if it was evaluated."""
        path = self.saver.directory / str(step)
        score: float | None = read_manifest(path).meta["score"]
        return score
