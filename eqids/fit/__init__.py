"""Training and evaluation: which weights train, the step, the loop, metrics."""

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
