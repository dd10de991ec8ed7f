"""Parameters by name, as views into one flat vector."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from ._arrays import Array, real

Layout = list[tuple[str, tuple[int, ...], slice]]


def layout_of(shapes: dict[str, tuple[int, ...]]) -> Layout:
    """Where each named array lies in the flat vector."""
    layout: Layout = []
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        layout.append((name, shape, slice(start, stop)))
        start = stop
    return layout


def views(flat: Array, layout: Layout) -> dict[str, Array]:
    """The named arrays, as views into the flat vector."""
    return {name: flat[place].reshape(shape) for name, shape, place in layout}


def _parameter(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A value that `FlatParameters.load_parameters` was given, checked: an array, or what turns into one."""
    if isinstance(value, np.ndarray) or not hasattr(value, "__array__"):
        return real(name, value, shape, dtype)
    if hasattr(value, "detach"):  # PyTorch's; one that it differentiates by turns into an array only detached
        if str(value.dtype) != f"torch.{dtype.name}":
            convert = f"convert with {name}.to(torch.{dtype.name})"
            raise TypeError(f"{name}: expected dtype {dtype.name}, got {value.dtype}; {convert}")
        value = value.detach()
    return real(name, np.asarray(value), shape, dtype)


def expect_settable(thing: Any, name: str) -> None:
    """An AttributeError for what nothing would read; users' subclasses have names of their own."""
    kind = type(thing)
    if not kind.__module__.startswith("pybptt.") or isinstance(getattr(kind, name, None), property):
        return
    public = [n for n in dir(thing) if not n.startswith("_") and not callable(getattr(kind, n, None))]
    near = difflib.get_close_matches(name, public, 1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(public)}"
    raise AttributeError(f"{name}: {kind.__name__} has no attribute of this name to set; {hint}")


