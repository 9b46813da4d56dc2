"""Training and evaluation: which weights train, the step, the loop, metrics."""

from typing import TYPE_CHECKING

from eqids.io.lazy_names import lazy_names

if TYPE_CHECKING:
    from eqids.fit.evaluation import evaluate as evaluate, make_ranker as make_ranker
    from eqids.fit.optimizer import make_optimizer as make_optimizer
    from eqids.fit.step import (
        State as State,
        make_step as make_step,
        split as split,
        start as start,
    )
    from eqids.fit.step_config import StepConfig as StepConfig
    from eqids.fit.strategy import trainable as trainable
else:
    _FILES = {
        "evaluate": "evaluation",
        "make_ranker": "evaluation",
        "make_optimizer": "optimizer",
        "State": "step",
        "make_step": "step",
        "split": "step",
        "start": "step",
        "StepConfig": "step_config",
        "trainable": "strategy",
    }
    # A step needs nothing that opens datasets.
    __getattr__ = lazy_names(__name__, _FILES)
