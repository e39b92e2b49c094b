"""Packages beyond the core dependencies: asked for when a command needs them, not at import."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import AmacrineError

# Extra of pyproject.toml -> what a user does with it, for the message.
PURPOSES = {
    "sim": "simulation",
    "synth": "synthesis",
    "plot": "plotting",
}


def need(module: str, *, extra: str) -> ModuleType:
    """Import ``module``, which belongs to the given extra of this package, and return it.

    Raises
    ------
    AmacrineError
        The module is not installed; the message names the package and the pip command. Any other fault
        inside the module, even a missing package that it imports itself, is passed on as it is.
    """
    purpose = PURPOSES[extra]
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != top:
            raise
        package = top.replace("_", "-")
        raise AmacrineError(
            f"{purpose} needs the package {package}: pip install 'amacrine[{extra}]'"
        ) from error
