"""Models and layers in files: what `save` writes and `load` reads.

A file is a ZIP archive of entries that are not compressed, named as in NumPy's .npz, so that ``numpy.load``
reads it, too. Format 1 is:

- ``pybptt.json``: an object, in UTF-8, of at most 64 MiB. ``format`` is 1, ``version`` that of the pybptt
  that wrote the file. ``layer`` has ``cell`` ("RNN", "LSTM" or "GRU") and every argument of its constructor
  but the seed. ``model`` has those of `pybptt.SequenceModel` (output_size, loss, reduction, last_only), or is
  null for a layer alone. ``extra`` is the user's own, without its arrays.
- ``NAME.npy`` for each of `parameters`: NumPy's format 1.0, C order.
- ``extra/PLACE.npy`` for each array in ``extra``, by the names that lead to it: ``extra["a"]["b"]`` is
  ``extra/a/b.npy``.

There is no pickle in it, and nothing in it is ever executed. `load` is for files from strangers: it opens
regular files only, refuses compressed, repeated and overlapping entries, compares every size with the bytes
that are there before it allocates, and the checksum of every entry. So it takes no more than a few times the
memory that the file has bytes of arrays, and some thirty times that of its JSON, which are Python's objects.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from . import _core
from ._arrays import Array, at_least, flag, positive, unmasked
from .layers import LAYERS
from .model import SequenceModel

__all__ = ["load"]

FORMAT = 1
FACTS = "pybptt.json"
EXTRA = "extra/"
MOST_FACTS = 1 << 26  # bytes
MOST_HEADER = 1000  # bytes, of an array's shape and dtype: Python parses them, and crashes on deep ones
MOST_NAME = 1000  # characters; a ZIP archive's names have at most 65535 bytes
KINDS = "biufcSU"  # of arrays: numbers and text

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}

Path = str | os.PathLike[str]


def save(thing: Any, path: Path) -> None:
    """What `pybptt.parameters.FlatParameters.save` says."""
    import json  # not when pybptt is imported: neither is small
    import zipfile

    layer = thing.layer if isinstance(thing, SequenceModel) else thing
    if type(layer) not in LAYERS.values() or type(thing) not in (type(layer), SequenceModel):
        known = ", ".join(LAYERS)
        raise TypeError(
            f"save: expected an {known} or SequenceModel itself, got {thing!r} of {type(thing).__name__}; "
            "of a class of your own save the parameters"
        )
    arrays = dict(thing.parameters)
    facts = {
        "format": FORMAT,
        "version": _core.version,
        "layer": {"cell": type(layer).__name__, **layer._arguments()},
        "model": None if thing is layer else thing._arguments(),
        "extra": _without_arrays(thing.extra, (), arrays),
    }
    text = json.dumps(facts).encode()
    if len(text) > MOST_FACTS:
        raise ValueError(f"extra: expected at most {MOST_FACTS} bytes beside its arrays, got {len(text)}")
    with replaced(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(FACTS, "w") as entry:
            entry.write(text)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array, order="C"), (1, 0), allow_pickle=False)


def load(path: Path) -> Any:
    """The model or layer that `save` wrote to a file, with its `extra`.

    It is safe for files from strangers: there is no pickle, and no more is read or allocated than the file
    has bytes for. `pybptt.files` describes the format.

    Parameters
    ----------
    path : str or path
        A regular file.

    Returns
    -------
    SequenceModel, RNN, LSTM or GRU
        Of the same options and, to the last bit, the same parameters.

    Raises
    ------
    OSError
        If the file can't be read, or is a pipe or device.
    ValueError
        If it is not a whole file that `save` wrote, or one of a later format.
    MemoryError
        If the parameters can't be allocated.

    Examples
    --------
    >>> import dataclasses, os, tempfile
    >>> model = pybptt.SequenceModel(pybptt.GRU(4, 8, seed=0), 4, seed=1)
    >>> words = pybptt.data.Vocabulary(["the", "cat", "sat", "."])
    >>> model.extra["vocabulary"] = dataclasses.asdict(words)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.npz")
    ...     model.save(path)
    ...     same = pybptt.load(path)
    >>> pybptt.data.Vocabulary(**same.extra["vocabulary"]) == words, np.array_equal(same.flat, model.flat)
    (True, True)
    """
    name = _checked(path)
    with open_regular(name) as file:
        try:
            facts, arrays = _read(file)
            version = at_least("format", facts["format"], 1)
            thing = _made(facts, arrays) if version == FORMAT else None
        except MemoryError:
            raise
        except Exception as error:  # zipfile's and NumPy's parsers raise nearly anything
            raise ValueError(f"{name}: expected a whole file that pybptt's save wrote") from error
    if thing is None:
        raise ValueError(f"{name}: expected format {FORMAT}, got {version}, of a later version of pybptt")
    return thing


def open_regular(path: str) -> BinaryIO:
    """The file, to be read; devices and pipes, which may have no end, are an OSError."""
    wait_not = getattr(os, "O_NONBLOCK", 0)  # opening a pipe that nobody writes to would wait
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | wait_not))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(22, "it is not a regular file", path)
    return file


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, whole or not at all: whatever happens, `path` is the old file or the new one."""
    name = os.path.realpath(_checked(path))  # of a link, what it leads to
    old = os.path.exists(name) and os.stat(name)
    if old and not (stat.S_ISREG(old.st_mode) or stat.S_ISDIR(old.st_mode)):
        raise OSError(22, "it is not a regular file", os.fspath(path))  # /dev/null would be one from now on
    temporary = f"{name}.{os.urandom(8).hex()}.tmp"  # one that can be guessed could be a stranger's link
    try:
        if old:  # a directory or read-only: os.replace asks for the right to write to the folder alone
            os.close(os.open(name, os.O_WRONLY))
        with open(temporary, "xb") as file:
            if old:
                os.chmod(temporary, stat.S_IMODE(old.st_mode))  # what was private stays private
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, name)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _checked(path: Any) -> str:
    name = path if isinstance(path, str) else os.fspath(path) if hasattr(path, "__fspath__") else None
    if not isinstance(name, str):
        raise TypeError(f"path: expected a str or a path, got {type(path).__name__}")
    return name


