"""Early stopping: how many evaluations a run continues without a better one."""

from pathlib import Path

from eqids.checkpoints import best_step, latest_step, read_manifest
from eqids.fit.evaluation import Evaluation


class Patience:
    """Counts evaluations without a better NDCG@10."""

    def __init__(self, limit: int, folder: Path, eval_every: int):
        """Starts from the best evaluation in the folder of a resumed run.

        Args:
            limit: evaluations after which the run stops, or 0 for never.
            folder: the run's folder.
            eval_every: steps between evaluations.
        """
        self._limit, self._waited, self._best = limit, 0, -1.0
        best, newest = best_step(folder), latest_step(folder)
        if best is not None and newest is not None:
            score = read_manifest(folder / str(best)).meta["score"]
            self._best = -1.0 if score is None else score
            self._waited = (newest - best) // eval_every

    @property
    def spent(self) -> bool:
        """Whether the limit is reached."""
        return 0 < self._limit <= self._waited

    def better(self, validation: Evaluation) -> bool:
        """Counts an evaluation, and returns whether it is the best so far."""
        score = validation["filtered"]["ndcg@10"]
        better = score > self._best
        self._waited = 0 if better else self._waited + 1
        self._best = max(self._best, score)
        return better
