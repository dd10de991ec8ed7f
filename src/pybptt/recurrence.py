"""Recurrences and their derivatives, from the simplest one to a whole model.

- `linear_scan`, `linear_scan_backward`: a_t = b_t + c_t a_{t-1}, elementwise, in the core, as fast as memory.
- `unroll`, `sum_of_products`, `forward_accumulation`, `reverse_sweep`: S_t = f(W, S_{t-1}) for an f of one's
  own, and three ways to dS_T/dW: the chain rule written out, and the two orders in which to work it off.
- `rtrl`: the gradient of a `pybptt.SequenceModel` without a way back: memory that does not grow with T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _core
from ._arrays import DTYPES, Array, allocate, at_least, is_array, plain, real
from .gradients import Gradients, State
from .model import SequenceModel
from .reference.cells import Cell, Kept, Theta
from .reference.losses import loss_of_states
from .reference.network import _cell, _of_run

__all__ = [
    "forward_accumulation",
    "linear_scan",
    "linear_scan_backward",
    "reverse_sweep",
    "rtrl",
    "sum_of_products",
    "unroll",
]


def __dir__() -> list[str]:
    return __all__


def linear_scan(b: Array, c: Array, a0: Array | None = None, *, out: Array | None = None) -> Array:
    """a_t = b_t + c_t a_{t-1} for t = 1 .. T, elementwise.

    Written out, a_t = sum_s (prod_{r=s+1..t} c_r) b_s over s = 0 .. t, with b_0 = a_0. Each element is
    computed in the order of time, one multiplication and addition a step, so that it does not depend on the
    other columns, nor on the number of threads (which divide the columns among them). One column alone is as
    slow as its chain of operations; from a handful on memory is the limit. Denormal values, below 1.2e-38 in
    float32 and 2.3e-308 in float64, count as 0: a product of many c_r that is smaller is lost.

    Parameters
    ----------
    b, c : ndarray, (T, ...), float32 or float64
        Of the same shape and dtype; time is the first axis.
    a0 : ndarray, (...), optional
        a_0, of the same dtype; zero if not given.
    out : ndarray, (T, ...), optional
        Where the result goes: C-contiguous, and no part of the other arrays.

    Returns
    -------
    ndarray, (T, ...)
        a_1 .. a_T, at index t - 1; `out` if it was given.

    Raises
    ------
    TypeError, ValueError, MemoryError
        For another dtype or shape, an `out` that can't be written, and sizes that can't be allocated.

    Examples
    --------
    A leaky sum, a_t = b_t + a_{t-1} / 2:

    >>> b = np.array([[1.0], [0.0], [4.0]])
    >>> pybptt.recurrence.linear_scan(b, np.full((3, 1), 0.5)).ravel()
    array([1.  , 0.5 , 4.25])
    """
    b = _time_major("b", b)
    c = real("c", c, b.shape, b.dtype)
    a0 = _start(a0, b)
    if out is None:
        out = allocate(b.shape, b.dtype)
    else:
        real("out", out, b.shape, b.dtype)
        if not out.flags.carray:
            raise ValueError("out: expected an aligned, C-contiguous array that can be written")
        if any(np.may_share_memory(out, array) for array in (b, c, a0) if array is not None):
            raise ValueError("out: expected memory of its own, got that of an argument")
    _core.linear_scan(b, c, a0, out)
    return out


def linear_scan_backward(
    d_a: Array, c: Array, a: Array, a0: Array | None = None
) -> tuple[Array, Array, Array]:
    """Derivatives of a loss by b, c and a_0 of `linear_scan`, from those by a_1 .. a_T.

    The sweep is a linear recurrence, too, backwards in time:

        dL/db_t = da_t + c_{t+1} dL/db_{t+1},     dL/dc_t = dL/db_t a_{t-1},     dL/da_0 = c_1 dL/db_1

    Parameters
    ----------
    d_a : ndarray, (T, ...), float32 or float64
        The upstream gradient: by each a_t alone, not through later steps.
    c, a0 : ndarray
        As given to `linear_scan`.
    a : ndarray, (T, ...)
        What it returned.

    Returns
    -------
    d_b, d_c : ndarray, (T, ...)
        dL/db, which is at the same time the total derivative by each a_t, and dL/dc.
    d_a0 : ndarray, (...)
        dL/da_0; zero for T = 0.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `linear_scan`.

    Examples
    --------
    >>> c = np.array([[0.5], [0.25]])
    >>> a = pybptt.recurrence.linear_scan(np.ones((2, 1)), c)
    >>> d_b, d_c, d_a0 = pybptt.recurrence.linear_scan_backward(np.array([[0.0], [1.0]]), c, a)  # L = a_2
    >>> d_b.ravel(), d_c.ravel(), d_a0
    (array([0.25, 1.  ]), array([0., 1.]), array([0.125]))
    """
    d_a = _time_major("d_a", d_a)
    c = real("c", c, d_a.shape, d_a.dtype)
    a = real("a", a, d_a.shape, d_a.dtype)
    a0 = _start(a0, d_a)
    return _core.linear_scan_backward(d_a, c, a, a0)


def _time_major(name: str, value: Any) -> Array:
    array = is_array(name, value, "float32 or float64")
    if array.dtype not in DTYPES.values():
        raise TypeError(f"{name}: expected dtype float32 or float64, got {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{name}: expected shape (T, ...), got ()")
    return plain(array)


def _start(a0: Any, b: Array) -> Array | None:
    if a0 is None:
        return None
    # The last of a (T,) array is no array.
    return real("a0", np.asarray(a0) if isinstance(a0, np.generic) else a0, b.shape[1:], b.dtype)


Function = Callable[[Any, Any], Any]


def unroll(f: Function, w: Any, s0: Any, steps: int) -> list[Any]:
    """S_0 .. S_T of S_t = f(W, S_{t-1}).

    Parameters
    ----------
    f : callable
        f(W, S) is the next state.
    w : number or ndarray
        W: what all steps share.
    s0 : number or ndarray, (N,)
        S_0.
    steps : int
        T, at least 0.

    Returns
    -------
    list
        T + 1 states. Python's integers stay what they are, so that results are exact.

    Raises
    ------
    TypeError, ValueError
        If `f` can't be called, and for `steps` that are no integer of at least 0.

    Examples
    --------
    >>> pybptt.recurrence.unroll(lambda w, s: (1 + w * s) ** 2, 2, 1, 4)
    [1, 9, 361, 522729, 1092984520681]
    """
    if not callable(f):
        raise TypeError(f"f: expected a function of W and S, got {type(f).__name__}")
    states = [s0]
    for _ in range(at_least("steps", steps, 0)):
        states.append(f(w, states[-1]))  # S_t = f(W, S_{t-1})
    return states


def sum_of_products(
    f: Function, df_dw: Function, df_ds: Function, w: Any, s0: Any, steps: int
) -> tuple[Any, Any]:
    """S_T and dS_T/dW by the chain rule written out.

        dS_T/dW = sum_t (prod_{r=T..t+1} df/dS_r) df/dW_t

    where df/dS_r is df/dS at (W, S_{r-1}), and df/dW_t is df/dW at (W, S_{t-1}). W acts in every step t, and
    what it does there goes through all later ones: T^2 / 2 products. The other two ways do with T, because
    the products have factors in common.

    Parameters
    ----------
    f, w, s0, steps
        As for `unroll`.
    df_dw : callable
        df/dW (W, S): a number, or an array whose shape is that of S followed by that of W.
    df_ds : callable
        df/dS (W, S): a number, or the Jacobian matrix (N, N).

    Returns
    -------
    s : number or ndarray, (N,)
        S_T.
    gradient : number or ndarray
        dS_T/dW, of the shape of S followed by that of W.

    Raises
    ------
    TypeError, ValueError
        As for `unroll`; ValueError also for partial derivatives of another shape.

    Examples
    --------
    >>> f = lambda w, s: (1 + w * s) ** 2
    >>> df_dw, df_ds = lambda w, s: 2 * (1 + w * s) * s, lambda w, s: 2 * (1 + w * s) * w
    >>> pybptt.recurrence.sum_of_products(f, df_dw, df_ds, 2, 1, 4)
    (1092984520681, 12926834988414)
    """
    states = unroll(f, w, s0, steps)
    partials = _Partials(df_dw, df_ds, w, s0)
    gradient = partials.zero()
    for t in range(1, len(states)):
        term = partials.by_w(states[t - 1])  # df/dW_t
        for r in range(t + 1, len(states)):
            term = _times(partials.by_s(states[r - 1]), term)  # ... through each later step
        gradient = gradient + term
    return states[-1], gradient


def forward_accumulation(
    f: Function, df_dw: Function, df_ds: Function, w: Any, s0: Any, steps: int
) -> tuple[Any, Any]:
    """S_T and dS_T/dW, carried forward beside the state.

        dS_t/dW = df/dW_t + df/dS_t dS_{t-1}/dW,      dS_0/dW = 0

    Nothing of the past is kept: memory does not grow with T. Each step multiplies a matrix that is as wide as
    W. For networks it is real-time recurrent learning (Williams and Zipser 1989): `rtrl`.

    Parameters
    ----------
    f, df_dw, df_ds, w, s0, steps
        As for `sum_of_products`.

    Returns
    -------
    s, gradient
        As from `sum_of_products`.

    Raises
    ------
    TypeError, ValueError
        As for `sum_of_products`.

    Examples
    --------
    >>> f = lambda w, s: (1 + w * s) ** 2
    >>> df_dw, df_ds = lambda w, s: 2 * (1 + w * s) * s, lambda w, s: 2 * (1 + w * s) * w
    >>> pybptt.recurrence.forward_accumulation(f, df_dw, df_ds, 2, 1, 4)
    (1092984520681, 12926834988414)
    """
    unroll(f, w, s0, 0)
    partials = _Partials(df_dw, df_ds, w, s0)
    s, gradient = s0, partials.zero()
    for _ in range(at_least("steps", steps, 0)):
        gradient = partials.by_w(s) + _times(
            partials.by_s(s), gradient
        )  # dS_t/dW = df/dW_t + df/dS_t dS_{t-1}/dW
        s = f(w, s)
    return s, gradient


def reverse_sweep(
    f: Function, df_dw: Function, df_ds: Function, w: Any, s0: Any, steps: int, upstream: Any = None
) -> tuple[Any, Any]:
    """S_T and dS_T/dW, or dL/dW, by going back from the end: backpropagation through time.

        dL/dW = sum_t dS_t df/dW_t,      dS_{t-1} = dS_t df/dS_t,      dS_T = dL/dS_T

    where dS_t stands for dL/dS_t. It is as long as S is, however large W is: this is why networks are trained
    backwards. All states must be kept until then.

    Parameters
    ----------
    f, df_dw, df_ds, w, s0, steps
        As for `sum_of_products`.
    upstream : number or ndarray, (N,), optional
        dL/dS_T of a loss L. Without it each entry of S_T is a loss of its own.

    Returns
    -------
    s : number or ndarray, (N,)
        S_T.
    gradient : number or ndarray
        dS_T/dW as from `sum_of_products`, or with `upstream` dL/dW, of the shape of W.

    Raises
    ------
    TypeError, ValueError
        As for `sum_of_products`; ValueError also for an `upstream` of another shape than S.

    Examples
    --------
    >>> f = lambda w, s: (1 + w * s) ** 2
    >>> df_dw, df_ds = lambda w, s: 2 * (1 + w * s) * s, lambda w, s: 2 * (1 + w * s) * w
    >>> pybptt.recurrence.reverse_sweep(f, df_dw, df_ds, 2, 1, 4)
    (1092984520681, 12926834988414)

    Two states that feed each other, S_t = W S_{t-1}, and L the first of them after two steps:

    >>> w = np.array([[0.0, 1.0], [2.0, 0.0]])
    >>> jacobian = lambda w, s: np.einsum("ij,k->ijk", np.eye(2), s)  # dS_i/dW_jk = [i = j] S_k
    >>> s0, d_s = np.array([1.0, 3.0]), np.array([1.0, 0.0])
    >>> pybptt.recurrence.reverse_sweep(lambda w, s: w @ s, jacobian, lambda w, s: w, w, s0, 2, d_s)
    (array([2., 6.]), array([[3., 2.],
           [1., 3.]]))
    """
    states = unroll(f, w, s0, steps)
    partials = _Partials(df_dw, df_ds, w, s0)
    gradient = partials.zero()
    if upstream is None:
        d_s = np.eye(len(s0), dtype=np.asarray(s0).dtype) if np.ndim(s0) else 1
    else:
        if np.shape(upstream) != np.shape(s0):
            raise ValueError(f"upstream: expected shape {np.shape(s0)}, got {np.shape(upstream)}")
        d_s = upstream
        gradient = gradient[0] if np.ndim(s0) else gradient
    for s in reversed(states[:-1]):
        gradient = gradient + _times(d_s, partials.by_w(s))  # dL/dW += dS_t df/dW_t
        d_s = _times(d_s, partials.by_s(s))  # dS_{t-1} = dS_t df/dS_t
    return states[-1], gradient


class _Partials:
    """The two partial derivatives of a user's f at W, their shapes checked."""

    def __init__(self, df_dw: Function, df_ds: Function, w: Any, s0: Any) -> None:
        for name, function in (("df_dw", df_dw), ("df_ds", df_ds)):
            if not callable(function):
                raise TypeError(f"{name}: expected a function of W and S, got {type(function).__name__}")
        if np.ndim(s0) > 1:
            raise ValueError(f"s0: expected a number or shape (N,), got shape {np.shape(s0)}")
        self.df_dw, self.df_ds, self.w, self.s0 = df_dw, df_ds, w, s0

    def by_w(self, s: Any) -> Any:
        return self._checked("df_dw", self.df_dw(self.w, s), self.w)

    def by_s(self, s: Any) -> Any:
        return self._checked("df_ds", self.df_ds(self.w, s), self.s0)

    def zero(self) -> Any:
        """dS_0/dW; for numbers the integer 0, which keeps integers exact."""
        shape = np.shape(self.s0) + np.shape(self.w)
        return np.zeros(shape, np.result_type(np.asarray(self.s0), np.asarray(self.w))) if shape else 0

    def _checked(self, name: str, value: Any, by: Any) -> Any:
        shape = np.shape(self.s0) + np.shape(by)
        if np.shape(value) != shape:
            raise ValueError(
                f"{name}: expected shape {shape}, that of S and what it is taken by; got {np.shape(value)}"
            )
        return value


