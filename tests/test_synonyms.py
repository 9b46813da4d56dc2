"""Names from elsewhere, and misspelled ones, are answered with our flags."""

import re

import pytest
from command_lines import EVERY, Typed
from hypothesis import given, settings, strategies as st

from eqids.cli import parse
from eqids.cli.flags import flags_of
from eqids.cli.suggest import answer
from eqids.cli.synonyms import SYNONYMS, Synonym
from eqids.config import TrainConfig, UserError


def named_flags(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z0-9_]*", text))


FLAGS = {
    typed.text: set(re.findall(r"^[│ ] (--[a-z0-9_]+)", typed.help(), re.MULTILINE))
    for typed in EVERY
}
"""The flags of each command, as --help lists them."""
BY_TEXT = {typed.text: typed for typed in EVERY}

ANSWERS = {
    "eqids.train": {
        "lr": "learning_rate", "bs": "batch_size",
        "num_epochs": "epochs", "n_epochs": "epochs", "num_train_epochs": "epochs",
        "max_steps": "num_steps", "max_time": "max_minutes",
        "output_dir": "checkpoint_dir", "output": "checkpoint_dir",
        "model": "llama_path", "model_name_or_path": "llama_path",
        "pretrained": "llama_path", "dataset": "data_dir", "data": "data_dir",
        "ckpt": "load_checkpoint", "checkpoint": "load_checkpoint",
        "resume": "checkpoint_dir", "resume_from_checkpoint": "checkpoint_dir",
        "max_seq_length": "seq_len", "max_length": "seq_len",
        "per_device_train_batch_size": "batch_size",
        "gradient_accumulation_steps": "accumulate", "wd": "weight_decay",
        "random_seed": "seed", "fp16": "dtype", "bf16": "dtype", "lora_r": "lora_rank",
        "target_modules": "lora_targets", "logging_steps": "log_every",
        "save_steps": "save_every", "eval_steps": "eval_every",
        "warmup": "warmup_steps", "warmup_ratio": "warmup_steps", "clip": "grad_clip",
        "max_grad_norm": "grad_clip", "user_col": "user_column",
        "gradient_checkpointing": "remat", "patience": "early_stop",
        "tie": "no_tied_items",
        "local_rank": "process_id", "fsdp": "layout", "report_to": "tensorboard",
        "max-steps": "num_steps", "weight-decay-rate": "weight_decay",
        "embedding_dim": "item_width",
    },
    "eqids.evaluate": {
        "ckpt": "checkpoint", "resume": "checkpoint", "model": "checkpoint",
        "load_checkpoint": "checkpoint", "checkpoint_dir": "checkpoint",
        "output": "json", "data": "data_dir", "dataset": "data_dir",
        "eval_split": "split", "max_users": "eval_users", "lr": "learning_rate",
        "pretrained": "checkpoint", "model_name_or_path": "llama_path",
    },
    "eqids.recommend": {
        "topk": "k", "top_k": "k", "n": "k", "uid": "user", "user_id": "user",
        "item_ids": "history", "csv": "input", "out": "output", "ckpt": "checkpoint",
        "filter_seen": "keep_seen", "include_seen": "keep_seen",
    },
    "eqids.prepare": {
        "user_col": "user_column", "item_col": "item_column", "time_col": "time_column",
        "timestamp_column": "time_column", "timestamp": "time_column",
        "uid": "user_column", "data": "source", "dataset": "source", "input": "source",
        "csv": "source", "output": "data_dir", "output_dir": "data_dir",
        "random_seed": "seed", "force": "overwrite", "k_core": "min_user_interactions",
        "rating_col": "rating_column", "epochs": "epochs",
    },
    "convert gguf-to-hf": {"outtype": "dtype", "max_shard_size": "max_shard_gb"},
    "sharding plan": {"gpus": "devices", "gpu": "hardware", "topk": "top",
                      "model": "llama_size", "max_length": "seq_len"},
    "bench train": {"n_jobs": "cores", "bf16": "dtype", "reps": "repetitions"},
    "eqids.catalog add": {"dryrun": "dry_run", "model": "checkpoint"},
}  # fmt: skip
"""By command, what people type and the flag that its answer has to name."""

WITHOUT_FLAG = {
    "eqids.train": {
        "device": "JAX_PLATFORMS=cpu", "gpus": "CUDA_VISIBLE_DEVICES",
        "num_workers": "without a number of workers",
        "config": "every setting is a flag",
        "num_negatives": "without sampled negatives", "hf_token": "HF_TOKEN",
    },
    "eqids.prepare": {"sep": "header", "delimiter": "header"},
    "eqids.evaluate": {
        "batch_size": "size of its batches itself", "topk": "K = 1, 5, 10, 20",
    },
}  # fmt: skip