class FlatParameters:
    """What a layer and a model have in common: `flat`, `parameters`, `extra`, `save`, `summary`."""

    dtype: np.dtype[Any]
    _layout: Layout
    _extra: dict[str, Any]
    _fixed: ClassVar[frozenset[str]] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and name in vars(self):
            raise AttributeError(
                f"{name}: expected to stay {getattr(self, name)!r}, got {value!r}; make a new one"
            )
        if not name.startswith("_") and "_flat" in vars(self) and name not in vars(self):
            if name in self._parameters:
                raise AttributeError(f"{name}: a parameter is set in place: parameters[{name!r}][:] = values")
            expect_settable(self, name)
        super().__setattr__(name, value)

    def _hold(self, flat: Array) -> None:
        """Makes `flat` the memory of the parameters; a model gives its layer a part of the model's own."""
        self._flat = flat
        self._parameters = views(flat, self._layout)

    @property
    def flat(self) -> Array:
        """All parameters, one vector. Assigning to it copies the values into the same memory."""
        return self._flat

    @flat.setter
    def flat(self, values: Array) -> None:
        if values is not self._flat:
            self._flat[:] = real("flat", values, self._flat.shape, self.dtype)

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters by name: views into `flat`; to set one, ``parameters[name][:] = values``."""
        return MappingProxyType(self._parameters)

    @property
    def extra(self) -> dict[str, Any]:
        """What the user keeps with it, such as a vocabulary: a dict, which `save` writes, too.

        A model and its layer have one and the same. Assigning to it copies the items into it.
        """
        return self._extra

    @extra.setter
    def extra(self, values: dict[str, Any]) -> None:
        if not isinstance(values, dict):
            raise TypeError(f"extra: expected a dict, got {type(values).__name__}")
        items = list(values.items())
        self._extra.clear()
        self._extra.update(items)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it to one file, for `pybptt.load`: options, parameters and `extra`.

        The file is written whole or not at all, and is the same for the same model. `pybptt.files` describes
        its format. A process that is killed meanwhile leaves what it had written beside it, in a file of the
        same name with 16 digits and ``.tmp`` behind it, which may be deleted.

        Parameters
        ----------
        path : str or path
            As it is, so ``"model.npz"`` with its ending. A file that is there is replaced.

        Raises
        ------
        OSError
            If the file can't be written. One that was there is what it was then.
        TypeError, ValueError
            For something in `extra` that is neither an array of numbers or text, alone or in dicts, nor given
            back by JSON as it was (lists, dicts with str for keys, str, finite numbers, bool, None; tuples
            come back as lists); and for a class of your own, whose attributes would be lost.

        Examples
        --------
        >>> import os, tempfile
        >>> lstm = pybptt.LSTM(3, 8, peephole=True, seed=0)
        >>> lstm.extra = {"units": "mV", "scale": np.array([0.5, 2.0, 1.0])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "lstm.npz")
        ...     lstm.save(path)
        ...     same = pybptt.load(path)
        >>> same.peephole, same.extra
        (True, {'units': 'mV', 'scale': array([0.5, 2. , 1. ])})
        """
        from .files import save  # it knows all that can be saved, which come from here

        save(self, path)

    def summary(self, steps: int | None = None, batch: int | None = None, *, tokens: bool = False) -> str:
        """A report to be printed: layers, directions, parameters, and the memory that T and B will take.

        Parameters
        ----------
        steps, batch : int, optional
            T and B; both or neither.
        tokens : bool
            Whether the input will be token ids.

        Returns
        -------
        str

        Raises
        ------
        TypeError, ValueError, MemoryError
            For an argument of another type, or out of range.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.LSTM(65, 128, 2, seed=0), 65, seed=1)
        >>> for line in model.summary().splitlines()[1:]:
        ...     print(line)
                   input    output     parameters
        LSTM 0        65       128         99,840
        LSTM 1       128       128        132,096
        output       128        65          8,385
        in all        65        65        240,321
        The parameters take 961.3 kB.
        >>> report = model.summary(1000, 8, tokens=True)  # the table of `memory` follows
        """
        from .summary import summary  # as `save`: not needed before

        return summary(self, steps, batch, tokens)

    def load_parameters(self, mapping: Mapping[str, Any], prefix: str = "") -> None:
        """Copies in parameters by name: a PyTorch ``state_dict``, another layer's `parameters`, a .npz file.

        Parameters
        ----------
        mapping : mapping of str to ndarray
            All of `parameters`, in any order, of their shapes and dtype. PyTorch's tensors will do as well.
            The other way, ``{name: torch.from_numpy(array) for name, array in rnn.parameters.items()}`` is
            what a PyTorch module's ``load_state_dict`` takes.
        prefix : str
            What the names in `mapping` begin with: with "encoder." it is ``encoder.weight_ih_l0`` that is
            copied into ``weight_ih_l0``. Names that do not begin with it are not looked at.

        Raises
        ------
        ValueError
            If a name is missing, for one that begins with `prefix` and is no parameter's, and for a wrong
            shape.
        TypeError
            For another dtype, and for something that is no array. In either case nothing has been changed.

        Examples
        --------
        >>> rnn, other = (pybptt.RNN(3, 8, seed=seed) for seed in (0, 1))
        >>> rnn.load_parameters(other.parameters)
        >>> np.array_equal(rnn.flat, other.flat)
        True
        >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8), 5)
        >>> state_dict = {f"rnn.{name}": array for name, array in rnn.parameters.items()}
        >>> model.layer.load_parameters(state_dict, prefix="rnn.")
        """
        if not isinstance(mapping, Mapping):
            raise TypeError(f"mapping: expected a mapping of names to arrays, got {type(mapping).__name__}")
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
        wanted = {prefix + name: shape for name, shape, _ in self._layout}
        given = [name for name in mapping if str(name).startswith(prefix)]
        different = {
            "missing": [name for name in wanted if name not in given],
            "unexpected": [name for name in given if name not in wanted],
        }
        if any(different.values()):
            found = [f"{what}: {', '.join(map(str, names))}" for what, names in different.items() if names]
            raise ValueError(f"mapping: {'; '.join(found)}")
        values = [
            _parameter(f"mapping[{name!r}]", mapping[name], shape, self.dtype)
            for name, shape in wanted.items()
        ]
        # They may be views of the very memory that is written to: so all are copied out of it first.
        self._flat[:] = np.concatenate([array.ravel() for array in values])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_parameters", "_network")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._hold(
            self._flat.view()
        )  # of a shallow copy the memory is the same, but not whether it can be written
