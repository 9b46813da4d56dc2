"""From what a user asked for to what a run does: every unset flag gets a value."""

import dataclasses

import jax

from eqids.config import NANO_RECIPE, PRETRAINED_RECIPES, TrainConfig, require


def resolved(config: TrainConfig) -> TrainConfig:
    """Returns the config with the recipe of its size and strategy filled in.

    Raises:
        UserError: a size other than nano without its weights, or more steps to stop
            at than there are.
    """
    scratch = config.llama_path is None
    require(
        not scratch or config.llama_size == "nano" or config.from_scratch,
        f"--llama_size {config.llama_size} needs --llama_path DIR, the folder of its "
        "weights, or --from_scratch to start from random ones",
    )
    require(
        scratch or not config.from_scratch,
        "--llama_path and --from_scratch contradict each other, wanted one of them",
    )
    train = "heads" if config.freeze_llama else config.train
    train = train or ("all" if scratch else "heads")
    nano = scratch and config.llama_size == "nano"
    recipe = dataclasses.asdict(NANO_RECIPE if nano else PRETRAINED_RECIPES[train])
    unset = {n: v for n, v in recipe.items() if getattr(config, n) is None}
    config = dataclasses.replace(config, train=train, **unset)
    steps = config.num_steps
    assert steps is not None
    require(
        config.stop_at is None or config.stop_at <= steps,
        f"--stop_at is {config.stop_at}, wanted at most --num_steps ({steps})",
    )
    return dataclasses.replace(
        config,
        stop_at=config.stop_at or steps,
        save_every=config.save_every or config.eval_every,
        dtype=_dtype(config.dtype),
    )


def _dtype(name: str) -> str:
    if name == "auto":
        return "bfloat16" if jax.default_backend() == "gpu" else "float32"
    return name