def _times(left: Any, right: Any) -> Any:
    """The product of numbers or Jacobians: a sum over the left one's last axis and the right one's first."""
    return np.tensordot(left, right, axes=1) if np.ndim(left) else left * right


def rtrl(
    model: SequenceModel[State],
    x: Array,
    y: Array,
    state: State | None = None,
    *,
    lengths: ArrayLike | None = None,
) -> tuple[float, Gradients[State], State]:
    """Loss and gradients of a model by forward accumulation, in memory that does not grow with T.

    Real-time recurrent learning: Williams and Zipser (1989), A learning algorithm for continually running
    fully recurrent neural networks, Neural Computation 1, 270-280. Beside the state goes its derivative by
    all N parameters theta of the layers, the influence matrix dS_t/dtheta; each loss is used as it occurs:

        dS_t/dtheta = df/dtheta_t + df/dS_{t-1} dS_{t-1}/dtheta,      dL/dtheta = sum_t dl_t dh_t/dtheta

    S_t are all states of all layers, n numbers (L H; of an LSTM L (P + H)), df the partial derivatives of one
    step. The result is that of `pybptt.SequenceModel.loss_and_grad`, but a step of a sequence costs some
    n^2 N operations and the matrix n N numbers: this is plain NumPy, for small models, to learn from and to
    test with. It computes in float64, whatever the model's dtype.

    Parameters
    ----------
    model : SequenceModel
        With layers of one direction. There is no dropout.
    x, y, state, lengths
        As for `pybptt.SequenceModel.loss_and_grad`.

    Returns
    -------
    loss : float
    gradients : Gradients
        In float64; `input` and `hidden` are None: they belong to the way back.
    state : ndarray, (L, B, H), or a pair of them for an LSTM
        The final state, in float64.

    Raises
    ------
    TypeError, ValueError, IndexError, MemoryError
        As for `pybptt.SequenceModel.loss_and_grad`; TypeError if `model` is none, ValueError for two
        directions.

    Examples
    --------
    >>> model = pybptt.SequenceModel(pybptt.GRU(3, 4, dtype="float64", seed=0), 3, seed=1)
    >>> tokens = np.array([[0, 1], [2, 0], [1, 1], [0, 2]])
    >>> loss, gradients, state = pybptt.recurrence.rtrl(model, tokens[:-1], tokens[1:])
    >>> np.abs(gradients.flat - model.loss_and_grad(tokens[:-1], tokens[1:])[1].flat).max() < 1e-12
    np.True_
    """
    if not isinstance(model, SequenceModel):
        raise TypeError(f"model: expected a SequenceModel, got {type(model).__name__}")
    layer = model.layer
    if layer.bidirectional:
        raise ValueError("model: expected layers of one direction, got bidirectional=True")
    call = model._call(x, state, lengths)
    targets, scale = model._targets(y, call)
    parameters = {name: values.astype(np.float64) for name, values in model.parameters.items()}
    network = _Network(layer, parameters)
    T_b = np.full(call.batch, call.steps) if call.lengths is None else call.lengths
    L, sizes = layer.num_layers, network.sizes
    # (L, B, n / L): h, or h and c side by side
    start = np.zeros((L, call.batch, sum(sizes)))
    for part, given in zip(_parts(start, sizes), (call.h_0, call.c_0), strict=False):
        part[...] = 0 if given is None else given
    last, d_start = np.empty_like(start), np.empty_like(start)
    flat = np.zeros(model.flat.size)
    total = 0.0

    def add_loss(target: Array) -> None:
        """l_t of the sequence at work, dl_t dh_t/dtheta, and the output layer's own gradients."""
        nonlocal total
        h = network.state[-1:, : sizes[0]]  # (1, P)
        value, d_h, top, *_ = loss_of_states(parameters, h, target[None], model.loss_name, "sum")
        total += scale * value
        by_all = scale * d_h[0] @ network.influence[-1, : sizes[0]]  # dl_t dh_t/dtheta, and dl_t dh_t/dS_0
        flat[: network.size] += by_all[: network.size]
        d_start[:, b] += by_all[network.size :].reshape(L, -1)
        for name, _, place in model._layout:
            if name in top:
                flat[place] += scale * top[name].ravel()

    for b in range(call.batch):
        network.begin(start[:, b])
        d_start[:, b] = 0
        for t in range(1, T_b[b] + 1):
            x_t = call.x[t - 1, b]
            network.step(np.asarray(x_t, np.float64) if call.x.ndim == 3 else np.eye(layer.input_size)[x_t])
            if not model.last_only:
                add_loss(targets[t - 1, b])
        if model.last_only:
            add_loss(targets[b])
        last[:, b] = network.state
    d_state = layer._as_state(*_parts(d_start, sizes))
    gradients = Gradients(flat, model._layout, input=None, state=d_state, hidden=None)
    return total, gradients, layer._as_state(*_parts(last, sizes))


