"""Is the gradient right? The analytic one against central differences of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._arrays import Array, at_least, generator, number

if TYPE_CHECKING:
    from .model import SequenceModel


def check_gradients(
    model: SequenceModel[Any],
    x: Array,
    y: Array,
    state: Any = None,
    *,
    lengths: npt.ArrayLike | None = None,
    dropout_mask: Array | None = None,
    step: float = 1e-5,
    samples: int | None = 100,
    seed: int = 0,
) -> dict[str, float]:
    """Compare the model's gradients with central differences of its loss.

    Every chosen entry p of a parameter is moved both ways, and ``(L(p + step) - L(p - step)) / (2 step)``
    compared with the gradient's entry. Each costs two evaluations of the loss.

    Parameters
    ----------
    model : SequenceModel, float64
        Its parameters are moved meanwhile, and are exactly what they were when the function ends,
        also when it ends with an error. They must not be used elsewhere in the meantime.
    x, y, state, lengths, dropout_mask
        As for `SequenceModel.loss_and_grad`. There is no dropout without a mask.
    step : float
        How far each parameter is moved. The error of the differences themselves is about
        ``step**2`` times the third derivative plus ``1e-16 * L / step``.
    samples : int or None
        At most so many entries of each parameter, chosen at random; None checks every entry.
    seed : int
        Of the choice of entries.

    Returns
    -------
    dict of str to float
        For each parameter the largest error among its chosen entries, relative to the largest entry of its
        gradient (of either estimate): 1e-10 to 1e-7 for a right gradient, of the order of 1 for a wrong one.
        Where the loss has a kink within the step, as with relu near 0, it is large for a right one too.

    Raises
    ------
    TypeError
        If the model is not float64: differences of float32 losses have few right digits.
    ValueError
        If `step` is not positive and finite, or `samples` is below 1.

    Examples
    --------
    >>> import numpy as np, pybptt
    >>> rnn = pybptt.RNN(5, 4, dtype="float64", seed=0)
    >>> model = pybptt.SequenceModel(rnn, 5, seed=1)
    >>> tokens = np.array([[0], [3], [1], [4], [2]])
    >>> errors = pybptt.check_gradients(model, tokens[:-1], tokens[1:])
    >>> max(errors.values()) < 1e-7
    True
    """
    if not isinstance(getattr(model, "flat", None), np.ndarray) or not hasattr(model, "loss_and_grad"):
        raise TypeError(f"model: expected a SequenceModel, got {type(model).__name__}")
    flat = model.flat
    if flat.dtype != np.float64:
        raise TypeError(
            f"model: expected one of dtype float64, got {flat.dtype}; make the layer with dtype='float64'"
        )
    step = number("step", step, "a positive number")
    if not 0 < step < np.inf:
        raise ValueError(f"step: expected a positive number, got {step}")
    if samples is not None:
        samples = at_least("samples", samples, 1)

    given: dict[str, Any] = {"lengths": lengths, "dropout_mask": dropout_mask}
    analytic = model.loss_and_grad(x, y, state, training=False, **given)[1].parameters
    rng = generator(seed)
    errors = {}
    before = flat.copy()
    try:
        for name, parameter in model.parameters.items():
            count = parameter.size if samples is None else min(samples, parameter.size)
            entries = rng.choice(parameter.size, count, replace=False)
            numeric = np.empty(count)
            for i, entry in enumerate(entries):
                at = np.unravel_index(entry, parameter.shape)
                value = parameter[at]
                parameter[at] = value + step
                above = model.loss(x, y, state, **given)[0]
                parameter[at] = value - step
                below = model.loss(x, y, state, **given)[0]
                parameter[at] = value
                numeric[i] = (above - below) / (2 * step)
            errors[name] = _relative_error(analytic[name], numeric, entries)
    finally:
        flat[...] = before
    return errors


def _relative_error(analytic: Array, numeric: Array, entries: Array) -> float:
    """Largest difference at the chosen entries over the largest entry; 0 if both gradients are zero there."""
    difference = np.abs(analytic.ravel()[entries] - numeric).max(initial=0.0)
    scale = max(np.abs(analytic).max(initial=0.0), np.abs(numeric).max(initial=0.0))
    return float(difference / scale) if difference else 0.0
