"""The config of a run's train step, from its flags and its machine."""

import jax

from eqids.config import LlamaConfig, RunConfig, require
from eqids.fit.step_config import StepConfig, activations_of
from eqids.model.attention import Kernel, cudnn_attends


def step_config(config: RunConfig, llama: LlamaConfig) -> StepConfig:
    """Returns the config of a run's train step.

    Args:
        config: the run's config; with `--hardware`, the answer is for that hardware.
        llama: sizes of its Llama.

    Raises:
        UserError: --attention cudnn, and cuDNN cannot compute this attention.
    """
    flags, recipe, dtype = config.flags, config.recipe, config.dtype
    backend = jax.default_backend()
    gpu, on_cpu = backend == "gpu", backend == "cpu"
    if flags.hardware not in (None, "cpu"):
        gpu, on_cpu = True, False
        dtype = "bfloat16" if flags.dtype == "auto" else dtype
    can = gpu and cudnn_attends(llama, recipe.seq_len, dtype)
    require(
        flags.attention != "cudnn" or can,
        "--attention cudnn needs a GPU, bfloat16, an even --seq_len and heads of at "
        "most 128 that 8 divides; wanted auto or xla",
    )
    kernel: Kernel = "cudnn" if can else "xla"
    return StepConfig(
        strategy=config.strategy,
        recipe=recipe,
        dtype=dtype,
        activations=activations_of(dtype, on_cpu),
        remat=flags.remat,
        unroll=flags.unroll_layers,
        kernel=kernel if flags.attention == "auto" else flags.attention,
        accumulate=flags.accumulate,
        item_optimizer=flags.item_optimizer,
        grad_clip=flags.grad_clip,
        llama_learning_rate=flags.llama_learning_rate,
    )