def _parts(states: Array, sizes: tuple[int, ...]) -> list[Array]:
    """Views of h, or of h and c, that stand side by side on the last axis."""
    return np.split(states, np.cumsum(sizes)[:-1], axis=-1)


class _Network:
    """One sequence's states, and their influence matrix: by all parameters and by the initial state."""

    def __init__(self, layer: Any, parameters: dict[str, Array]) -> None:
        self.cell: Cell = _cell(layer._cell, **layer._options(), clip=layer.clip)
        self.sizes = self.cell.sizes(layer.hidden_size)
        self.size = layer.flat.size  # N
        self.suffixes = [f"_l{k}" for k in range(layer.num_layers)]
        self.theta = [_of_run(self.cell, parameters, suffix, layer.hidden_size) for suffix in self.suffixes]
        self.places = {name: place for name, _, place in layer._layout}

    def begin(self, state: Array) -> None:
        """S_0 (L, n / L): dS_0/dtheta = 0, dS_0/dS_0 = I."""
        n = state.size
        self.state = state.copy()
        self.influence = np.zeros((*state.shape, self.size + n))
        self.influence[..., self.size :] = np.eye(n).reshape(*state.shape, n)

    def step(self, x: Array) -> None:
        """One step of all layers; a layer reads the h_t of the one below."""
        P = self.sizes[0]
        v, dv = x, np.zeros((len(x), self.influence.shape[-1]))  # x_t depends on no parameter
        for k, theta in enumerate(self.theta):
            before = tuple(_parts(self.state[k : k + 1], self.sizes))
            now, kept = self.cell.forward_step(theta, v[None], before)
            by_input, by_state, by_theta = self._partials(k, kept)
            # dS_t/dtheta = df/dtheta + df/dS dS_{t-1}/dtheta + df/dv dv_t/dtheta
            self.influence[k] = by_theta + by_state @ self.influence[k] + by_input @ dv
            self.state[k] = np.concatenate(now, axis=-1)
            v, dv = self.state[k, :P], self.influence[k, :P]

    def _partials(self, k: int, kept: Kept) -> tuple[Array, Array, Array]:
        """df/dv, df/dS and df/dtheta of a step of layer k: row i is the step back of the i-th unit vector."""
        rows: list[tuple[Array, Array, Array]] = []
        for unit in np.eye(sum(self.sizes)):
            d_now = tuple(_parts(unit[None], self.sizes))
            d_v, d_before, added, _ = self.cell.backward_step(self.theta[k], kept, d_now)
            rows.append((d_v[0], np.concatenate(d_before, axis=-1)[0], self._in_columns(k, added)))
        by_input, by_state, by_theta = (np.stack(parts) for parts in zip(*rows, strict=True))
        return by_input, by_state, by_theta

    def _in_columns(self, k: int, added: Theta) -> Array:
        """The gradients of layer k's parameters at their places among those of all."""
        row = np.zeros(self.influence.shape[-1])
        for name, gradient in added.items():
            if name + self.suffixes[k] in self.places:  # not a bias that the layer does not have
                row[self.places[name + self.suffixes[k]]] = gradient.ravel()
        return row