def _without_arrays(tree: Mapping[Any, Any], above: tuple[str, ...], arrays: dict[str, Array]) -> Any:
    """The user's own facts, as JSON holds them; arrays in them go to `arrays`, by their place."""
    import json

    rest = {}
    for name, value in tree.items():
        place = (*above, name)
        shown = "extra" + "".join(f"[{part!r}]" for part in place)
        if not isinstance(name, str):
            raise TypeError(f"{shown}: expected names that are str, got {type(name).__name__}")
        if isinstance(value, np.ndarray):
            unmasked(shown, value)
            if value.dtype.kind not in KINDS:
                raise TypeError(f"{shown}: expected an array of numbers or text, got dtype {value.dtype}")
            entry = EXTRA + "/".join(place)
            if len(entry) > MOST_NAME or any(
                not part.isprintable() or not part or set(part) & set("/\\") for part in place
            ):
                raise ValueError(
                    f"{shown}: expected printable names without / and \\ above an array, "
                    f"of at most {MOST_NAME} characters in all"
                )
            arrays[entry] = value
        elif isinstance(value, dict) and any(isinstance(v, np.ndarray | dict) for v in value.values()):
            if len(place) > 100:
                raise ValueError(f"{shown}: expected at most 100 dicts in one another")
            rest[name] = _without_arrays(value, place, arrays)
        else:
            try:
                same = json.loads(json.dumps(value, allow_nan=False)) == _lists(value)
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"{shown}: expected arrays and what JSON can hold; {error}") from None
            if not same:
                raise ValueError(
                    f"{shown}: expected what JSON gives back as it was, such as dicts whose keys are str, "
                    f"got {type(value).__name__}"
                )
            rest[name] = value
    return rest


