"""The tokens that a tokenizer puts around a text: tokenizer_config.json counts."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from eqids.config import UserError, check_content, require

_SETTINGS, _SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
_ENDS = ("bos", "eos")


def apply_settings(engine: Tokenizer, tokenizer: Path) -> None:
    """Makes a tokenizer put those tokens around a text that its settings ask for.

    As in transformers: where `tokenizer_config.json`, beside `tokenizer.json`, has
    `add_bos_token` or `add_eos_token`, whatever they are, these two count and the
    post-processor of `tokenizer.json` does not.

    Args:
        engine: the tokenizer, which is changed.
        tokenizer: its `tokenizer.json`.

    Raises:
        UserError: the settings are damaged, or name a token that is not one.
    """
    path = tokenizer.with_name(_SETTINGS)
    settings = _object(path)
    if not any(f"add_{end}_token" in settings for end in _ENDS):
        return
    if "added_tokens_decoder" not in settings:  # before transformers 4.34
        settings |= _object(tokenizer.with_name(_SPECIAL))
    tokens = {
        end: _content(settings.get(f"{end}_token"))
        for end in _ENDS
        if settings.get(f"add_{end}_token")
    }
    ids = {token: engine.token_to_id(token) for token in tokens.values() if token}
    for token, number in ids.items():
        require(
            number is not None,
            f"{path} puts {token!r} around texts, which {tokenizer.name} does not have",
        )
    before, after = ([f"{tokens[end]}:0"] if tokens.get(end) else [] for end in _ENDS)
    single = [*before, "$A:0", *after]
    second = [piece.removesuffix(":0") + ":1" for piece in single]
    engine.post_processor = TemplateProcessing(
        single=single,
        pair=single + [piece.replace("$A", "$B") for piece in second],
        special_tokens=list(ids.items()),
    )


def _content(token: Any) -> str | None:
    """The text of a token, which may be an object with more about it."""
    return token.get("content") if isinstance(token, dict) else token


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file."""
    if not path.exists() and not path.is_symlink():
        return {}
    check_content(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    require(isinstance(values, dict), f"{path} holds no JSON object")
    return values
