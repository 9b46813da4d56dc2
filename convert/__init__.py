"""Foreign weights and formats, read and written: no other package has their names.

| question | file |
|---|---|
| how is config.json read and written: sizes, RoPE scaling, norms? | `hf_config.py` |
| which tensor of Hugging Face is which of our arrays? | `hf_llama.py` (`ROWS`) |
| how is a folder of safetensors loaded? | `hf_llama.py`, `hf_files.py`, `lazy_field.py`, `stored_tensor.py` |
| what are our arrays called in files for others? | `names.py` |
| how is a folder of Hugging Face written, LoRA merged? | `hf_write.py`, `outputs.py` |
| how is what `eqids-to-hf` wrote read back? | `hf_eqids.py` |
| how is a tree of Orbax found, read and written? | `orbax_folder.py`, `orbax_read.py`, `orbax_msgpack.py`, `orbax_write.py`, `orbax_package.py` |
| how does a checkpoint of ours in Orbax's layout become one again? | `orbax_eqids.py` |
| which leaf of a model in Flax is which of our arrays? | `flax_tree.py` |
| how is a GGUF file read: bytes, sizes (and RoPE scaling), tensors? | `gguf_file.py`, `gguf_config.py`, `gguf_llama.py` |
| how is the tokenizer of a GGUF file written? | `gguf_tokenizer.py` |
| how is a published Llama fetched from the hub? | `hub.py` |
| what does a user read who gives something else? | `diagnosis.py`, `formats.py`, `quantized.py` |

What needs the model of a checkpoint (`eqids-to-hf`, `eqids-to-orbax`, `items`) is in
`eqids/export`.
"""  # noqa: E501 (a table)

from typing import TYPE_CHECKING

from eqids.io.lazy_names import lazy_names

if TYPE_CHECKING:
    from convert.hf_config import (
        read_config as read_config,
        read_config_file as read_config_file,
    )
    from convert.hf_files import fingerprint as fingerprint
    from convert.hf_llama import check_llama as check_llama, load_llama as load_llama
    from convert.hf_write import save_llama as save_llama
else:
    _FILES = {
        "read_config": "hf_config",
        "read_config_file": "hf_config",
        "fingerprint": "hf_files",
        "check_llama": "hf_llama",
        "load_llama": "hf_llama",
        "save_llama": "hf_write",
    }
    # --help does not wait for jax.
    __getattr__ = lazy_names(__name__, _FILES)
