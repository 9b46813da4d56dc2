"""Runs that continue another: with more steps, on newer data, on another catalog."""

import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_dataset
from plays import prepared, write_csv
from pytest import CaptureFixture
from runs import refused, small
from text_runs import KINDS, TEXT, add_items, flags_of, with_unused_items, write_llama
from tokens import TEXTS, with_texts

import eqids
from eqids import evaluate, train
from eqids.checkpoints import read_manifest, resolve, restore, steps
from eqids.config import NANO_RECIPE, RunConfig, continued_recipe, from_json, recipe_for
from eqids.data import Dataset, open_dataset
from eqids.data.facts import facts_of
from eqids.fit.cooldown import NOT_BEGUN, cooled
from eqids.fit.optimizer import make_schedule

LEVEL = (
    "--schedule constant --warmup_steps 0 --learning_rate 1e-2 --log_every 1".split()
)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    records = read_manifest(path).arrays
    like = {
        name: np.broadcast_to(np.zeros((), jnp.dtype(record.dtype)), record.shape)
        for name, record in records.items()
    }
    return restore(path, like)


def config_of(path: Path) -> RunConfig:
    return from_json(RunConfig, read_manifest(path).meta["config"], str(path))


def continued(run: Path, folder: Path, *more: str) -> list[str]:
    place = ["--checkpoint_dir", str(folder)]
    return ["--continue_from", str(run), *place, "--log_every", "1", *more]


def tomorrow(dataset: Dataset, folder: Path) -> Dataset:
    """Histories of the same catalog with more events, and an item that is new."""
    names = dataset.items().set_index("slot")["item"]
    users = dataset.users()["user"].tolist()
    rows = [
        (user, item, time)
        for row, user in enumerate(users)
        for time, item in enumerate([*names.loc[dataset.history(row)], "new", "item 3"])
    ]
    source = write_csv(folder / "tomorrow.csv", rows)
    return prepared(folder, f"csv:{source}", catalog=dataset.path)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_the_schedule_begins_anew_after_the_steps_of_the_other_run(
    schedule: str,
) -> None:
    own = dataclasses.replace(
        NANO_RECIPE, num_steps=40, warmup_steps=4, schedule=schedule
    )
    later = dataclasses.replace(own, first_step=700, num_steps=740)
    steps = jnp.arange(40)
    rates = [make_schedule(own)(step) for step in steps]
    found = [make_schedule(later)(700 + step) for step in steps]
    np.testing.assert_allclose(found, rates, rtol=1e-6)
    for begun in (15, int(NOT_BEGUN)):
        at = min(begun + 700, int(NOT_BEGUN))
        alone = [cooled(40, step, np.int32(begun)) for step in steps]
        after = [cooled(740, 700 + step, np.int32(at), 700) for step in steps]
        np.testing.assert_allclose(after, alone, rtol=1e-6)


def test_rates_and_steps_of_a_continued_run_do_not_shrink_from_night_to_night(
    dataset: Dataset,
) -> None:
    facts = facts_of(dataset)
    whole = recipe_for(facts, None, "all", {"batch_size": 2, "seq_len": 8})
    first = continued_recipe(whole, whole, facts, 600, {})
    second = continued_recipe(first, whole, facts, first.num_steps, {})
    assert first.learning_rate == second.learning_rate < whole.learning_rate
    assert first.own_steps == second.own_steps == round(0.15 * whole.num_steps)
    assert second.first_step == 600 + first.own_steps
    given = {"more_steps": 7, "dropout": 0.4}
    chosen = continued_recipe(whole, whole, facts, 600, given)
    assert (chosen.num_steps, chosen.dropout) == (607, 0.4)
    chosen = continued_recipe(whole, whole, facts, 600, {"epochs": 2.0})
    assert chosen.own_steps == -(-2 * facts.num_positions // 16)


@pytest.mark.long
def test_a_run_that_is_continued_is_one_that_was_longer(
    dataset: Dataset, tmp_path: Path
) -> None:
    """At a constant rate, to the bit: weights, optimizer, batches and dropout."""
    for name, number in (("a", "20"), ("whole", "30")):
        flags = [*LEVEL, "--num_steps", number, "--eval_every", "10", "--keep", "9"]
        train.main(small(dataset.path, tmp_path / name, *flags, "--grad_clip", "0.7"))
    a = ["--more_steps", "10", "--eval_every", "10", *LEVEL[4:6]]
    train.main(continued(tmp_path / "a" / "20", tmp_path / "b", *a))
    assert steps(tmp_path / "b") == [20, 30]
    for number in ("20", "30"):
        wanted = arrays_of(tmp_path / "whole" / number)
        found = arrays_of(tmp_path / "b" / number)
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array, name)
    config = config_of(tmp_path / "b" / "30")
    assert config.flags.grad_clip == 0.7 and config.continues is not None
    was = read_manifest(tmp_path / "whole" / "20").meta
    assert config.continues.score == was["score"]
    assert config.continues.checkpoint == tmp_path / "a" / "20"


