"""The rule that chooses a recipe from the data: its bounds, its course, its steps."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_dataset
from hypothesis import given, strategies as st
from pytest import CaptureFixture
from runs import refused, small

from convert import read_config_file
from convert.hf_config import hf_config
from eqids import train
from eqids.checkpoints import read_manifest, steps
from eqids.config import (
    LLAMA_PRESETS,
    ML_100K,
    NANO_RECIPE,
    SCRATCH_SIZES,
    DataFacts,
    RopeScaling,
    TrainConfig,
    UserError,
    from_json,
    recipe_for,
    recipe_text,
    size_for,
    to_json,
)
from eqids.config.recipe_rule import (
    DROPOUT,
    EPOCHS,
    EVAL_USERS,
    EVALUATIONS,
    MOST_DROPOUT,
    SEQ_LENS,
    STEPS,
)
from eqids.data import Dataset
from eqids.data.batches.packing import PackingPlan
from eqids.data.batches.tokens import ItemTokens
from eqids.data.facts import facts_of
from eqids.runs.recipe import resolved, with_llama_size

NANO = LLAMA_PRESETS["nano"]


@st.composite
def some_facts(draw: st.DrawFn) -> DataFacts:
    """Facts of any data, from one event to billions."""
    users = draw(st.integers(1, 10**8))
    length = draw(st.floats(1.0, 1e4))
    items, evaluated = draw(st.integers(1, 10**8)), draw(st.integers(0, users))
    events = max(2, int(users * length))
    return DataFacts(
        users, items, events, events - 1, length, length, length, evaluated
    )


@given(some_facts(), st.sampled_from(SCRATCH_SIZES))
def test_choices_are_within_their_bounds(facts: DataFacts, size: str) -> None:
    llama = LLAMA_PRESETS[size]
    recipe = recipe_for(facts, llama, "all")
    assert STEPS[0] <= recipe.num_steps <= STEPS[1]
    assert SEQ_LENS[0] <= recipe.seq_len <= SEQ_LENS[1]
    assert recipe.batch_size >= 4 and 800 <= recipe.batch_size * recipe.seq_len <= 3_200
    assert DROPOUT <= recipe.dropout <= MOST_DROPOUT
    assert 0 < recipe.item_width <= llama.width and 0 < recipe.learning_rate < 0.01
    assert recipe.eval_every <= max(100, recipe.num_steps // EVALUATIONS)
    # A sample is evaluated only where it saves something.
    assert (recipe.eval_users == EVAL_USERS) == (facts.num_evaluated > EVAL_USERS)
    assert recipe.early_stop > 0


@given(some_facts(), st.floats(1.0, 1e3))
def test_choices_are_monotone(facts: DataFacts, times: float) -> None:
    """More events, with all else equal: no smaller a model, no more dropout."""
    events = int(facts.num_events * times)
    more = dataclasses.replace(facts, num_events=events, num_positions=events - 1)
    order = [*SCRATCH_SIZES].index
    assert order(size_for(more)) >= order(size_for(facts))
    few, many = (recipe_for(one, NANO, "all") for one in (facts, more))
    assert many.dropout <= few.dropout and many.num_steps >= few.num_steps
    assert many.eval_every >= few.eval_every
    longer = dataclasses.replace(facts, mean_length=facts.mean_length * times)
    assert recipe_for(longer, NANO, "all").batch_size >= few.batch_size
    wide = recipe_for(facts, LLAMA_PRESETS["small"], "all")
    assert wide.learning_rate <= few.learning_rate


def test_movielens_100k_gets_what_was_measured_on_it() -> None:
    assert size_for(ML_100K) == "nano"
    assert NANO_RECIPE == recipe_for(ML_100K, NANO, "all")
    found = NANO_RECIPE.num_steps, NANO_RECIPE.batch_size, NANO_RECIPE.seq_len
    assert found == (900, 16, 200)
    assert math.isclose(NANO_RECIPE.learning_rate, 2e-3)
    assert NANO_RECIPE.dropout == 0.2


def test_what_is_given_stays_and_the_rest_follows_it() -> None:
    half = recipe_for(ML_100K, NANO, "all", {"batch_size": 8})
    assert half.num_steps == round(2 * 911 / math.sqrt(2), -2)
    assert half.learning_rate == NANO_RECIPE.learning_rate
    short = recipe_for(ML_100K, NANO, "all", {"seq_len": 50})
    assert short.batch_size == 64
    assert short.num_steps == NANO_RECIPE.num_steps
    exact = recipe_for(ML_100K, NANO, "all", {"epochs": 2.0})
    assert exact.num_steps == math.ceil(2 * 97_171 / (64 * 50)) == 61
    assert exact.eval_every == 100
    everything = dict.fromkeys(("num_steps", "eval_every", "early_stop"), 3)
    found = dataclasses.asdict(recipe_for(ML_100K, NANO, "all", everything))
    assert found.items() >= everything.items()
    assert found["dropout"] == NANO_RECIPE.dropout
    # Over a published Llama, the table's steps are the most.
    for strategy, most in (("heads", 5_000), ("lora", 5_000), ("all", 10_000)):
        recipe = recipe_for(ML_100K, None, strategy)  # type: ignore[arg-type]
        wanted = EPOCHS[strategy] * 97_171 / (recipe.batch_size * 64)
        assert recipe.num_steps == min(most, round(wanted, -2))


def test_steps_grow_with_the_root_of_many_events() -> None:
    many = dataclasses.replace(
        ML_100K, num_events=1_000_000, num_positions=1_000_000, p90_length=70.0
    )
    found = recipe_for(many, NANO, "all")
    assert (found.batch_size, found.seq_len) == (64, 50)
    assert found.num_steps == round(15 * 1_000_000 / 3_200, -2)
    for p90, wanted in ((9.0, 50), (71.0, 100), (142.0, 200), (9_000.0, 200)):
        facts = dataclasses.replace(ML_100K, p90_length=p90)
        assert recipe_for(facts, NANO, "all").seq_len == wanted


def test_text_columns_take_longer_at_a_lower_rate() -> None:
    plain = recipe_for(ML_100K, NANO, "all")
    found = recipe_for(ML_100K, NANO, "all", text_columns=True)
    assert found.learning_rate == plain.learning_rate / 2
    assert found.num_steps == round(2 * 911, -2)
    given = {"learning_rate": 0.5, "num_steps": 7}
    chosen = recipe_for(ML_100K, NANO, "all", given, text_columns=True)
    assert (chosen.learning_rate, chosen.num_steps) == (0.5, 7)
    heads = recipe_for(ML_100K, None, "heads")
    assert recipe_for(ML_100K, None, "heads", text_columns=True) == heads


def test_facts_are_those_of_the_histories(dataset: Dataset) -> None:
    facts, lengths = facts_of(dataset), [int(n) for n in dataset.train_length]
    long = [n for n in lengths if n > 1]
    assert facts.num_events == sum(lengths)
    assert facts.num_positions == sum(n - 1 for n in long)
    assert facts.mean_length == sum(long) / len(long)
    assert facts.median_length == sorted(long)[len(long) // 2] or len(long) % 2 == 0
    assert facts.num_evaluated == int((dataset.valid_at > 0).sum())
    # A step is the share of an epoch that the plan of packing says, but for padding.
    plan = PackingPlan(dataset.train_length, 16, 0)
    recipe = recipe_for(facts, NANO, "all", {"seq_len": 16, "epochs": 50.0})
    assert 0.9 < recipe.num_steps * recipe.batch_size / (50 * plan.num_rows) <= 1.01


def test_facts_count_the_tokens_that_are_read(dataset: Dataset) -> None:
    length, prompt = np.arange(dataset.num_slots) % 4, np.zeros(3, np.int32)
    tokens = ItemTokens(np.zeros(4, np.int32), 0 * length, length, prompt)
    wanted = 0
    for user in range(dataset.num_users):
        inputs = dataset.history(user)[: max(int(dataset.train_length[user]) - 1, 0)]
        wanted += sum(1 + int(tokens.length[slot]) for slot in inputs)
        wanted += len(tokens.prompt) * (len(inputs) > 0)
    assert facts_of(dataset, tokens).num_positions == wanted


def test_the_choice_is_printed() -> None:
    lines = recipe_text(ML_100K, NANO_RECIPE, "nano 64 x 2").splitlines()
    assert lines[0].startswith("recipe: 943 users, 1,682 items, 104.0 training events")
    assert "nano 64 x 2, items of 64, dropout 0.2, learning rate 0.002" in lines[1]
    assert "900 steps of 16 x 200 (29.6 epochs)" in lines[2]
    assert lines[2].endswith("stops after 5 evaluations without a better one")
    never = dataclasses.replace(NANO_RECIPE, early_stop=0, eval_users=2_000)
    said = recipe_text(ML_100K, never, "nano")
    assert "of 2,000 users; does not stop early" in said


# Runs


def test_a_run_takes_size_and_steps_from_its_data_and_keeps_them(
    tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "d", num_users=20, max_length=12).path
    monkeypatch.chdir(tmp_path)
    flags = ["--data_dir", str(data), "--stop_at", "2", "--seq_len", "8"]
    flags += ["--batch_size", "4"]
    train.main([*flags, "--epochs", "3"])
    said = capsys.readouterr().out
    run = Path("runs/d-nano-all-seed0")
    recipe = read_manifest(run / "2").meta["config"]["recipe"]
    assert f"{recipe['num_steps']} steps of 4 x 8 (3." in said
    assert "nano 64 x 2" in said
    # The recipe that is recorded is that of the resumed run, which repeats no flag.
    again = ["--data_dir", str(data), "--stop_at", "3"]
    train.main(again)
    assert "going on from step 2" in capsys.readouterr().out
    assert read_manifest(run / "3").meta["config"]["recipe"] == recipe
    other = refused(train.main, [*again, "--epochs", "30"], capsys)
    assert "--num_steps" in other and "another --checkpoint_dir" in other


def test_a_resumed_run_keeps_its_size(dataset: Dataset) -> None:
    facts = facts_of(dataset)
    config = resolved(TrainConfig(llama_size="mini"), facts)
    assert with_llama_size(TrainConfig(), facts).llama_size == "nano"
    assert with_llama_size(TrainConfig(), facts, config).llama_size == "mini"
    assert resolved(TrainConfig(), facts, config).recipe == config.recipe
    # A published size that another run had does not become this run's.
    other = resolved(TrainConfig(llama_size="1b", from_scratch=True), facts)
    assert with_llama_size(TrainConfig(), facts, other).llama_size == "nano"


@pytest.mark.long
def test_the_sample_of_users_is_for_validation_only(
    dataset: Dataset, tmp_path: Path
) -> None:
    everyone = dataset.info.counts.users_test
    for more, tested in (([], everyone), (["--test_users", "5"], 5)):
        run = tmp_path / str(tested)
        flags = small(dataset.path, run, "--eval_users", "7", "--num_steps", "2")
        train.main([*flags, *more])
        result = json.loads((run / "result.json").read_text())
        assert result["num_users"] == tested
        (step,) = steps(run)
        assert read_manifest(run / str(step)).meta["validation"]["num_users"] == 7


def test_each_size_from_scratch_is_larger_than_the_last() -> None:
    sizes = [LLAMA_PRESETS[name] for name in SCRATCH_SIZES]
    assert [(one.width, one.num_layers) for one in sizes] == [
        (64, 2), (128, 2), (256, 4), (512, 8),
    ]  # fmt: skip
    for one in sizes:
        assert one.num_heads * one.head == one.width and one.vocab == 256 and one.tied


# --llama_config

FIELDS: dict[str, Any] = {
    "width": 24, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head": 12,
    "ffn": 32, "vocab": 20,
}  # fmt: skip


@pytest.mark.long
def test_a_llama_of_a_file_trains(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(FIELDS))
    flags = small(dataset.path, tmp_path / "run", "--num_steps", "2")
    train.main([*flags, "--llama_config", str(file)])
    assert "tiny 24 x 1" in capsys.readouterr().out
    meta = read_manifest(tmp_path / "run" / "2").meta
    assert meta["model"]["llama"].items() >= FIELDS.items()
    # A second stage has the same Llama without a flag.
    more = ["--load_checkpoint", str(tmp_path / "run"), "--num_steps", "1"]
    train.main([*more, "--checkpoint_dir", str(tmp_path / "2"), "--batch_size", "4"])
    assert f"--llama_config {file}" in capsys.readouterr().out
    assert read_manifest(tmp_path / "2" / "1").meta["model"] == meta["model"]


def test_both_forms_of_a_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    for size in ("nano", "8b", "smollm2-135m"):
        config = LLAMA_PRESETS[size]
        for content in (to_json(config), hf_config(config, None)):
            file.write_text(json.dumps(content))
            assert read_config_file(file) == config
    scaled = dataclasses.replace(
        LLAMA_PRESETS["nano"], rope_scaling=RopeScaling("linear", 2.0)
    )
    file.write_text(json.dumps(hf_config(scaled, None)))
    assert read_config_file(file) == scaled


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": 3}, "unknown field 'depth'"),
        ({"width": None}, "width is None, wanted a whole number"),
        ({"width": "64"}, "width is '64', wanted a whole number"),
        ({"head": 3}, "head is 3, wanted an even number"),
        ({"num_heads": 3, "num_kv_heads": 2}, "num_heads is 3, wanted a multiple"),
        ({"norm_eps": "x"}, "norm_eps is 'x', wanted a finite number"),
        ({"tied": 1}, "tied is 1, wanted true or false"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling is"),
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_size": 64}, "num_attention_heads is None"),
    ],
)
def test_files_of_no_llama_are_refused(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "sizes.json"
    file.write_text(json.dumps({**FIELDS, **change}))
    with pytest.raises(UserError, match=said) as found:
        read_config_file(file)
    assert str(file) in str(found.value)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    file.write_text(json.dumps({k: v for k, v in FIELDS.items() if k != "ffn"}))
    with pytest.raises(UserError, match="no field 'ffn'"):
        read_config_file(file)


def test_a_recorded_recipe_without_the_new_fields_is_what_it_was() -> None:
    new = dataclasses.asdict(NANO_RECIPE)
    old = {n: v for n, v in new.items() if n not in ("schedule", "early_stop")}
    found = from_json(type(NANO_RECIPE), old, "recipe")
    assert (found.schedule, found.early_stop) == ("cosine", 0)
