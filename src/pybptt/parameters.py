"""Parameters by name, as views into one flat vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

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


class FlatParameters:
    """What a layer and a model have in common: `flat` and `parameters`."""

    dtype: np.dtype[Any]
    _layout: Layout

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

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_parameters"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._hold(self._flat)