@pytest.mark.parametrize("text", ANSWERS)
def test_names_from_elsewhere_are_answered_with_ours(text: str) -> None:
    for name, flag in ANSWERS[text].items():
        said = BY_TEXT[text].refusal(f"--{name}", "3")
        assert said.startswith(f"--{name} is not a flag of python -m {text}")
        answer = said.split("python -m " + text, 1)[1]
        assert f"--{flag}" in named_flags(answer), said


@pytest.mark.parametrize("text", WITHOUT_FLAG)
def test_what_has_no_flag_is_explained(text: str) -> None:
    for name, tokens in WITHOUT_FLAG[text].items():
        assert tokens in BY_TEXT[text].refusal(f"--{name}", "3")


@pytest.mark.parametrize("row", SYNONYMS, ids=lambda row: row.answer[:40])
def test_every_answer_fits_some_command(row: Synonym) -> None:
    assert named_flags(row.answer) <= row.needs
    positional = {f"--{name}" for name in ("path", "dir", "input", "output")}
    assert any(row.needs <= flags | positional for flags in FLAGS.values())
    assert row.names and not any("-" in name for name in row.names)


@pytest.mark.parametrize("typed", EVERY, ids=lambda typed: typed.text)
def test_an_answer_names_only_existing_flags(typed: Typed) -> None:
    """Whatever is typed, of all names of the table, in every command."""
    flags = flags_of(typed.kind, typed.positional)
    for name in sorted({name for row in SYNONYMS for name in row.names}):
        if f"--{name}" in FLAGS[typed.text]:
            continue
        said = answer(f"--{name}", f"python -m {typed.text}", flags)
        assert name in said and len(said) < 300
        there = FLAGS[typed.text] | {f"--{name}"}
        other = re.search(r", but python -m (.+) has (--\w+)$", said)
        if other:
            assert other[2] in FLAGS[other[1]]
        else:
            assert named_flags(said) <= there | {"--help"}, said


@settings(max_examples=200)
@given(st.data())
def test_misspelled_flags_are_recognised(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(sorted(FLAGS)))
    long = sorted(flag for flag in FLAGS[text] if len(flag) > 9)
    if not long:
        return
    flag = data.draw(st.sampled_from(long))
    at = data.draw(st.integers(4, len(flag) - 2))
    swapped = flag[:at] + flag[at + 1] + flag[at] + flag[at + 2 :]
    dropped = flag[:at] + flag[at + 1 :]
    doubled = flag[:at] + flag[at] + flag[at:]
    joined = "--" + flag[2:].replace("_", "")
    for typo in (swapped, dropped, doubled, joined, flag.upper(), flag[1:]):
        if typo in FLAGS[text] or typo.lower() == "--help":
            continue
        said = BY_TEXT[text].refusal(typo)
        if typo in (joined, flag.upper(), flag[1:]):
            assert said == f"{typo} is not a flag of python -m {text}, wanted {flag}"
        # What is one letter from two flags may mean either.
        assert (named_flags(said) - {typo, "--help"}) & FLAGS[text], (typo, said)


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        ("--no_freeze_llama", "wanted --train all"),
        ("--no_freeze_llama=1", "--no_freeze_llama is not a flag"),
        ("--no_remat=1", "--no_remat takes no value"),
        ("--local_rank 0", "counts those of a machine"),
        ("--node_rank 1", "counts machines"),
        ("--nproc_per_node 4", "that number times the machines"),
        ("--learning_rate inf", "--learning_rate is inf, wanted a finite number"),
        ("--weight_decay inf", "--weight_decay is inf, wanted a finite number"),
        ("--text x", "but python -m eqids.prepare has --text"),
        ("--dry_run", "wanted --estimate_memory_only"),
        ("\u2014num_steps 3", "wanted two hyphens: --num_steps"),
        ("\u2013seed 1", "wanted two hyphens: --seed"),
        ("---num_steps 3", "wanted two hyphens: --num_steps"),
        ("\u2212\u2212num-steps=4", "wanted two hyphens: --num-steps"),
        ("--num_steps \u0663", "wanted a whole number, written 3"),
        ("--grad_clip \u0661", "--grad_clip is '\u0661', wanted a number"),
    ],
)
def test_an_answer_helps(tokens: str, wanted: str) -> None:
    with pytest.raises(UserError, match=re.escape(wanted)):
        parse(TrainConfig, tokens.split(), "eqids.train", "")


def test_an_empty_word_is_refused() -> None:
    with pytest.raises(UserError, match="an empty word"):
        parse(TrainConfig, [""], "eqids.train", "")
