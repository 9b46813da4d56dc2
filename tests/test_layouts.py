"""Layout presets, their memory by closed form, and `python -m sharding`."""

import dataclasses
import json

import jax
import pytest
from _pytest.mark import ParameterSet
from conftest import ROOT
from jax.sharding import NamedSharding

from eqids.planning.abstract import Job, abstract_run
from eqids.planning.estimates import preset_json
from eqids.planning.layout_presets import LAYOUT_PRESETS, LayoutPreset
from eqids.planning.memory import estimate
from eqids.planning.memory_check import check_fits, needed
from eqids.planning.preset_jobs import abstract_placement, preset_job
from eqids.planning.proofs import proved
from sharding import LayoutError, Placement
from sharding.compiled.machines import HARDWARE
from sharding.compiled.targets import gpu_devices

PROOFS = json.loads((ROOT / "docs" / "layouts.json").read_text())["layouts"]
GIB = 2**30


QUICK = ("nano", "1b-all-h100-80gb-8", "8b-lora-a100-40gb-8")
"""Presets, or their sizes, whose programs a quick run of the tests traces."""


def shapes() -> list[ParameterSet]:
    """One row for each program: rows that differ in hardware only are one here."""
    kinds = {
        dataclasses.replace(row, hardware="h100-80gb"): row
        for row in LAYOUT_PRESETS.values()
    }
    names = [row.name for row in kinds.values()]
    return [
        pytest.param(name, marks=() if name.startswith(QUICK) else pytest.mark.long)
        for name in names
    ]


@pytest.mark.parametrize("name", shapes())
def test_every_row_is_traced_and_lowered_without_devices(name: str) -> None:
    """Explicit sharding types are checked by tracing; cuDNN's kernel is not here."""
    row = LAYOUT_PRESETS[name]
    job = with_step(preset_job(row), kernel="xla")
    put = abstract_placement(row)
    with put.active():
        run = abstract_run(job, put)
        traced = run.step.trace(*run.args)
        traced.lower(lowering_platforms=("cuda",))
    for leaf in jax.tree.leaves((run.state.params, run.frozen, run.batch)):
        assert isinstance(leaf.sharding, NamedSharding)
    table = run.state.params.softmax.table
    clusters = table.sharding.shard_shape(table.shape)[0]
    assert clusters * row.num_devices == table.shape[0]
    moments = [
        x for x in jax.tree.leaves(run.state.optimizer) if x.shape == table.shape
    ]
    assert moments and all(x.sharding == table.sharding for x in moments)
    # A step returns the state as it took it, or the next one would compile again.
    after = jax.tree.leaves(traced.out_info[0])
    for was, now in zip(jax.tree.leaves(run.state), after, strict=True):
        assert (now.shape, now.dtype) == (was.shape, was.dtype)
        assert was.sharding is None or now.sharding.spec == was.sharding.spec


@pytest.mark.parametrize("name", LAYOUT_PRESETS)
def test_closed_form_is_the_compilers(name: str) -> None:
    """docs/layouts.json is what `python -m sharding prove --all` wrote."""
    row, proof = LAYOUT_PRESETS[name], PROOFS[name]
    put, job = abstract_placement(row), preset_job(row)
    with put.active():
        memory = estimate(job, abstract_run(job, put))
    assert memory.arguments == proof["argument_bytes"]
    mostly_arguments = 2 * proof["argument_bytes"] > proof["peak_bytes"]
    within = 0.10 if mostly_arguments else 0.25
    assert abs(memory.peak / proof["peak_bytes"] - 1) <= within
    assert proof["peak_bytes"] <= HARDWARE[row.hardware].capacity_bytes
    assert proof["fits"]


def test_every_preset_has_a_proof_of_its_own() -> None:
    assert list(PROOFS) == list(LAYOUT_PRESETS)
    for name, row in LAYOUT_PRESETS.items():
        recorded = json.loads(json.dumps(preset_json(row)))
        assert recorded.items() <= PROOFS[name].items()


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("1b-heads-a100-80gb-1", 18),
        ("1b-all-a100-80gb-1", 35),
        ("3b-heads-a100-80gb-1", 38),
        ("8b-heads-h100-80gb-1", 65),
    ],
)
def test_peaks_are_below_what_users_were_promised(name: str, most: float) -> None:
    assert PROOFS[name]["peak_bytes"] < most * GIB


