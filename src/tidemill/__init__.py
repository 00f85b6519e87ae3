"""Tidemill: data, features, training, checks, registry, release, serving, monitoring and retraining in one package."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# name -> "module:attribute", imported when first asked for, so that `import tidemill` loads the standard library only.
_NAMES: dict[str, str] = {}

__all__ = ["__version__", *sorted(_NAMES)]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'tidemill' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
