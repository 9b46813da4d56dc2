"""What the parts of `python -m bench gpu` compute, on a CPU."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytest import MonkeyPatch

from bench.gpu import card, head_part, kernels_part, profile_part
from bench.gpu.device_step import job_of, made, predicted, preset_of_case
from bench.gpu.gpu_cases import AttentionCase, CatalogCase, StepCase
from bench.gpu.made_histories import made_batches
from bench.gpu.running_out import ran_out
from sharding.compiled.machines import HARDWARE


def test_the_reference_of_attention_is_numpys() -> None:
    """jax's float32 attention, which kernels are compared with, against brute force."""
    case = AttentionCase(2, 6, 4, 2, 8)
    arrays, mask = kernels_part.inputs(case, 0)
    wide = [x.astype(jnp.float32) for x in arrays]
    q, k, v, _ = (np.asarray(x, np.float64) for x in wide)
    k, v = (np.repeat(x, 2, axis=2) for x in (k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(8)
    scores = np.where(np.asarray(mask)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    wanted = np.einsum("bhqk,bkhd->bqhd", weights, v)
    found = kernels_part.reference(wide, mask)
    assert kernels_part.relative(found[0], wanted) < 1e-6
    ours = kernels_part.with_gradients(arrays, mask, "xla")
    for one, other in zip(ours, found, strict=True):
        assert 0 < kernels_part.relative(one, other) < 0.01


def test_torch_finds_the_items_that_ours_finds() -> None:
    """Also with an empty cluster and a last one that is not full."""
    head = head_part.device_head(CatalogCase(30_000, 8), 0)
    assert int(head.valid.any(axis=1).sum()) < len(head.valid)
    assert int(head.valid.sum()) == 30_000
    query = jax.random.normal(jax.random.key(0), (3, 8))
    assert head_part.torch_top_k(head, query, 10).facts == {"same": 1.0}


def test_weights_made_on_the_device_are_of_the_steps_shapes_and_spread() -> None:
    job = job_of(StepCase("nano", "lora", 2, 16, 30_000), "cpu")
    step = predicted(job)
    model = made(step.run.frozen)
    for one, shape in zip(
        jax.tree.leaves(model), jax.tree.leaves(step.run.frozen), strict=True
    ):
        assert (one.shape, one.dtype) == (shape.shape, shape.dtype)
    assert np.std(model.llama.blocks.w_up) == pytest.approx(0.02, rel=0.02)
    assert np.unique(np.asarray(model.llama.blocks.w_up)).size > 10_000
    assert (model.llama.norm == 1).all() and model.softmax.valid.all()


def test_the_shapes_of_a_case_do_not_depend_on_the_card() -> None:
    case = StepCase("1b", "lora", 32, 64)
    assert preset_of_case(case, "h100-80gb").num_items == 1_000_000
    jobs = [
        dataclasses.replace(job_of(case, platform).step, kernel="xla", dtype="")
        for platform in ("gpu", "gpu")
    ]
    assert jobs[0] == jobs[1]
    assert job_of(case, "gpu").step.kernel == "cudnn"
    assert job_of(case, "cpu").step.dtype == "float32"


@pytest.mark.parametrize("tokens", [0, 3])
def test_made_batches_are_packed_histories(tokens: int) -> None:
    case = StepCase("nano", "heads", 4, 32, 90, tokens)
    sizes = job_of(case, "cpu").model
    batches = made_batches(case, sizes, 3, 0)
    assert [batch.items.shape for batch in batches] == [(4, 32)] * 3
    items = np.concatenate([batch.items for batch in batches])
    segments = np.concatenate([batch.segment for batch in batches])
    assert items.max() < 90 and (segments > 0).mean() > 0.9
    assert segments.max() > 1
    texts = np.concatenate([batch.tokens for batch in batches])[items < 0]
    assert (texts > 0).any() == bool(tokens)
    again = made_batches(case, sizes, 3, 0)
    assert all((a.items == b.items).all() for a, b in zip(batches, again, strict=True))


def test_kernels_are_counted_by_kind() -> None:
    names = {
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop": "attention",
        "nvjet_hsh_128x256_64x4_1x2": "matrix products",
        "sm90_xmma_gemm_bf16bf16": "matrix products",
        "gemm_fusion_dot_12": "matrix products",
        "MemcpyD2D": "copies",
        "loop_transpose_fusion": "transposes",
        "input_scatter_fusion_3": "gathers and scatters",
        "input_reduce_fusion": "reductions",
        "loop_multiply_fusion": "fusions",
        "ncclDevKernel_AllReduce": "collectives",
        "whatever": profile_part.OTHERS,
    }
    spent, calls = profile_part.by_kind((name, 2.0) for name in names)
    for kind in set(names.values()):
        number = list(names.values()).count(kind)
        assert (spent[kind], calls[kind]) == (2.0 * number, number)


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3", HARDWARE["h100-80gb"].bf16_flops),
        ("NVIDIA A100-SXM4-40GB", HARDWARE["a100-40gb"].bf16_flops),
        ("NVIDIA L4", None),
    ],
)
def test_the_data_sheet_of_a_card(
    monkeypatch: MonkeyPatch, kind: str, flops: float | None
) -> None:
    class Device:
        device_kind = kind

    monkeypatch.setattr(card.jax, "devices", lambda: [Device()])
    assert card.data_sheet_flops() == flops


def test_running_out_of_memory_differs_from_other_errors() -> None:
    assert ran_out(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying …"))
    assert ran_out(MemoryError()) and not ran_out(ValueError("a shape"))
