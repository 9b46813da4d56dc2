"""Foreign weights in and out: the only room that knows a foreign tensor's name."""

from convert.hf_config import read_config as read_config
from convert.hf_llama import fingerprint as fingerprint, load_llama as load_llama
