"""The names that `from convert import ...` gives, which need jax."""

from convert.hf_config import read_config as read_config
from convert.hf_files import fingerprint as fingerprint
from convert.hf_llama import check_llama as check_llama, load_llama as load_llama
from convert.hf_write import save_llama as save_llama
