"""Foreign weights in and out: the only room that knows a foreign tensor's name."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convert.public import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        """Imports all names when the first is used: --help does not wait for jax."""
        import importlib

        public = vars(importlib.import_module("convert.public"))
        if name.startswith("_") or name not in public:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals().update({n: v for n, v in public.items() if n[0] != "_"})
        return public[name]
