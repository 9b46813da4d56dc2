"""The peer of the train step: transformers' Llama in torch, with a full softmax."""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eqids.config import LlamaConfig, ModelConfig, Recipe, Strategy
from eqids.data.batches.host_batch import HostBatch
from eqids.io.cores import num_cores

_MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""By our name, transformers' names of a block's matrices."""


def has_torch() -> bool:
    """Returns whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def has_transformers() -> bool:
    """Returns whether torch and transformers are installed."""
    return has_torch() and importlib.util.find_spec("transformers") is not None


def torch_with_threads() -> Any:
    """Returns torch, set to as many threads as this process may use cores."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(num_cores())
    return torch


class TorchBatch(NamedTuple):
    """Items, or 0; gaps; and targets, or -1: int64 tensors [batch, seq]."""

    items: Any
    gap: Any
    target: Any


class TorchRecommender:
    """A recommender: items, adapter, Llama, adapter, logits of all items.

    If Llama computes in bfloat16, its frozen weights are stored in it and the rest runs
    under autocast, as torch's users do it. Trained parameters are float32.
    """

    def __init__(
        self,
        sizes: ModelConfig,
        num_items: int,
        strategy: Strategy,
        dtype: str,
        device: str = "cpu",
    ):
        """Starts from random weights.

        Args:
            sizes: sizes of the model; the clusters are ignored.
            num_items: number of items in the catalog.
            strategy: what trains.
            dtype: compute dtype of Llama.
            device: torch's name of the device.
        """
        torch = self._torch = torch_with_threads()
        self._device = device
        with torch.device(device):
            self._make(sizes, num_items, strategy, dtype)

    def _make(
        self, sizes: ModelConfig, num_items: int, strategy: Strategy, dtype: str
    ) -> None:
        torch = self._torch
        nn = torch.nn
        self.llama = _llama(sizes.llama)
        width, item_width = sizes.llama.width, sizes.item_width
        self.items = nn.Embedding(num_items, item_width)
        self.bias = nn.Parameter(torch.zeros(num_items))
        self.gaps = nn.Embedding(sizes.num_gaps, width)
        self.enter, self.leave = nn.Linear(item_width, width), nn.Linear(
            width, item_width
        )  # fmt: skip
        if sizes.adapter == "identity":
            self.enter, self.leave = nn.Identity(), nn.Identity()
        elif sizes.adapter == "mlp":
            hidden = 4 * item_width
            self.enter, self.leave = (
                nn.Sequential(
                    nn.Linear(a, hidden), nn.GELU(approximate="tanh"),
                    nn.Linear(hidden, b),
                )
                for a, b in ((item_width, width), (width, item_width))
            )  # fmt: skip
        own = [self.items, self.gaps, self.enter, self.leave]
        self.parameters = [self.bias, *(p for m in own for p in m.parameters())]
        self._dtype = getattr(torch, dtype)
        if strategy == "all":
            # No tokens are read, so their embedding has no gradient and stays as it is.
            self.parameters += self.llama.parameters()
        else:
            self.llama.requires_grad_(False).to(self._dtype)
        if strategy == "lora":
            self._add_lora(sizes)

    def loss(self, batch: TorchBatch) -> Any:
        """Returns the mean negative log-likelihood of a batch's targets.

        Histories begin at the left, one in a row. So no position attends to padding,
        no mask but the causal one is needed, and attention can be fused.

        Args:
            batch: see `tensors`.
        """
        torch, half = self._torch, self._dtype == self._torch.bfloat16
        with torch.autocast(self._device, torch.bfloat16, half):
            entered = self.enter(self.items(batch.items)) + self.gaps(batch.gap)
            entered = entered.to(self._dtype)
            hidden = self.llama(inputs_embeds=entered, use_cache=False)[0]
            has_target = batch.target >= 0
            query = self.leave(hidden[has_target]).float()
        logits = torch.addmm(self.bias, query, self.items.weight.T)
        return torch.nn.functional.cross_entropy(logits, batch.target[has_target])

    def _add_lora(self, sizes: ModelConfig) -> None:
        torch, lora = self._torch, sizes.lora
        assert lora is not None, "LoRA without its rank"
        for layer in self.llama.layers:
            for name in lora.targets:
                linear = layer.get_submodule(_MODULES[name])
                a = torch.nn.Parameter(torch.randn(lora.rank, linear.in_features))
                b = torch.nn.Parameter(torch.zeros(linear.out_features, lora.rank))
                linear.register_forward_hook(_change(a, b, lora.alpha / lora.rank))
                self.parameters += [a, b]


class TorchStep:
    """A train step: loss, gradients, clipping, and AdamW on trained parameters."""

    def __init__(
        self,
        model: TorchRecommender,
        recipe: Recipe,
        grad_clip: float,
        compiler: str | None = None,
    ):
        """Starts at step 0.

        Args:
            model: what trains.
            recipe: learning rate and weight decay.
            grad_clip: largest norm of the gradient.
            compiler: a backend of `torch.compile` for the loss; by default none.
        """
        self._torch, self._model = torch_with_threads(), model
        self._loss = model.loss
        if compiler is not None:
            self._loss = self._torch.compile(model.loss, backend=compiler)
        self._clip = grad_clip
        self._optimizer = self._torch.optim.AdamW(
            model.parameters, recipe.learning_rate, (0.9, 0.98),
            weight_decay=recipe.weight_decay,
        )  # fmt: skip

    def __call__(self, batch: TorchBatch) -> float:
        """Updates the model, and returns its loss from before."""
        self._optimizer.zero_grad()
        loss = self._loss(batch)
        loss.backward()
        self._torch.nn.utils.clip_grad_norm_(self._model.parameters, self._clip)
        self._optimizer.step()
        return loss.item()


def tensors(
    batches: Sequence[HostBatch],
    number: np.ndarray | None = None,
    device: str = "cpu",
) -> list[TorchBatch]:
    """Returns batches as `TorchRecommender` takes them.

    Args:
        batches: one history in a row.
        number: int [slot], the number of the item there; by default the slot itself.
        device: torch's name of the device.
    """
    torch = torch_with_threads()

    def numbered(slot: np.ndarray) -> np.ndarray:
        return slot if number is None else np.where(slot >= 0, number[slot], -1)

    def placed(array: np.ndarray) -> Any:
        return torch.from_numpy(array).long().to(device)

    return [
        TorchBatch(
            placed(np.maximum(numbered(batch.items), 0)),
            placed(batch.gap),
            placed(numbered(batch.target)),
        )
        for batch in batches
    ]


def _llama(config: LlamaConfig) -> Any:
    """Returns transformers' Llama without a head, with fused attention."""
    transformers = importlib.import_module("transformers")
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        rope = dict(vars(config.rope_scaling))
    return transformers.LlamaModel(
        transformers.LlamaConfig(
            hidden_size=config.width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head,
            intermediate_size=config.ffn,
            vocab_size=config.vocab,
            rms_norm_eps=config.norm_eps,
            rope_parameters={**rope, "rope_theta": config.rope_theta},
            attn_implementation="sdpa",
        )
    )


def _change(a: Any, b: Any, scale: float) -> Any:
    """Returns a hook that adds a low-rank change to a matrix's output."""

    def hook(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        (x,) = inputs
        a_, b_ = a.to(x.dtype), b.to(x.dtype)
        return output + scale * (x @ a_.T) @ b_.T

    return hook
