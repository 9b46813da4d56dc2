"""A real Llama end to end: SmolLM2 from its GGUF, against transformers."""

import hashlib
import random
import sys
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import regex
import tokenizers
import torch
import transformers
from conftest import assert_close
from safetensors import safe_open
from smollm2 import smollm2_gguf

from convert import load_llama, read_config
from convert.__main__ import main
from eqids.config import LLAMA_PRESETS
from eqids.model import Llama

# Quick tests convert small models of every kind (test_convert_gguf*.py).
pytestmark = pytest.mark.long

TEXT = (
    "Marie Curie was the first woman to win a Nobel Prize, and the only person to win "
    "it in two different sciences. She discovered polonium and radium with her husband "
    "Pierre, and gave the study of rays its name."
)


@pytest.fixture(scope="module")
def source() -> Path:
    return smollm2_gguf()


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "hf"
    main(["gguf-to-hf", str(source), str(out)])
    return out


def test_it_is_the_preset_and_reads_and_writes_as_transformers_does(
    folder: Path,
) -> None:
    assert read_config(folder) == LLAMA_PRESETS["smollm2-135m"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXT).input_ids
    asked = tokenizer("The capital of France is").input_ids
    model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    del model
    llama = load_llama(folder)
    logits = jax.jit(Llama.logits)
    ours = np.asarray(logits(llama, jnp.asarray([ids])))[0]
    assert_close(ours, theirs, "logits")

    def nll(logits: np.ndarray) -> float:
        log_probs = jax.nn.log_softmax(jnp.asarray(logits[:-1]))
        return -float(
            jnp.mean(log_probs[jnp.arange(len(ids) - 1), jnp.asarray(ids[1:])])
        )

    assert abs(nll(ours) - nll(theirs)) < 0.02
    assert abs(nll(ours) - 2.713) < 0.02  # as measured with transformers
    answer = list(asked)
    for _ in range(2):
        padded = answer + [0] * (len(ids) - len(answer))
        row = logits(llama, jnp.asarray([padded]))[0, len(answer) - 1]
        answer.append(int(jnp.argmax(row)))
    assert tokenizer.decode(answer[len(asked) :]) == " Paris."


def tokens_of(text: str) -> list[str]:
    """llama.cpp's `smollm`: single digits, then GPT-2's words."""
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    pieces = regex.split(r"(\p{N})", text)
    return [word for piece in pieces for word in regex.findall(gpt2, piece)]


def byte_letters() -> list[str]:
    """GPT-2's letters for bytes: printable ones stand for themselves."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def random_texts(number: int) -> list[str]:
    rng = random.Random(0)
    ranges = [(32, 126), (32, 126), (0, 0x24F), (0x370, 0x5FF), (0x900, 0xDFF)]
    ranges += [(0x3040, 0x9FFF), (0x1F300, 0x1FAFF), (0, sys.maxunicode)]

    def letter(first: int, last: int) -> str:
        while 0xD800 <= (code := rng.randint(first, last)) <= 0xDFFF:
            pass  # halves of a pair are no characters
        return chr(code)

    texts = []
    for _ in range(number):
        first, last = rng.choice(ranges)
        some = [letter(first, last) for _ in range(rng.randint(0, 40))]
        marks = rng.choices([" ", "  ", "\n", "1234", "'s", "it's", "\t"], k=5)
        texts.append("".join(rng.sample(some + marks, len(some) + 5)))
    return texts


def test_a_thousand_random_texts_have_the_same_tokens(
    source: Path, folder: Path
) -> None:
    """Against transformers, and against merges that are applied one at a time."""
    texts = random_texts(1000)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    batch = theirs(texts).input_ids
    assert [one.ids for one in ours.encode_batch(texts)] == batch
    fields = gguf.GGUFReader(source).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    number = {token: n for n, token in enumerate(tokens)}
    rank = {tuple(merge.split(" ")): n for n, merge in enumerate(merges)}
    letters = byte_letters()
    assert sum(letter not in number for letter in letters) == 21
    for text, ids in list(zip(texts, batch, strict=True))[:200]:
        expected = []
        for word in tokens_of(text):
            # 21 bytes have no token and are left out, as transformers does.
            parts = [letters[byte] for byte in word.encode()]
            parts = [part for part in parts if part in number]
            while len(parts) > 1:
                pairs = list(zip(parts, parts[1:], strict=False))
                best = min(pairs, key=lambda pair: rank.get(pair, len(rank)))
                if best not in rank:
                    break
                place = pairs.index(best)
                parts[place : place + 2] = ["".join(best)]
            expected += [number[part] for part in parts]
        assert ids == expected, text
        if all(letters[byte] in number for byte in text.encode()):
            assert theirs.decode(ids) == text


def test_special_tokens_are_found_in_texts(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("<|im_start|>user").input_ids[0] == 1
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    chat = [{"role": "user", "content": "Hello"}]
    assert "SmolLM" in tokenizer.apply_chat_template(chat, tokenize=False)


def test_halves_in_shards_are_rounded_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    flags = ["--dtype", "bfloat16", "--max_shard_gb", "0.1"]
    main(["hf-to-hf", str(folder), str(half), *flags])
    printed = dict(
        reversed(line.split("  ")) for line in capsys.readouterr().out.splitlines()
    )
    for file in half.iterdir():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert printed[str(file)] == digest
    assert len(list(half.glob("model-*-of-00003.safetensors"))) == 3
    key = "model.layers.7.mlp.down_proj.weight"
    llama = load_llama(half, jnp.bfloat16)
    with safe_open(folder / "model.safetensors", framework="np") as file:
        whole = torch.from_numpy(file.get_tensor(key)).bfloat16()
    theirs = whole.view(torch.int16).numpy()
    assert np.array_equal(np.asarray(llama.blocks.w_down[7]).view(np.int16), theirs)
    assert (half / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
