"""Names of the hardware that layouts know."""

from typing import Literal

HardwareName = Literal["cpu", "a100-40gb", "a100-80gb", "h100-80gb"]
"""A name in `sharding.HARDWARE`; `cpu` is this machine."""