def _lists(value: Any) -> Any:
    """With lists in place of tuples, which JSON has not."""
    if isinstance(value, dict):
        return {name: _lists(part) for name, part in value.items()}
    return [_lists(part) for part in value] if isinstance(value, list | tuple) else value


def _read(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Array]]:
    """The facts, and the arrays by the names of their entries."""
    import json
    import zipfile

    def no_number(text: str) -> None:
        raise ValueError(text)

    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename for entry in entries}
        if len(names) < len(entries) or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("expected each entry once, and not compressed")
        if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
            raise ValueError("expected entries that do not overlap")
        if archive.getinfo(FACTS).file_size > MOST_FACTS:
            raise ValueError(f"{FACTS}: expected at most {MOST_FACTS} bytes")
        if any(not name.endswith(".npy") for name in names - {FACTS}):
            raise ValueError("expected arrays alone")
        facts = json.loads(archive.read(FACTS).decode(), parse_constant=no_number)
        return facts, {n.removesuffix(".npy"): _array(archive.read(n)) for n in names - {FACTS}}


def _array(data: bytes) -> Array:
    """The array of a .npy file, in the machine's byte order."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("expected .npy of version 1.0")
    if int.from_bytes(data[8:10], "little") > MOST_HEADER:
        raise ValueError(f"expected a header of at most {MOST_HEADER} bytes")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    size = len(data) - stream.tell()
    known = dtype.kind in KINDS and dtype.itemsize > 0  # of text of no bytes NumPy would make text of some
    if fortran_order or not known or dtype.itemsize * math.prod(shape) != size:
        raise ValueError("expected an array of numbers or text, as long as its shape says")
    array: Array = np.ndarray(shape, dtype, data, stream.tell())
    return array.astype(dtype.newbyteorder("="))


def _made(facts: dict[str, Any], arrays: dict[str, Array]) -> Any:
    """The model or layer; a mistake of any kind is an exception."""
    cell, model = facts["layer"].pop("cell"), facts["model"]
    parameters = {name: array for name, array in arrays.items() if not name.startswith(EXTRA)}
    found = len(parameters), sum(array.size for array in parameters.values())
    if found != _sizes(cell, model, **facts["layer"]):
        raise ValueError("expected parameters as many as the layer and model have")
    thing: Any = LAYERS[cell](**facts["layer"], seed=0)
    if model is not None:
        thing = SequenceModel(thing, **model, seed=0)
    thing.load_parameters(parameters)
    extra = facts["extra"]
    for name in arrays.keys() - parameters.keys():
        place = extra
        *above, last = name.removeprefix(EXTRA).split("/")
        for part in above:
            place = place[part]
        if last in place:
            raise ValueError(f"{name}: expected either an array or JSON")
        place[last] = arrays[name]
    thing.extra = extra
    return thing


def _sizes(
    cell: str,
    model: dict[str, Any] | None,
    *,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    bidirectional: bool,
    peephole: bool = False,
    coupled: bool = False,
    proj_size: int = 0,
    **others: Any,
) -> tuple[int, int]:
    """How many parameters there are and how many numbers in all, before anything of these sizes is made."""
    D, H, L = (positive("size", size) for size in (input_size, hidden_size, num_layers))
    K = 2 if flag("bidirectional", bidirectional) else 1
    G = GATES[cell] - flag("coupled", coupled)
    P = at_least("proj_size", proj_size, 0) or H
    biases, peepholes = 2 * flag("bias", bias), int(flag("peephole", peephole))
    weights = G * H * (D + (L - 1) * K * P + L * P)  # W_ih of all layers, and W_hh
    own = L * H * (biases * G + peepholes * (G - 1) + proj_size)
    arrays = L * (2 + biases + peepholes + (proj_size > 0))
    if model is None:
        return K * arrays, K * (weights + own)
    return K * arrays + 2, K * (weights + own) + positive("output_size", model["output_size"]) * (K * P + 1)
