"""What determines a train step's program, besides the shapes of its arguments."""

from dataclasses import dataclass

from eqids.config import ItemOptimizer, Recipe, Strategy
from eqids.model.attention import Kernel


@dataclass(frozen=True)
class StepConfig:
    """The configuration of `make_step` and `make_optimizer`."""

    strategy: Strategy
    """Which weights train."""
    recipe: Recipe
    """The size of a batch; the optimizer's steps, schedule, warmup, peak rate and
    weight decay."""
    dtype: str = "float32"
    """Dtype of Llama's frozen weights, and of products with them."""
    activations: str = "float32"
    """Dtype of activations between products, see `activations_of`."""
    remat: bool = False
    """Whether Llama's blocks are recomputed in the backward pass."""
    unroll: bool = False
    """Whether Llama's blocks are compiled one by one instead of as a loop."""
    kernel: Kernel = "xla"
    """The kernel of the attention."""
    accumulate: int = 1
    """Number of parts of a batch that are computed one after the other."""
    item_optimizer: ItemOptimizer = "dense"
    """Optimizer of item tables. All but `dense` need their gradients as blocks, and the
    extra argument `active`, see `eqids.fit.sparse`."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    llama_learning_rate: float | None = None
    """Peak learning rate of Llama and its low-rank changes; by default the recipe's."""


def activations_of(dtype: str, on_cpu: bool) -> str:
    """Returns the dtype of activations: float32 on a CPU, else that of the weights.

    XLA's CPU programs convert bfloat16 to float32 wherever they move or add it, and
    convert what a scan keeps for its backward pass repeatedly (docs/performance.md).
    """
    return "float32" if on_cpu else dtype
