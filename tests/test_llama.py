"""Llama against transformers, in float32."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import assert_close
from hypothesis import given, settings, strategies as st

from convert import load_llama, read_config
from eqids.config import (
    LLAMA_PRESETS,
    LlamaConfig,
    ModelConfig,
    RopeScaling,
    UserError,
)
from eqids.model import EqIDs, Llama
from eqids.model.attention import AttentionContext, attention, sees
from eqids.model.llama import LlamaBlock
from eqids.model.product import product
from eqids.model.remat import Kept, checkpointed
from eqids.model.rope import rope_tables
from sharding import words

ROPES = (
    {"rope_type": "default", "rope_theta": 10_000.0},
    {"rope_type": "default", "rope_theta": 500_000.0},
    {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
)


@st.composite
def hf_configs(draw: st.DrawFn) -> transformers.LlamaConfig:
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    return transformers.LlamaConfig(
        hidden_size=heads * draw(st.integers(1, 6)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=draw(st.sampled_from([2, 8, 14])),
        intermediate_size=draw(st.integers(3, 50)),
        vocab_size=draw(st.integers(5, 70)),
        tie_word_embeddings=draw(st.booleans()),
        rms_norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        rope_parameters=draw(st.sampled_from(ROPES)),
        # Large weights, so that errors would show.
        initializer_range=draw(st.sampled_from([0.02, 0.3])),
    )


def reference(config: transformers.LlamaConfig, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():  # norms start at 1, which would hide a wrong order of them
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    return model


@settings(max_examples=8)
@given(hf_configs(), st.integers(0, 2**31 - 1))
def test_logits_equal_transformers_packed_and_offset(
    config: transformers.LlamaConfig, seed: int
) -> None:
    model = reference(config, seed)
    rng = np.random.default_rng(seed)
    lengths, starts = (9, 1, 14), (0, 5, 30)
    parts = [rng.integers(0, config.vocab_size, n) for n in lengths]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="20KB")
        llama = load_llama(Path(folder))
    with torch.no_grad():
        theirs = [
            model(
                torch.tensor(part[None]),
                position_ids=torch.arange(start, start + len(part))[None],
            ).logits[0]
            for part, start in zip(parts, starts, strict=True)
        ]
    packed = np.concatenate(parts)[None]
    segment = np.repeat([1, 2, 3], lengths)[None]
    counted = [s + np.arange(n) for s, n in zip(starts, lengths, strict=True)]
    position = np.concatenate(counted)[None]
    hidden = jax.jit(Llama.hidden)(
        llama, llama.embed(jnp.asarray(packed)), segment, position
    )
    head = llama.embedding if llama.lm_head is None else llama.lm_head
    assert_close(hidden[0] @ head.T, torch.cat(theirs).numpy(), "logits")
    ours = jax.jit(Llama.logits)(llama, parts[2][None])
    with torch.no_grad():
        theirs_whole = model(torch.tensor(parts[2][None])).logits
    assert ours.dtype == jnp.float32
    assert_close(ours, theirs_whole.numpy(), "logits")


@pytest.mark.parametrize(
    ("size", "millions", "blocks"),
    [
        ("smollm2-135m", 134.515008, None),
        ("1b", 1235.8144, 973.1),
        ("3b", 3212.749824, 2818.7),
        ("8b", 8030.261248, 6979.6),
    ],
)
def test_presets_have_their_published_number_of_parameters(
    size: str, millions: float, blocks: float | None
) -> None:
    config = LLAMA_PRESETS[size]
    llama = jax.eval_shape(lambda: Llama(config, key=jax.random.key(0)))
    words(llama)
    counted = sum(leaf.size for leaf in jax.tree.leaves(llama))
    assert counted == round(millions * 1e6)
    if blocks is not None:
        counted = sum(leaf.size for leaf in jax.tree.leaves(llama.blocks))
        assert abs(counted / 1e6 - blocks) < 0.5


def published(**fields: object) -> dict[str, object]:
    shared = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    return {**shared, "hidden_act": "silu", "rms_norm_eps": 1e-5, **fields}


LLAMA32_ROPE = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
PUBLISHED = {
    "smollm2-135m": published(
        hidden_size=576, intermediate_size=1536, num_attention_heads=9,
        num_hidden_layers=30, num_key_value_heads=3, rope_scaling=None,
        rope_theta=100000, tie_word_embeddings=True, vocab_size=49152,
    ),
    "1b": published(
        head_dim=64, hidden_size=2048, intermediate_size=8192, num_attention_heads=32,
        num_hidden_layers=16, num_key_value_heads=8, rope_scaling=LLAMA32_ROPE,
        rope_theta=500000.0, tie_word_embeddings=True, vocab_size=128256,
    ),
    "3b": published(
        head_dim=128, hidden_size=3072, intermediate_size=8192, num_attention_heads=24,
        num_hidden_layers=28, num_key_value_heads=8, rope_scaling=LLAMA32_ROPE,
        rope_theta=500000.0, tie_word_embeddings=True, vocab_size=128256,
    ),
    "8b": published(
        hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
        num_hidden_layers=32, num_key_value_heads=8, rope_scaling=None,
        rope_theta=500000.0, tie_word_embeddings=False, vocab_size=128256,
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_configs_are_the_presets(size: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[size]))
    assert read_config(tmp_path) == LLAMA_PRESETS[size]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"model_type": "mistral"}, "mistral"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "wide"}, "wide"),
        ({"num_key_value_heads": 5}, "num_kv_heads"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
    ],
)
def test_a_config_that_is_not_supported_names_the_field(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED["1b"], **change}))
    with pytest.raises(UserError, match=said) as error:
        read_config(tmp_path)
    assert "config.json" in str(error.value)


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=11,
        num_key_value_heads=1, head_dim=8, intermediate_size=12,
    )  # fmt: skip
    reference(config, 0).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "damage", ["missing", "surplus", "shape", "truncated", "dtype"]
)
def test_a_broken_folder_names_what_is_wrong(
    damage: str, hf_folder: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(hf_folder / "model.safetensors")
    if damage == "missing":
        del tensors[name]
    elif damage == "surplus":
        tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((12, 16), np.float32)
        name = "num_hidden_layers 2"
    elif damage == "shape":
        tensors[name] = tensors[name].T.copy()
    elif damage == "dtype":
        tensors[name] = tensors[name].astype(np.int32)
    (tmp_path / "config.json").write_bytes((hf_folder / "config.json").read_bytes())
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    if damage == "truncated":
        name = "model.safetensors"
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=name):
        load_llama(tmp_path)


def test_rope_scaling_and_sizes_refuse_nonsense() -> None:
    with pytest.raises(UserError, match="rope factor is 0.5"):
        RopeScaling("llama3", 0.5)
    with pytest.raises(UserError, match="width"):
        LlamaConfig(0, 1, 1, 1, 2, 1, 1)
    with pytest.raises(UserError, match="head"):
        LlamaConfig(8, 1, 1, 1, 3, 1, 1)


@pytest.mark.parametrize("kept", get_args(Kept))
def test_what_is_kept_for_the_backward_pass_changes_no_gradient(kept: Kept) -> None:
    config = LlamaConfig(16, 1, 4, 2, 4, 24, 11)
    stacked = LlamaBlock(config, key=jax.random.key(0))
    block = jax.tree.map(lambda x: x[0], stacked)
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))
    mask = sees(jnp.array([[1, 1, 1, 2, 2], [1, 1, 2, 2, 0]]))
    position = jnp.array([[0, 1, 2, 0, 1], [0, 1, 0, 1, 0]])
    context = AttentionContext(mask, rope_tables(position, config), attention)

    def body(block: LlamaBlock, x: jax.Array) -> jax.Array:
        return block(x, context)

    def gradients(body: Callable[..., jax.Array]) -> list[jax.Array]:
        grad = jax.grad(lambda *both: jnp.sum(body(*both) ** 3), argnums=(0, 1))
        return jax.tree.leaves(grad(block, x))

    found, expected = gradients(checkpointed(body, kept)), gradients(body)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, "gradient")


@pytest.mark.parametrize("how", ["remat", "unroll"])
def test_how_blocks_are_compiled_changes_no_gradient(how: str) -> None:
    config = LlamaConfig(16, 2, 4, 2, 4, 24, 11)
    llama = Llama(config, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))
    segment, position = jnp.ones((2, 5), int), jnp.arange(5)[None].repeat(2, 0)

    def gradients(**how: bool) -> list[jax.Array]:
        def loss(llama: Llama) -> jax.Array:
            return jnp.sum(llama.hidden(x, segment, position, **how) ** 3)

        assert ("unroll=2" in str(jax.make_jaxpr(loss)(llama))) == ("unroll" in how)
        return jax.tree.leaves(jax.grad(loss)(llama))

    for ours, theirs in zip(gradients(**{how: True}), gradients(), strict=True):
        assert_close(ours, theirs, "gradient")


def test_products_with_narrower_weights_round_what_they_multiply_only(
    getkey: Callable[[], jax.Array],
) -> None:
    x = jax.random.normal(getkey(), (2, 5, 16))
    weight = jax.random.normal(getkey(), (3, 4, 16)).astype(jnp.bfloat16)
    dy = jax.random.normal(getkey(), (2, 5, 3, 4))
    y, pull = jax.vjp(lambda *xs: product("bsw,hdw->bshd", *xs), x, weight)
    dx, dw = pull(dy)
    assert (y.dtype, dx.dtype, dw.dtype) == (x.dtype, x.dtype, weight.dtype)

    def rounded(a: jax.Array) -> np.ndarray:
        return np.asarray(a.astype(jnp.bfloat16), np.float64)

    a, w, da = rounded(x), rounded(weight), rounded(dy)
    assert_close(y, np.einsum("bsw,hdw->bshd", a, w), "float32")
    assert_close(dx, np.einsum("bshd,hdw->bsw", da, w), "float32")
    assert_close(dw.astype(jnp.float32), np.einsum("bshd,bsw->hdw", da, a), "bfloat16")


def test_products_with_wider_weights_are_in_the_precision_of_activations() -> None:
    x, weight = jnp.ones((2, 3), jnp.bfloat16), jnp.full((4, 3), 1 + 2**-12)
    y = product("bw,fw->bf", x, weight)
    assert y.dtype == x.dtype
    assert jnp.all(y == 3)


def test_an_eqids_has_no_head_for_words() -> None:
    llama = Llama(LlamaConfig(16, 2, 2, 1, 8, 24, 7, tied=False), key=jax.random.key(0))
    assert llama.lm_head is not None
    sizes = ModelConfig(llama.config, 2, 2, item_width=4)
    model = EqIDs(sizes, llama=llama, key=jax.random.key(1))
    assert model.llama.lm_head is None
    with pytest.raises(ValueError, match="lm_head is None"):
        model.llama.logits(jnp.zeros((1, 2), jnp.int32))