@pytest.mark.long
def test_newer_data_and_items_continue_a_finished_run(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    today = tomorrow(dataset, tmp_path)
    assert today.info.catalog_version == 2
    data = ["--data_dir", str(today.path)]
    flags = continued(finished, tmp_path / "b", *data, "--more_steps", "6")
    train.main([*flags, "--stop_at", "43"])
    said = capsys.readouterr().out
    before = float(re.findall(r"NDCG@10 (0\.\d+) on validation, \d+ users", said)[0])
    assert "6 more steps of 4 x 16" in said and "going on from step 40" in said
    evaluate.main(["--checkpoint", str(tmp_path / "b" / "40"), *data, "--split",
                   "valid", "--json", str(tmp_path / "before.json")])  # fmt: skip
    measured = json.loads((tmp_path / "before.json").read_bytes())
    assert round(measured["filtered"]["ndcg@10"], 4) == before
    # The same command goes on; the run that it continues may be gone.
    capsys.readouterr()
    train.main(flags)
    said = capsys.readouterr().out
    assert "going on from step 43" in said and "evaluating" not in said
    assert f"it was {before:.4f} with {resolve(finished)}" in said
    best = read_manifest(resolve(tmp_path / "b")).meta["score"]
    assert (
        f"the same users: {best:.4f}" in said
        and best >= measured["filtered"]["ndcg@10"]
    )
    shown = eqids.load(tmp_path / "b").recommend([["item 3"]], k=50)
    assert "new" in set(shown["item"])
    # And so does the next night's, whose name does not grow.
    train.main(["--continue_from", str(tmp_path / "b"), "--more_steps", "1"])
    train.main(["--continue_from", str(tmp_path / "b-more1"), "--more_steps", "1"])
    assert resolve(tmp_path / "b-more2").exists()


@pytest.mark.long
def test_a_cooldown_of_the_other_run_ends_nothing(
    dataset: Dataset, tmp_path: Path
) -> None:
    wsd = "--schedule wsd --early_stop 1 --eval_every 4 --learning_rate 1e-7".split()
    train.main(small(dataset.path, tmp_path / "a", *wsd, "--num_steps", "80"))
    last = max(steps(tmp_path / "a"))
    assert last < 80
    begun = [
        x for n, x in arrays_of(tmp_path / "a" / str(last)).items() if "begun" in n
    ]
    assert len(begun) == 1 and begun[0] < last
    more = ["--more_steps", "12", "--early_stop", "0"]
    train.main(continued(tmp_path / "a" / str(last), tmp_path / "b", *more))
    assert max(steps(tmp_path / "b")) == last + 12


def test_what_cannot_continue_is_refused_with_the_way_on(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    def refusal(*more: str) -> str:
        said = refused(train.main, continued(finished, tmp_path / "b", *more), capsys)
        assert said.count("\n") == 1 and not (tmp_path / "b").exists()
        return said

    other = make_dataset(tmp_path / "other", num_items=30).path
    assert "python -m eqids.prepare --catalog" in refusal("--data_dir", str(other))
    assert "--load_checkpoint" in refusal("--train", "heads")
    assert "wanted --more_steps" in refusal("--num_steps", "60")
    assert "contradict" in refusal("--load_checkpoint", str(finished))
    assert "contradict" in refusal("--more_steps", "2", "--epochs", "1")
    said = refused(train.main, ["--more_steps", "3"], capsys)
    assert "--more_steps 3 is for --continue_from" in said
    # A finished run that is given more steps.
    said = refused(
        train.main, small(dataset.path, finished, "--num_steps", "50"), capsys
    )
    assert f"--continue_from {finished} --more_steps 10" in said
    # A folder of another run, or of another number of steps.
    train.main(continued(finished, tmp_path / "c", "--more_steps", "1", "--fresh"))
    said = refused(train.main, continued(finished, tmp_path / "c", "--fresh"), capsys)
    assert "is not empty" in said
    said = refused(
        train.main, continued(finished, tmp_path / "c", "--more_steps", "2"), capsys
    )
    assert "of a run of 1 further steps, and --more_steps is 2" in said
    said = refused(train.main, continued(tmp_path / "c", finished), capsys)
    assert "wanted the same, or another --checkpoint_dir" in said


@pytest.mark.long
def test_text_columns_of_new_items_are_encoded_in_a_continued_run(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    llama = write_llama(tmp_path / "llama")
    dataset = with_unused_items(tmp_path)
    train.main(flags_of(dataset.path, tmp_path / "a", llama, "--num_steps", "20"))
    added = [(90 + n, KINDS[n], n) for n in range(2)]
    add_items(dataset.path, added)
    train.main(continued(tmp_path / "a", tmp_path / "b", "--more_steps", "2"))
    config = config_of(resolve(tmp_path / "b"))
    assert config.recipe.text_width == TEXT and config.text_encoder is not None
    frame = open_dataset(dataset.path).items().set_index("item")
    text = arrays_of(resolve(tmp_path / "b"))["params/softmax/text"].reshape(-1, TEXT)
    for new, alike in ((90, 0), (91, 1)):
        rows = text[frame.loc[[new, alike], "slot"].to_numpy()]
        np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
        assert rows[0].any()


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["heads", "lora"])
def test_a_run_over_a_frozen_llama_with_texts_is_continued(
    strategy: str, dataset: Dataset, tmp_path: Path
) -> None:
    """To the bit, as a run from scratch; Llama's own rate follows."""
    texted = with_texts(dataset, tmp_path / "d", TEXTS)
    llama = write_llama(tmp_path / "llama")
    given = ["--llama_path", str(llama), "--train", strategy, "--seq_len", "64"]
    given += ["--text_tokens_per_item", "3", "--prompt", "Plays:", *LEVEL]
    if strategy == "lora":
        given += ["--llama_learning_rate", "1e-3"]
    for name, number in (("a", "2"), ("whole", "4")):
        sizes = ["--num_steps", number, "--eval_every", "2", "--keep", "9"]
        train.main(small(texted.path, tmp_path / name, *given, *sizes))
    more = ["--more_steps", "2", "--eval_every", "2", "--learning_rate", "1e-2"]
    if strategy == "lora":
        more += ["--llama_learning_rate", "1e-3"]
    train.main(continued(tmp_path / "a" / "2", tmp_path / "b", *more))
    wanted = arrays_of(tmp_path / "whole" / "4")
    for name, array in arrays_of(tmp_path / "b" / "4").items():
        np.testing.assert_array_equal(array, wanted[name], name)
