"""The answers of `python -m sharding`, printed and written."""

from pathlib import Path

from eqids.cli import say, waiting
from eqids.config import (
    ListConfig,
    MachineConfig,
    PlanConfig,
    ProveConfig,
    ShowLayoutConfig,
)
from eqids.io.atomic import write_json
from eqids.planning.estimates import Answer, estimate_answer, list_answer, show_answer
from eqids.planning.plan import plan_answer
from eqids.planning.proofs import prove_all, prove_answer


def give_answer(config: ListConfig | MachineConfig) -> None:
    """Prints the answer to the flags of `python -m sharding`; --json writes it too.

    Raises:
        UserError, LayoutError: there is no such layout, or it does not fit the model,
            the batch or the compiler.
    """
    if isinstance(config, ProveConfig) and config.all:
        prove_all(config.json or Path("layouts.json"), print)
        return
    answer = _answer(config)
    say(answer.text)
    if config.json is not None:
        write_json(config.json, answer.values)
        say(f"written to {config.json}")


def _answer(config: ListConfig | MachineConfig) -> Answer:
    if isinstance(config, ListConfig):
        return list_answer(config)
    if isinstance(config, ShowLayoutConfig):
        return show_answer(config)
    if isinstance(config, PlanConfig):
        with waiting("comparing layouts"):
            return plan_answer(config)
    if isinstance(config, ProveConfig):
        return prove_answer(config)
    return estimate_answer(config)
