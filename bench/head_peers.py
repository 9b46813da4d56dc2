"""The full softmax's steps, as contenders of `python -m bench head`."""

from collections.abc import Callable

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from bench.contender import Contender, compiled
from bench.full_softmax import FullSoftmax, chunked_loss, whole_loss
from bench.head_ours import LEARNING_RATE, STEP, UPDATE
from bench.train_torch import torch_with_threads

CHUNKED, WHOLE, TORCH = "full softmax, chunked", "full softmax", "torch cross_entropy"

Loss = Callable[[FullSoftmax, Array, Array], Array]


class JaxPeers:
    """Full softmaxes in jax that share one table."""

    def __init__(
        self,
        vectors: Float[np.ndarray, "item item_width"],
        chunk: int,
        hidden: Float[Array, "target item_width"],
        item: Int[Array, " target"],
    ):
        self.head = FullSoftmax(vectors, chunk)
        self.hidden, self.item = hidden, item

    def chunked(self) -> Contender:
        """Holds the logits of one chunk at a time."""
        return self._step(CHUNKED, chunked_loss)

    def whole(self) -> Contender:
        """Holds all logits."""
        return self._step(WHOLE, whole_loss)

    def update(self) -> Contender:
        """The chunked softmax, then AdamW on the whole table, in place."""
        optimizer = optax.adamw(LEARNING_RATE)
        state = optimizer.init(self.head)

        def step(
            head: FullSoftmax, state: optax.OptState, hidden: Array, item: Array
        ) -> tuple[FullSoftmax, optax.OptState, Array]:
            value = jax.value_and_grad(chunked_loss, argnums=(0, 1))
            _, (grads, to_hidden) = value(head, hidden, item)
            changes, state = optimizer.update(grads, state, head)
            return optax.apply_updates(head, changes), state, to_hidden

        args = self.head, state, self.hidden, self.item
        program = compiled(step, *args, donate=(0, 1))

        def run() -> None:
            nonlocal state
            self.head, state, to_hidden = program.call(
                self.head, state, self.hidden, self.item
            )
            jax.block_until_ready((self.head, state, to_hidden))

        return Contender(CHUNKED, UPDATE, run, program)

    def _step(self, name: str, loss: Loss) -> Contender:
        value = jax.value_and_grad(loss, argnums=(0, 1))
        program = compiled(value, self.head, self.hidden, self.item)
        return Contender(
            name,
            STEP,
            lambda: jax.block_until_ready(
                program.call(self.head, self.hidden, self.item)
            ),
            program,
        )


def torch_peer(
    vectors: Float[np.ndarray, "item item_width"],
    hidden: Float[Array, "target item_width"],
    item: Int[Array, " target"],
) -> Contender:
    """torch's cross entropy over all logits, on as many threads as there are cores."""
    torch = torch_with_threads()
    table = torch.from_numpy(vectors).requires_grad_()
    bias = torch.zeros(len(vectors)).requires_grad_()
    query = torch.from_numpy(np.array(hidden)).requires_grad_()
    target = torch.from_numpy(np.array(item, np.int64))

    def run() -> None:
        table.grad = bias.grad = query.grad = None
        logits = torch.addmm(bias, query, table.T)
        torch.nn.functional.cross_entropy(logits, target, reduction="sum").backward()

    return Contender(TORCH, STEP, run, device="cpu")
