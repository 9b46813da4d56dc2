"""From the words of array annotations to places on a device mesh.

An array field is declared once, `wq: Float[Array, "layer heads head width"]`. Its
words are its logical axes; a `Layout` maps words to mesh axes; `place` puts a tree
on a mesh accordingly, and `gathered`, `lookup`, `like` and `per_shard` are all a
model needs to compute under explicit axis types. Each of them also works without
any mesh. Nothing here knows what is being computed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharding.public import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        """Imports all names when the first is used: --help does not wait for jax."""
        import importlib

        public = vars(importlib.import_module("sharding.public"))
        if name.startswith("_") or name not in public:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals().update({n: v for n, v in public.items() if n[0] != "_"})
        return public[name]
