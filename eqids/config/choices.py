"""Names to choose from that several configs share."""

from typing import Literal

HardwareName = Literal["cpu", "a100-40gb", "a100-80gb", "h100-80gb"]
"""A name in `sharding.compiled.machines.HARDWARE`; `cpu` is this machine."""

Strategy = Literal["heads", "lora", "all"]
"""What trains: everything but Llama; that and low-rank changes of Llama; everything."""

InitItems = Literal["interactions", "text", "random"]
"""What item vectors start from."""

ItemOptimizer = Literal["auto", "dense", "lazy_adam", "adagrad"]
"""The optimizer of item tables: dense AdamW, or one that updates the clusters that a
batch uses."""

Schedule = Literal["cosine", "linear", "constant", "wsd"]
"""How the learning rate goes on after its warmup; wsd is warmup-stable-decay."""

Dtype = Literal["float32", "bfloat16"]
"""The dtype that Llama computes in."""

FloatName = Literal["float32", "float16", "bfloat16"]
"""A dtype of weights in files."""

TimeUnit = Literal[
    "days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds"
]
"""Unit of times that are numbers."""
