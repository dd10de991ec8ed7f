"""One Elman layer in one direction, and four ways to its gradient.

- `backward_two_loops`: from every loss back through every earlier step; O(T^2) matrix products. `bptt` is
  the same as textbooks print it, for one sequence of tokens.
- `backward`, the sweep: once back over time, carrying dh_t; O(T) products, and the one to port.
- `forward_accumulation`: dh_t/dtheta carried forward beside h_t; no way back, but H numbers per parameter.
- `finite_differences`: the loss twice for each parameter; no calculus, so none to get wrong.

`loss_and_grad` takes any of them through a whole model. The arrays ``h``, ``dl``, ``dh`` and ``dz`` have
T + 1 entries: ``h[t]`` is h_t and ``h[0]`` is the initial state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import Array, Gradients, Parameters, dense_input, floats, ids, one_of, rows
from .activations import phi, phi_prime
from .losses import cross_entropy, loss_and_upstream


class Tape(NamedTuple):
    """What `forward` keeps so that a backward pass can run: copies of its arguments, and all states."""

    parameters: dict[str, Array]  # the layer's: not those of the output layer
    x: Array  # (T, B, D); for token ids the one-hot vectors that they stand for
    h: Array  # (T + 1, B, H): h_0 .. h_T
    nonlinearity: str
    tokens: bool  # the input was token ids, by which nothing can be differentiated


def forward(
    parameters: Parameters, x: ArrayLike, state: ArrayLike | None = None, nonlinearity: str = "tanh"
) -> tuple[Array, Array, Tape]:
    """Run the recurrent network of Elman (1990), Finding structure in time, Cognitive Science 14, 179-211.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        weight_ih_l0 (H, D), weight_hh_l0 (H, H), and bias_ih_l0 (H,), bias_hh_l0 (H,) if there are biases.
        Other names, such as the output layer's, are ignored.
    x : ndarray (T, B, D) of floats, or (T, B) of integers
        Dense input, or token ids in [0, D).
    state : ndarray (1, B, H), optional
        h_0; zero if not given.
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}

    Returns
    -------
    output : ndarray (T, B, H)
        h_1 .. h_T.
    state : ndarray (1, B, H)
        h_T; h_0 if T = 0.
    tape : Tape

    Examples
    --------
    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.5]]}
    >>> output, state, _ = reference.forward(parameters, [[[1.0]], [[0.0]], [[0.0]]], nonlinearity="identity")
    >>> output.ravel(), state.ravel()
    (array([1.  , 0.5 , 0.25]), array([0.25]))
    """
    D, H = np.shape(parameters["weight_ih_l0"])[-1], len(np.asarray(parameters["weight_hh_l0"]))
    shapes = {"weight_ih_l0": (H, D), "weight_hh_l0": (H, H), "bias_ih_l0": (H,), "bias_hh_l0": (H,)}
    theta = {name: floats(name, parameters[name], shapes[name]) for name in shapes if name in parameters}
    W_ih, W_hh = theta["weight_ih_l0"], theta["weight_hh_l0"]
    b = theta.get("bias_ih_l0", np.zeros(H)) + theta.get("bias_hh_l0", np.zeros(H))
    xs, tokens = dense_input(x, D)
    T, B = xs.shape[:2]
    h = np.zeros((T + 1, B, H))
    if state is not None:
        h[:1] = floats("state", state, (1, B, H))
    for t in range(1, T + 1):
        z = xs[t - 1] @ W_ih.T + h[t - 1] @ W_hh.T + b  # z_t = W_ih x_t + W_hh h_{t-1} + b,  b = b_ih + b_hh
        h[t] = phi(z, nonlinearity)  # h_t = phi(z_t)
    return h[1:].copy(), h[T:].copy(), Tape(theta, xs, h, nonlinearity, tokens)


def backward_two_loops(
    tape: Tape, d_output: ArrayLike, d_state: ArrayLike | None = None, bptt_truncate: int | None = None
) -> Gradients:
    """Send every loss back by itself, as textbooks do: O(T^2) matrix products.

    Rumelhart, Hinton, Williams (1986), Learning internal representations by error propagation, unfold the
    network in time; Williams, Zipser (1995), Gradient-based learning algorithms for recurrent networks and
    their computational complexity, truncate: their BPTT(h) has h = bptt_truncate + 1.

    Parameters
    ----------
    tape, d_output, d_state
        As for `backward`.
    bptt_truncate : int >= 0, optional
        The loss of step t goes back through the steps t, t-1, ..., max(1, t - bptt_truncate) and no further,
        and the gradients are sums over these paths alone: hidden[0, t - 1] of the losses that reach step t,
        state of those that reach step 1. Without it every loss goes back to the start.

    Examples
    --------
    h_3 = w_hh^2, so its derivative is 2 w_hh = 1: half of it from step 3, half from step 2.

    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.5]]}
    >>> _, _, tape = reference.forward(parameters, [[[1.0]], [[0.0]], [[0.0]]], nonlinearity="identity")
    >>> for k in (0, 1, None):
    ...     g = reference.backward_two_loops(tape, [[[0.0]], [[0.0]], [[1.0]]], bptt_truncate=k)
    ...     print(k, g.parameters["weight_hh_l0"], g.hidden.ravel())
    0 [[0.5]] [0. 0. 1.]
    1 [[1.]] [0.  0.5 1. ]
    None [[1.]] [0.25 0.5  1.  ]
    """
    W_ih, W_hh, x, h = tape.parameters["weight_ih_l0"], tape.parameters["weight_hh_l0"], tape.x, tape.h
    T = len(x)
    k = _steps_back(bptt_truncate, T)
    dl = _direct(h, d_output, d_state)
    dW_ih, dW_hh, db = np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros(len(W_hh))
    dx, dh = np.zeros_like(x), np.zeros_like(h)
    for t in range(T, -1, -1):  # the loss of step t; at 0 there is none, but for d_state if T = 0
        dLt_dh = dl[t]  # dL_t/dh_t
        last = max(1, t - k)
        for s in range(t, last - 1, -1):  # back through step s
            dh[s] += dLt_dh  # dh_s = sum_t dL_t/dh_s
            dLt_dz = phi_prime(h[s], tape.nonlinearity) * dLt_dh  # dL_t/dz_s = phi'(z_s) * dL_t/dh_s
            dW_hh += dLt_dz.T @ h[s - 1]  # dW_hh = sum_t sum_s dL_t/dz_s h_{s-1}^T
            dW_ih += dLt_dz.T @ x[s - 1]  # dW_ih = sum_t sum_s dL_t/dz_s x_s^T
            db += dLt_dz.sum(axis=0)  # db = sum_t sum_s dL_t/dz_s
            dx[s - 1] += dLt_dz @ W_ih  # dx_s = sum_t W_ih^T dL_t/dz_s
            dLt_dh = dLt_dz @ W_hh  # dL_t/dh_{s-1} = W_hh^T dL_t/dz_s
        if last == 1:
            dh[0] += dLt_dh  # dh_0 = sum_t dL_t/dh_0
    return Gradients(_named(tape, dW_ih, dW_hh, db), None if tape.tokens else dx, dh[:1], dh[None, 1:])


def backward(tape: Tape, d_output: ArrayLike, d_state: ArrayLike | None = None) -> Gradients:
    """Go back over time once, carrying dh_t: the memoised sweep, O(T) matrix products.

    The two loops take the same way down from every loss. Each step down is linear, so the losses can go
    together: what arrives at step t is the sum over step t's and all later losses, dh_t, and the parameters
    need no more. It is the ordered derivative of Werbos (1990), Backpropagation through time: what it does
    and how to do it, Proceedings of the IEEE 78, 1550-1560.

    Parameters
    ----------
    tape : Tape
        From `forward`.
    d_output : ndarray (T, B, H)
        dl_1 .. dl_T.
    d_state : ndarray (1, B, H), optional
        Added to dl_T, for a loss that uses the returned state too.

    Examples
    --------
    The gradient vanishes on its way back, by w_hh = 0.5 a step.

    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.5]]}
    >>> _, _, tape = reference.forward(parameters, [[[1.0]], [[0.0]], [[0.0]]], nonlinearity="identity")
    >>> g = reference.backward(tape, [[[0.0]], [[0.0]], [[1.0]]])
    >>> g.hidden.ravel(), g.parameters["weight_hh_l0"]
    (array([0.25, 0.5 , 1.  ]), array([[1.]]))
    """
    W_ih, W_hh, x, h = tape.parameters["weight_ih_l0"], tape.parameters["weight_hh_l0"], tape.x, tape.h
    T = len(x)
    dl = _direct(h, d_output, d_state)
    dh, dz = np.empty_like(h), np.empty_like(h)
    dh[T] = dl[T]  # dh_T = dl_T
    for t in range(T, 0, -1):
        dz[t] = phi_prime(h[t], tape.nonlinearity) * dh[t]  # dz_t = phi'(z_t) * dh_t
        dh[t - 1] = dl[t - 1] + dz[t] @ W_hh  # dh_{t-1} = dl_{t-1} + J_t^T dh_t, J_t = diag(phi'(z_t)) W_hh
    # The rest needs no order in time: each sum over t is one product over T B rows.
    dW_hh = rows(dz[1:]).T @ rows(h[:-1])  # dW_hh = sum_t dz_t h_{t-1}^T
    dW_ih = rows(dz[1:]).T @ rows(x)  # dW_ih = sum_t dz_t x_t^T
    db = rows(dz[1:]).sum(axis=0)  # db = sum_t dz_t
    dx = dz[1:] @ W_ih  # dx_t = W_ih^T dz_t
    return Gradients(_named(tape, dW_ih, dW_hh, db), None if tape.tokens else dx, dh[:1], dh[None, 1:])


def forward_accumulation(tape: Tape, d_output: ArrayLike, d_state: ArrayLike | None = None) -> Gradients:
    """Carry dh_t/dtheta forward and use each loss as it occurs: real-time recurrent learning.

    Put the layer's parameters in one matrix: z_t = Theta v_t, Theta = [W_ih W_hh b], v_t = (x_t, h_{t-1}, 1).
    Theta acts on h_t in step t, direct, and by what it did to h_{t-1}: dh_t/dTheta = phi'(z_t) * (direct +
    W_hh dh_{t-1}/dTheta). For small sizes only, at B H^3 (D + H + 1) products a step. The arguments are those
    of `backward`. From Williams, Zipser (1989), A learning algorithm for continually running fully recurrent
    neural networks, Neural Computation 1, 270-280: their p^i_jk is dh_dTheta[b, i, j, k] and their z is v.

    Examples
    --------
    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.5]]}
    >>> _, _, tape = reference.forward(parameters, [[[1.0]], [[0.0]], [[0.0]]], nonlinearity="identity")
    >>> g = reference.forward_accumulation(tape, [[[0.0]], [[0.0]], [[1.0]]])
    >>> g.parameters["weight_hh_l0"], g.state
    (array([[1.]]), array([[[0.125]]]))
    """
    W_hh, x, h = tape.parameters["weight_hh_l0"], tape.x, tape.h
    (T, B, D), H = x.shape, len(W_hh)
    dl = _direct(h, d_output, d_state)
    dh_dTheta = np.zeros((B, H, H, D + H + 1))  # dh_0/dTheta = 0
    dh_dh0 = np.tile(np.eye(H), (B, 1, 1))  # dh_0/dh_0 = I
    dTheta, dh0 = np.zeros((H, D + H + 1)), dl[0]
    for t in range(1, T + 1):
        slope = phi_prime(h[t], tape.nonlinearity)
        v = np.concatenate([x[t - 1], h[t - 1], np.ones((B, 1))], axis=1)  # v_t = (x_t, h_{t-1}, 1)
        direct = np.eye(H)[:, :, None] * v[:, None, None, :]  # dz_i/dTheta_jk with h_{t-1} held: [i = j] v_k
        earlier = np.einsum("il,bljk->bijk", W_hh, dh_dTheta)  # dz_t/dh_{t-1} dh_{t-1}/dTheta
        dh_dTheta = slope[:, :, None, None] * (direct + earlier)  # dh_t/dTheta = phi' * (direct + earlier)
        dh_dh0 = slope[:, :, None] * (W_hh @ dh_dh0)  # dh_t/dh_0 = phi' * W_hh dh_{t-1}/dh_0
        dTheta += np.einsum("bi,bijk->jk", dl[t], dh_dTheta)  # dL/dTheta = sum_t dl_t dh_t/dTheta
        dh0 = dh0 + np.einsum("bi,bij->bj", dl[t], dh_dh0)  # dL/dh_0 = sum_t dl_t dh_t/dh_0
    dW_ih, dW_hh, db = np.split(dTheta, [D, D + H], axis=1)  # Theta = [W_ih W_hh b]
    return Gradients(_named(tape, dW_ih, dW_hh, db[:, 0]), None, dh0[None], None)


def finite_differences(
    loss: Callable[[dict[str, Array]], float], parameters: Parameters, step: float = 1e-5
) -> dict[str, Array]:
    """Differentiate a scalar loss by central differences, by one parameter after the other.

    The loss takes a dict like `parameters` and returns a float; it is differentiated by every array in the
    dict, so a state or an input may be among them. The error is of order step^2, from the series cut off,
    plus 1e-16 |L| / step, from rounding.

    Examples
    --------
    >>> from pybptt import reference
    >>> reference.finite_differences(lambda p: float((p["w"] ** 2).sum()), {"w": [1.0, -3.0]})["w"].round(6)
    array([ 2., -6.])
    """
    point = {name: np.array(value, dtype=np.float64) for name, value in parameters.items()}
    gradients = {name: np.empty_like(theta) for name, theta in point.items()}
    for name, theta in point.items():
        for i in np.ndindex(theta.shape):
            middle = theta[i]
            theta[i] = middle + step
            above = loss(point)
            theta[i] = middle - step
            below = loss(point)
            theta[i] = middle
            gradients[name][i] = (above - below) / (2.0 * step)  # (L(theta + e) - L(theta - e)) / 2e
    return gradients


_BACKWARD: dict[str, Callable[[Tape, ArrayLike], Gradients]] = {
    "sweep": backward,
    "two_loops": backward_two_loops,
    "forward_accumulation": forward_accumulation,
}


def loss_and_grad(
    parameters: Parameters,
    x: ArrayLike,
    y: ArrayLike,
    state: ArrayLike | None = None,
    *,
    nonlinearity: str = "tanh",
    loss: str = "cross_entropy",
    reduction: str = "mean",
    last_only: bool = False,
    method: str = "sweep",
) -> tuple[float, dict[str, Array], Array]:
    """Return loss, gradients and final state of recurrent layer, output layer and loss together.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        With the names of `pybptt.SequenceModel.parameters`.
    x, state, nonlinearity, y, loss, reduction, last_only
        As for `forward` and `loss_and_upstream`.
    method : {"sweep", "two_loops", "forward_accumulation", "finite_differences"}
        How to find the gradients; it does not change what they are.

    Returns
    -------
    loss : float
    gradients : dict of str to ndarray
    state : ndarray (1, B, H)

    Examples
    --------
    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0, 2.0]], "weight_hh_l0": [[0.5]], "output.weight": [[0.0]] * 4}
    >>> x, y = [[0], [1], [0]], [[1], [2], [3]]
    >>> loss, gradients, state = reference.loss_and_grad(parameters, x, y)
    >>> round(loss, 6), list(gradients)  # four equal logits: log 4
    (1.386294, ['weight_ih_l0', 'weight_hh_l0', 'output.weight'])
    """
    one_of("method", method, (*_BACKWARD, "finite_differences"))

    def run(parameters: Parameters) -> tuple[Array, Tape, float, Array, dict[str, Array]]:
        output, h_T, tape = forward(parameters, x, state, nonlinearity)
        top = loss_and_upstream(parameters, output, y, loss=loss, reduction=reduction, last_only=last_only)
        return h_T, tape, *top

    h_T, tape, value, d_output, output_gradients = run(parameters)
    if method == "finite_differences":
        theta = {name: parameters[name] for name in (*tape.parameters, *output_gradients)}
        return value, finite_differences(lambda p: run(p)[2], theta), h_T
    return value, _BACKWARD[method](tape, d_output).parameters | output_gradients, h_T


def bptt(
    U: ArrayLike, V: ArrayLike, W: ArrayLike, x: ArrayLike, y: ArrayLike, bptt_truncate: int | None = None
) -> tuple[Array, Array, Array]:
    """Return dLdU, dLdV, dLdW the textbook's way: two nested loops, two updates of a matrix at each turn.

    s_t = tanh(U x_t + W s_{t-1}) with s_{-1} = 0, o_t = V s_t, and L is the sum over t = 0 .. T-1 of the
    cross-entropy of softmax(o_t) and y_t; no biases. It is kept naive: the speed-up is measured against it.

    Parameters
    ----------
    U, V, W : ndarrays (H, D), (Q, H), (H, H)
        Input, output and recurrent weights.
    x, y : ndarrays (T,) of integers
        Tokens in [0, D), which stand for one-hot x_t, and classes in [0, Q).
    bptt_truncate : int >= 0, optional
        Loss t goes back over the steps t, t-1, ..., max(0, t - bptt_truncate); without it to step 0.

    Examples
    --------
    >>> from pybptt import reference
    >>> U, V, W = [[1.0, -1.0]], [[1.0], [0.0]], [[0.5]]
    >>> for k in (0, 1, 2):
    ...     print(k, reference.bptt(U, V, W, [0, 1, 0], [1, 1, 0], k)[2].round(6))
    0 [[0.312714]]
    1 [[0.255547]]
    2 [[0.255547]]
    """
    T, D, Q, H = np.size(x), np.shape(U)[-1], len(np.asarray(V)), len(np.asarray(W))
    U, V, W = floats("U", U, (H, D)), floats("V", V, (Q, H)), floats("W", W, (H, H))
    x, y = ids("x", x, D, (T,)), ids("y", y, Q, (T,))
    k = _steps_back(bptt_truncate, T)
    s, do = np.zeros((T + 1, H)), np.zeros((T, Q))  # s[-1], the row after the last step, stays 0
    for t in range(T):
        s[t] = np.tanh(U[:, x[t]] + W @ s[t - 1])  # s_t = tanh(U x_t + W s_{t-1})
        do[t] = cross_entropy(V @ s[t], y[t], "sum")[1]  # do_t = softmax(V s_t) - onehot(y_t)
    dLdU, dLdV, dLdW = np.zeros_like(U), np.zeros_like(V), np.zeros_like(W)
    for t in range(T - 1, -1, -1):
        dLdV += np.outer(do[t], s[t])  # dL/dV = sum_t do_t s_t^T
        dz = (V.T @ do[t]) * (1 - s[t] ** 2)  # dL_t/dz_t = tanh'(z_t) * V^T do_t
        for r in range(t, max(0, t - k) - 1, -1):
            dLdW += np.outer(dz, s[r - 1])  # dL/dW = sum_t sum_r dL_t/dz_r s_{r-1}^T
            dLdU[:, x[r]] += dz  # dL/dU = sum_t sum_r dL_t/dz_r x_r^T
            dz = (W.T @ dz) * (1 - s[r - 1] ** 2)  # dL_t/dz_{r-1} = tanh'(z_{r-1}) * W^T dL_t/dz_r
    return dLdU, dLdV, dLdW


def _direct(h: Array, d_output: ArrayLike, d_state: ArrayLike | None) -> Array:
    """Return dl (T + 1, B, H): nothing enters at h_0, d_output from h_1 on, and d_state at h_T."""
    dl = np.zeros_like(h)
    dl[1:] = floats("d_output", d_output, h[1:].shape)
    if d_state is not None:
        dl[-1:] += floats("d_state", d_state, h[:1].shape)
    return dl


def _named(tape: Tape, dW_ih: Array, dW_hh: Array, db: Array) -> dict[str, Array]:
    """Name the gradients of the parameters there are; both biases have the same, as only their sum counts."""
    gradients = {"weight_ih_l0": dW_ih, "weight_hh_l0": dW_hh, "bias_ih_l0": db, "bias_hh_l0": db.copy()}
    return {name: gradients[name] for name in tape.parameters}


def _steps_back(bptt_truncate: int | None, T: int) -> int:
    if bptt_truncate is not None and bptt_truncate < 0:
        raise ValueError(f"bptt_truncate: expected None or at least 0, got {bptt_truncate}")
    return T if bptt_truncate is None else bptt_truncate
