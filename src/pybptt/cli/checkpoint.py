"""Keeping a training run in an .npz: its parameters by name, and what is needed to go on."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .common import CommandError, open_regular

__all__ = ["load", "require_writable", "save"]

FORMAT = 1
FACTS = "pybptt.train"  # the entry with everything that isn't an array, as JSON

_Arrays = dict[str, npt.NDArray[Any]]


def require_writable(path: str) -> None:
    """Raise now, before any work, if `save` to `path` could not succeed later."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise CommandError(f"cannot write {path}: there is no directory {folder}")
    if Path(path).is_dir() or not os.access(folder, os.W_OK):
        raise CommandError(f"cannot write {path}: it is a directory, or its directory is read-only")


def save(path: str, arrays: _Arrays, facts: dict[str, Any]) -> None:
    """Write the file whole or not at all: whatever happens, `path` is the old file or the new one."""
    entries: dict[str, Any] = {**arrays, FACTS: np.array(json.dumps({"format": FORMAT, **facts}))}
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **entries)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}", code=1) from None
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str) -> tuple[_Arrays, dict[str, Any]]:
    """What `save` wrote.

    Raises
    ------
    CommandError
        If it can't be read, or isn't such a file.
    """
    with open_regular(path) as file:
        try:
            arrays, facts = _read(file)
            version = facts["format"]
            if type(version) is not int:
                raise ValueError
        except Exception:  # zipfile's and NumPy's parsers raise nearly anything
            raise CommandError(f"{path} is not a whole .npz file written by --save") from None
    if version != FORMAT:
        raise CommandError(f"{path} has format {version}; this version of pybptt reads format {FORMAT}")
    return arrays, facts


def _read(file: BinaryIO) -> tuple[_Arrays, dict[str, Any]]:
    """Arrays and facts. No more memory than the file has bytes, as `save` compresses nothing."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError
    if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
        raise ValueError
    file.seek(0)
    with warnings.catch_warnings(), np.load(file, allow_pickle=False) as saved:
        warnings.simplefilter("error")  # of headers that `save` does not write
        arrays: _Arrays = dict(saved)
    facts = json.loads(str(arrays.pop(FACTS)[()]))
    for array in arrays.values():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError
    return arrays, facts