def with_step(job: Job, **changes: object) -> Job:
    """The job with another train step."""
    step = dataclasses.replace(job.step, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(job, step=step)


LARGE = [name for name in LAYOUT_PRESETS if name[:2] in ("1b", "3b", "8b")]
"""Rows whose steps are mostly matrix products of Llama's weights."""


def low_rank(row: LayoutPreset) -> int:
    """Numbers in the low-rank changes of all blocks."""
    sizes = preset_job(row).model
    llama, lora = sizes.llama, sizes.lora
    if lora is None:
        return 0
    assert len(lora.targets) == 7
    heads, kv_heads = llama.num_heads * llama.head, llama.num_kv_heads * llama.head
    ends = 2 * (llama.width + heads) + 2 * (llama.width + kv_heads)
    return llama.num_layers * lora.rank * (ends + 3 * (llama.width + llama.ffn))


@pytest.mark.parametrize("name", LARGE)
def test_products_are_those_of_hand_arithmetic(name: str) -> None:
    """A backward pass that is silently replicated shows up here.

    A weight that trains costs a token 2 FLOPs forwards, 2 backwards to what entered and
    2 to itself; a frozen one, which gradients only pass through, not the last.
    """
    row = LAYOUT_PRESETS[name]
    llama = preset_job(row).model.llama
    heads = llama.num_heads + llama.num_kv_heads
    mlp = 3 * llama.ffn * llama.width
    weights = llama.num_layers * (2 * heads * llama.head * llama.width + mlp)
    recomputed = llama.num_layers * llama.ffn * llama.width  # of w_down: never needed
    again = 2 * (weights - recomputed) if row.remat else 0
    per = 6 if row.train == "all" else 4
    tokens = row.batch_size * row.seq_len / row.num_devices
    flops = (per * weights + again + 6 * low_rank(row)) * tokens
    # Adapters and the softmax come on top.
    assert flops < PROOFS[name]["flops"] < 1.03 * flops


@pytest.mark.parametrize(
    ("lora", "heads"),
    [
        ("1b-lora-a100-40gb-1", "1b-heads-a100-40gb-1"),
        ("1b-lora-h100-80gb-8", "1b-heads-h100-80gb-8"),
        ("3b-lora-a100-40gb-1", "3b-heads-a100-80gb-1"),
        ("8b-lora-h100-80gb-8", "8b-heads-h100-80gb-8"),
    ],
)
def test_low_rank_changes_cost_their_own_products_only(lora: str, heads: str) -> None:
    """No gradient of a frozen matrix, no B A multiplied out."""
    row, other = LAYOUT_PRESETS[lora], LAYOUT_PRESETS[heads]
    assert (row.batch_size, row.seq_len, row.num_devices, row.remat) == (
        other.batch_size, other.seq_len, other.num_devices, other.remat
    )  # fmt: skip
    more = PROOFS[lora]["flops"] - PROOFS[heads]["flops"]
    tokens = row.batch_size * row.seq_len / row.num_devices
    assert more == pytest.approx(6 * low_rank(row) * tokens, rel=0.02)


@pytest.mark.parametrize("name", ["8b-all-h100-80gb-8", "1b-all-a100-80gb-8"])
def test_gathers_are_the_weights_and_nothing_else(name: str) -> None:
    row = LAYOUT_PRESETS[name]
    llama = preset_job(row).model.llama
    heads = llama.num_heads + llama.num_kv_heads
    norms = 2 * llama.width
    layer = (2 * heads * llama.head + 3 * llama.ffn) * llama.width
    tokens = llama.vocab * llama.width
    weights = 2 * (llama.num_layers * (2 * layer) + tokens)
    gathered = PROOFS[name]["collective_bytes"]["all-gather"]
    # Norms, adapters, queries and targets come on top, and are small.
    assert weights <= gathered <= 1.01 * weights + 2 * llama.num_layers * 4 * norms


def test_hardware_without_a_compiler_is_one_sentence() -> None:
    with pytest.raises(LayoutError, match="'cpu' cannot be compiled for"):
        gpu_devices(HARDWARE["cpu"], 1, 1)


@pytest.mark.long
def test_a_run_that_does_not_fit_names_the_nearest_setting_that_does() -> None:
    row = LAYOUT_PRESETS["1b-all-a100-40gb-1"]
    job = with_step(preset_job(row), remat=False)
    put = abstract_placement(row)
    # A batch of which recomputing saves much.
    recipe = dataclasses.replace(job.step.recipe, batch_size=128)
    job = with_step(job, recipe=recipe)
    peak = needed(job, put).peak
    check_fits(job, put, int(0.91 * peak))
    with pytest.raises(ValueError, match=r"does not fit; --remat would"):
        check_fits(job, put, _peak(job, put, batch_size=128))
    # A large batch whose rows are long leaves more than a sum of gradients takes.
    long = dataclasses.replace(job.step.recipe, batch_size=512, seq_len=512)
    large = with_step(job, recipe=long)
    with pytest.raises(ValueError, match=r"does not fit; --remat --accumulate 4 would"):
        check_fits(large, put, _peak(large, put, batch_size=512, accumulate=4))
    with pytest.raises(ValueError, match=r"--remat --batch_size 2 would"):
        check_fits(job, put, _peak(job, put, batch_size=2))
    with pytest.raises(ValueError, match="no batch and no layout"):
        check_fits(job, put, GIB)


def _peak(job: Job, put: Placement, batch_size: int, accumulate: int = 1) -> int:
    recipe = dataclasses.replace(job.step.recipe, batch_size=batch_size)
    job = with_step(job, recipe=recipe, remat=True, accumulate=accumulate)
    return needed(job, put).peak


@pytest.mark.gpu_compile
@pytest.mark.parametrize(
    "name",
    [
        "nano-all-a100-40gb-1",
        "smollm2-135m-all-h100-80gb-8",
        "1b-heads-a100-40gb-8-10m",
        "3b-lora-a100-40gb-1",
        "8b-all-h100-80gb-8",
    ],
)
def test_rows_compile_for_their_hardware(name: str) -> None:
    row = LAYOUT_PRESETS[name]
    try:
        gpu_devices(HARDWARE[row.hardware], 1, 1)
    except LayoutError as error:
        pytest.skip(str(error))
    proof = proved(row)
    assert proof.fits
    assert proof.argument_bytes == PROOFS[name]["argument_bytes"]
    assert proof.peak_bytes == pytest.approx(PROOFS[name]["peak_bytes"], rel=0.05)
    # No table of items is gathered, nor a shard of one.
    with (put := abstract_placement(row)).active():
        table = abstract_run(preset_job(row), put).state.params.softmax.table
    for shape in proof.gathers:
        assert shape.sizes[1:] != table.shape[1:], shape
