"""Which flags a second stage takes over from the first one."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from eqids.config import (
    ML_100K,
    MODEL_FLAGS,
    RUN_FLAGS,
    RunConfig,
    TrainConfig,
    model_flags,
    taken_over,
)
from eqids.runs.recipe import resolved

# By flag: what the first stage was given, another value that a second stage may give,
# and what the second stage has where it gives none ("=": that of the first).
TABLE: dict[str, tuple[Any, Any, Any]] = {
    "llama_size": ("1b", "3b", "="),
    "llama_config": (None, Path("/sizes.json"), "="),
    "llama_path": (Path("/llamas/a"), Path("/llamas/b"), "="),
    "from_scratch": (False, True, "="),
    "train": ("lora", "all", "="),
    "lora_rank": (4, 8, "="),
    "lora_alpha": (7.0, 9.0, "="),
    "lora_targets": (("q", "v"), ("gate",), "="),
    "data_dir": (Path("/data/a"), Path("/data/b"), "="),
    "prompt": ("Films, 'oldest' first:\n", None, "="),
    "text_tokens_per_item": (12, 0, "="),
    "tokenizer": (Path("/a/tokenizer.json"), Path("/b.json"), "="),
    "seq_len": (256, 128, "="),
    "item_width": (32, 16, "="),
    "text_features": (False, True, "="),
    "text_llama_path": (Path("/llamas/c"), Path("/llamas/d"), "="),
    "text_width": (8, 4, "="),
    "adapter": ("linear", "mlp", "="),
    "tied_items": (False, True, "="),
    "skip": (False, True, "="),
    "counts": (False, True, "="),
    "init_items": ("text", "random", "="),
    "gap_dropout": (0.3, 0.1, "="),
    "shuffle_ties": (False, True, "="),
    "request_time": (True, False, "="),
    "dtype": ("bfloat16", "float32", "="),
    "freeze_llama": (False, True, False),
    "checkpoint_dir": (Path("runs/1"), Path("runs/2"), None),
    "fresh": (True, False, False),
    "load_checkpoint": (Path("runs/0/5"), Path("runs/1/6"), None),
    "init_from": (None, None, None),
    "continue_from": (None, None, None),
    "more_steps": (None, None, None),
    "num_steps": (77, 78, None),
    "epochs": (None, 8.0, None),
    "max_minutes": (30.0, 40.0, None),
    "stop_at": (6, 7, None),
    "batch_size": (24, 8, None),
    "accumulate": (2, 4, 1),
    "learning_rate": (1e-3, 1e-5, None),
    "llama_learning_rate": (1e-4, 1e-5, None),
    "schedule": ("linear", "constant", None),
    "warmup_steps": (3, 4, None),
    "grad_clip": (2.0, 3.0, 1.0),
    "weight_decay": (0.5, 0.1, None),
    "dropout": (0.4, 0.2, None),
    "id_dropout": (0.4, 0.2, 0.1),
    "item_optimizer": ("dense", "adagrad", "auto"),
    "remat": (True, False, False),
    "unroll_layers": (True, False, False),
    "attention": ("xla", "cudnn", "auto"),
    "layout": ("fsdp", "tensor", "data"),
    "log_every": (3, 4, 50),
    "eval_every": (5, 6, None),
    "eval_users": (9, 8, None),
    "test_users": (9, 8, None),
    "save_every": (5, 6, None),
    "save_minutes": (2.0, 3.0, None),
    "save_blocking": (True, False, False),
    "keep": (9, 8, 3),
    "keep_every": (5, 6, None),
    "early_stop": (4, 5, None),
    "result_split": ("valid", "test", "test"),
    "tensorboard": (True, False, False),
    "seed": (5, 6, 0),
    "estimate_memory_only": (True, False, False),
    "hardware": ("a100-40gb", None, None),
    "processes": (None, None, None),
}  # fmt: skip


def test_every_flag_is_in_one_of_two_classes() -> None:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    assert sorted(MODEL_FLAGS + RUN_FLAGS) == sorted(names)
    assert sorted(TABLE) == sorted(names)
    assert {name for name, row in TABLE.items() if row[2] == "="} == set(MODEL_FLAGS)


def first_stage() -> RunConfig:
    given = {n: row[0] for n, row in TABLE.items() if n != "processes"}
    return resolved(TrainConfig(**given), ML_100K)


@pytest.mark.parametrize("name", [*TABLE])
def test_a_flag_that_is_not_given_is_that_of_the_first_stage_or_the_default(
    name: str,
) -> None:
    offered = taken_over(first_stage(), TrainConfig(load_checkpoint=Path("runs/1/6")))
    was, _, then = TABLE[name]
    if then == "=":
        assert offered[name] == was
    else:
        assert name not in offered
        if name != "processes":
            assert getattr(TrainConfig(), name) == then


def test_what_the_first_stage_was_not_given_is_what_its_recipe_said() -> None:
    given = TrainConfig(llama_path=Path("a"), prompt="Up", dtype="float32")
    config = resolved(given, ML_100K)
    found = model_flags(config)
    assert found["seq_len"] == 256 and found["item_width"] == 384
    assert (found["adapter"], found["train"]) == ("mlp", "heads")
    assert found["data_dir"] == Path("data/ml-100k").resolve()
    # Another Llama brings its size, and does not start from random weights.
    mine = TrainConfig(load_checkpoint=Path("x"), llama_path=Path("b"))
    assert (
        not {"llama_size", "llama_config", "llama_path", "from_scratch"}
        & taken_over(config, mine).keys()
    )
    # Low-rank changes are those of a run that trains them.
    for train_ in ("heads", "all"):
        other = TrainConfig(load_checkpoint=Path("x"), train=train_)
        names = taken_over(first_stage(), other).keys()
        assert not {"train", "lora_rank", "lora_alpha", "lora_targets"} & names
