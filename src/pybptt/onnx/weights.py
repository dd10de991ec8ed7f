"""Weights of a layer to and from ONNX's operators; `pybptt.onnx` says what stands for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import DTYPES, Array, at_least, is_array, real, sequence_lengths, type_name
from ..layers import GRU, LAYERS, LSTM, RNN
from ..recurrent import RecurrentLayer

__all__ = ["Operator", "from_onnx", "load_onnx", "reverse_sequences", "to_onnx"]

Layer = RNN | LSTM | GRU

# The gates in the order of ONNX's rows, by the layer's letters: ONNX's c is our g, of a GRU its h is our n.
_GATES = {"RNN": "h", "LSTM": "iofg", "GRU": "zrn"}
_PEEPHOLES = "iof"
_ACTIVATIONS = {"RNN": ("Tanh",), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}
_NONLINEARITIES = {"Tanh": "tanh", "Relu": "relu", "Sigmoid": "sigmoid", "Affine": "identity"}
# A layer's arguments, and the attributes that stand for them.
_ATTRIBUTES = {
    "bidirectional": "direction",
    "clip": "clip",
    "coupled": "input_forget",
    "nonlinearity": "activations",
    "reset_after": "linear_before_reset",
}


class Operator(NamedTuple):
    """One operator of ONNX: what `to_onnx` returns, and `from_onnx` and `load_onnx` take.

    Attributes
    ----------
    op_type : {"RNN", "LSTM", "GRU"}
    W : ndarray, (K, G*H, D)
    R : ndarray, (K, G*H, H)
    B : ndarray, (K, 2*G*H), or None
    P : ndarray, (K, 3*H), or None
    attributes : dict of str to int, float, str or lists of them
        Always ``hidden_size`` and ``direction``; of the others those that differ from ONNX's default. It is
        what ``onnx.helper.make_node(operator.op_type, inputs, outputs, **operator.attributes)`` takes.

    Examples
    --------
    >>> operator = pybptt.onnx.to_onnx(pybptt.RNN(3, 8, nonlinearity="relu"))
    >>> operator.op_type, operator.attributes
    ('RNN', {'hidden_size': 8, 'direction': 'forward', 'activations': ['Relu']})
    """

    op_type: str
    W: Array
    R: Array
    B: Array | None
    P: Array | None
    attributes: dict[str, Any]


def to_onnx(layer: Layer, index: int = 0) -> Operator:
    """The operator of ONNX that computes one layer of a stack, its tensors copies.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    index : int
        Which of its ``num_layers`` layers. The first reads x, every other the Y of the one before it, with
        the directions' axis moved next to the last and merged into it: (T, B, K*H). Dropout is not exported.

    Returns
    -------
    Operator
        B is None if the layer has no bias, P is None if it has no peepholes.

    Raises
    ------
    TypeError, ValueError
        For something that is no layer, an LSTM with a projection, which ONNX does not have, and an index out
        of range.

    Examples
    --------
    >>> operator = pybptt.onnx.to_onnx(pybptt.GRU(3, 8, bidirectional=True, seed=0))
    >>> operator.W.shape, operator.R.shape, operator.B.shape, operator.P
    ((2, 24, 3), (2, 24, 8), (2, 48), None)
    >>> operator.attributes
    {'hidden_size': 8, 'direction': 'bidirectional', 'linear_before_reset': 1}
    """
    op_type = _op_type(layer)
    _check_index(layer, index)
    ours, theirs, parameters = _own_gates(layer), _GATES[op_type], layer.parameters
    W, R, B, P = [], [], [], []
    for end in _ends(layer, index):
        W.append(_reorder(parameters[f"weight_ih{end}"], ours, theirs))
        R.append(_reorder(parameters[f"weight_hh{end}"], ours, theirs))
        if layer.bias:
            B += [_reorder(parameters[f"bias_{side}{end}"], ours, theirs) for side in ("ih", "hh")]
        if isinstance(layer, LSTM) and layer.peephole:
            P.append(_reorder(parameters[f"weight_peephole{end}"], _own_peepholes(layer), _PEEPHOLES))
    K = len(W)
    return Operator(
        op_type,
        np.stack(W),
        np.stack(R),
        np.stack(B).reshape(K, -1) if B else None,
        np.stack(P).reshape(K, -1) if P else None,
        _attributes(layer),
    )


def from_onnx(
    op_type: str,
    W: Array,
    R: Array,
    B: Array | None = None,
    P: Array | None = None,
    *,
    hidden_size: int | None = None,
    direction: str | bytes = "forward",
    layout: int = 0,
    linear_before_reset: int = 0,
    input_forget: int = 0,
    clip: float | None = None,
    activations: Sequence[str | bytes] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
) -> RecurrentLayer[Any]:
    """A layer that computes what an operator of ONNX computes.

    Parameters
    ----------
    op_type : {"RNN", "LSTM", "GRU"}
    W : ndarray, (K, G*H, D), of float32 or float64
    R : ndarray, (K, G*H, H), of W's dtype, like the others
    B : ndarray, (K, 2*G*H), optional
        The layer has a bias if it is given.
    P : ndarray, (K, 3*H), optional
        LSTM only: the layer has peepholes if it is given.
    hidden_size, direction, layout, linear_before_reset, input_forget, clip
        The operator's attributes, with ONNX's defaults; strings may be bytes. So for a node of a model they
        are ``{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}``.
    activations, activation_alpha, activation_beta
        Likewise; alpha and beta are read for Affine alone.

    Returns
    -------
    RNN, LSTM or GRU
        Of one layer and of W's dtype.

    Raises
    ------
    TypeError, ValueError
        For arrays of another dtype or shape, and for operators that no layer can compute: those of
        ``direction="reverse"`` (see `reverse_sequences`) and of other activations.

    Examples
    --------
    >>> W, R = np.ones((1, 24, 3), dtype=np.float32), np.zeros((1, 24, 8), dtype=np.float32)
    >>> gru = pybptt.onnx.from_onnx("GRU", W, R, linear_before_reset=1)
    >>> gru.reset_after, gru.bias, gru.parameters["weight_ih_l0"].shape
    (True, False, (24, 3))
    """
    options = _options(
        op_type, direction, linear_before_reset, input_forget, clip,
        activations, activation_alpha, activation_beta,
    )  # fmt: skip
    for name, array in (("W", W), ("R", R)):
        if is_array(name, array, "float32 or float64").ndim != 3:
            raise ValueError(f"{name}: expected 3 axes, got shape {array.shape}")
    if W.dtype not in DTYPES.values():
        raise TypeError(
            f"W: expected dtype float32 or float64, got {W.dtype}; convert with W.astype(np.float32)"
        )
    if op_type == "LSTM":
        options["peephole"] = P is not None
    layer = LAYERS[op_type](
        W.shape[2],
        R.shape[2] if hidden_size is None else hidden_size,
        bias=B is not None,
        batch_first=_flag("layout", layout),
        dtype=W.dtype,
        seed=0,
        **options,
    )
    _load(layer, 0, W, R, B, P)
    return layer


def load_onnx(
    layer: Layer,
    op_type: str,
    W: Array,
    R: Array,
    B: Array | None = None,
    P: Array | None = None,
    *,
    index: int = 0,
    hidden_size: int | None = None,
    direction: str | bytes = "forward",
    layout: int = 0,
    linear_before_reset: int = 0,
    input_forget: int = 0,
    clip: float | None = None,
    activations: Sequence[str | bytes] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
) -> None:
    """Copies an operator's tensors into one layer of a stack: several operators make one stack.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    op_type, W, R, B, P
        As for `from_onnx`. Without B the layer's biases become zero, without P its peephole weights; B for
        a layer without bias and P for one without peepholes are an error.
    index : int
        Which of the layer's ``num_layers`` layers to load into.
    hidden_size, direction, layout, linear_before_reset, input_forget, clip
        As for `from_onnx`. The layer must have been made for them; only `layout`, which says nothing of
        the weights, is not compared with its ``batch_first``.
    activations, activation_alpha, activation_beta
        Likewise.

    Raises
    ------
    TypeError, ValueError
        As for `from_onnx`, and for an operator that computes something else than the layer. The layer has not
        been changed then.

    Examples
    --------
    >>> first, second = (pybptt.onnx.to_onnx(pybptt.RNN(D, 8)) for D in (3, 8))
    >>> stack = pybptt.RNN(3, 8, num_layers=2)
    >>> pybptt.onnx.load_onnx(stack, *first[:5], index=0)
    >>> pybptt.onnx.load_onnx(stack, *second[:5], index=1)
    """
    expected = _op_type(layer)
    options = _options(
        op_type, direction, linear_before_reset, input_forget, clip,
        activations, activation_alpha, activation_beta,
    )  # fmt: skip
    if op_type != expected:
        raise ValueError(f"op_type: expected {expected!r} for this layer, got {op_type!r}")
    _flag("layout", layout)
    if hidden_size not in (None, layer.hidden_size):
        raise ValueError(f"hidden_size: expected {layer.hidden_size} for this layer, got {hidden_size}")
    for name, value in options.items():
        own = getattr(layer, name)
        # ONNX holds clip as a float32
        same = np.float32(own) == np.float32(value) if name == "clip" and own and value else own == value
        if not same:
            raise ValueError(f"{_ATTRIBUTES[name]}: means {name}={value!r}, but the layer has {name}={own!r}")
    _check_index(layer, index)
    _load(layer, index, W, R, B, P)


def reverse_sequences(x: Array, lengths: ArrayLike | None = None, *, batch_first: bool = False) -> Array:
    """Every sequence from its last step to its first; what follows its end stays (ONNX's ReverseSequence).

    This is how to run an operator of ``direction="reverse"``: imported as "forward", it is given the
    sequences reversed, and its output is reversed in turn. The states need nothing: ONNX's Y_h of a reverse
    operator is the state after the sequence's first step, and so is the layer's last one.

    Parameters
    ----------
    x : ndarray, (T, B, ...), or (B, T, ...) with `batch_first`
        Dense input, token ids or output.
    lengths : integers, (B,), each in [0, T], optional
        ONNX's sequence_lens; all are T if not given.
    batch_first : bool
        Whether the first axis of x is the batch's.

    Returns
    -------
    ndarray, shape and dtype of x
        A copy.

    Raises
    ------
    TypeError, ValueError
        For something that is no array, fewer than two axes, and lengths of another shape or out of range.

    Examples
    --------
    >>> pybptt.onnx.reverse_sequences(np.array([[1, 5], [2, 6], [3, 0]]), lengths=np.array([3, 2]))
    array([[3, 6],
           [2, 5],
           [1, 0]])
    >>> operator = pybptt.onnx.to_onnx(pybptt.RNN(3, 8, seed=0))  # say its direction were "reverse"
    >>> rnn = pybptt.onnx.from_onnx(*operator[:5], direction="forward")
    >>> x, lengths = np.ones((5, 2, 3), dtype=np.float32), np.array([5, 2])
    >>> reverse = pybptt.onnx.reverse_sequences
    >>> output, state = rnn(reverse(x, lengths), lengths=lengths)
    >>> output = reverse(output, lengths)
    """
    if is_array("x", x, "input, ids or output").ndim < 2:
        raise ValueError(f"x: expected at least 2 axes, got shape {x.shape}")
    turned = x.swapaxes(0, 1) if batch_first else x
    T, B = turned.shape[:2]
    checked = sequence_lengths(lengths, T, B)
    ends = np.full(B, T) if checked is None else checked
    t = np.arange(T)[:, None]
    found = turned[np.where(t < ends, ends - 1 - t, t), np.arange(B)]
    return found.swapaxes(0, 1) if batch_first else found


def _op_type(layer: Any) -> str:
    for op_type, kind in LAYERS.items():
        if isinstance(layer, kind):
            if isinstance(layer, LSTM) and layer.proj_size:
                raise ValueError(f"layer: ONNX's LSTM has no projection, got proj_size={layer.proj_size}")
            return op_type
    raise TypeError(f"layer: expected an RNN, LSTM or GRU, got {type_name(layer)}")


def _check_index(layer: Layer, index: int) -> None:
    if at_least("index", index, 0) >= layer.num_layers:
        raise ValueError(f"index: expected one of {layer.num_layers} layers, from 0, got {index}")


def _ends(layer: Layer, index: int) -> list[str]:
    """How the names of a layer's parameters end, for each direction."""
    return [f"_l{index}", f"_l{index}_reverse"][: 2 if layer.bidirectional else 1]


def _own_gates(layer: Layer) -> str:
    """The gates in the order of the layer's rows."""
    if isinstance(layer, LSTM):
        return "igo" if layer.coupled else "ifgo"
    return "rzn" if isinstance(layer, GRU) else "h"


def _own_peepholes(layer: LSTM) -> str:
    return "io" if layer.coupled else "ifo"


def _reorder(array: Array, given: str, wanted: str) -> Array:
    """Rows, in blocks of one gate each, from one order to another; a gate that is not given is zero."""
    blocks = dict(zip(given, np.split(array, len(given)), strict=True))
    zero = np.zeros_like(blocks[given[0]])
    return np.concatenate([blocks.get(gate, zero) for gate in wanted])


def _attributes(layer: Layer) -> dict[str, Any]:
    """The attributes that stand for a layer's arguments."""
    K = 2 if layer.bidirectional else 1
    attributes: dict[str, Any] = {
        "hidden_size": layer.hidden_size,
        "direction": "bidirectional" if layer.bidirectional else "forward",
    }
    if layer.batch_first:
        attributes["layout"] = 1
    if layer.clip is not None:
        attributes["clip"] = float(layer.clip)
    if isinstance(layer, LSTM) and layer.coupled:
        attributes["input_forget"] = 1
    if isinstance(layer, GRU) and layer.reset_after:
        attributes["linear_before_reset"] = 1
    if isinstance(layer, RNN) and layer.nonlinearity != "tanh":
        names = {nonlinearity: name for name, nonlinearity in _NONLINEARITIES.items()}
        attributes["activations"] = [names[layer.nonlinearity]] * K
        if layer.nonlinearity == "identity":
            attributes |= {"activation_alpha": [1.0] * K, "activation_beta": [0.0] * K}
    return attributes


def _flag(name: str, value: int) -> bool:
    if value not in (0, 1):
        raise ValueError(f"{name}: expected 0 or 1, got {value!r}")
    return bool(value)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _options(
    op_type: str,
    direction: str | bytes,
    linear_before_reset: int,
    input_forget: int,
    clip: float | None,
    activations: Sequence[str | bytes] | None,
    alpha: Sequence[float] | None,
    beta: Sequence[float] | None,
) -> dict[str, Any]:
    """The layer's arguments that the attributes stand for, those aside which arrays or `layout` decide."""
    if not isinstance(op_type, str) or op_type not in LAYERS:
        raise ValueError(f"op_type: expected one of {', '.join(LAYERS)}, got {op_type!r}")
    direction = _text(direction)
    if direction == "reverse":
        raise ValueError(
            "direction: no layer runs in reverse alone; import it with direction='forward', run it on "
            "pybptt.onnx.reverse_sequences(x, lengths), and reverse its output likewise"
        )
    if direction not in ("forward", "bidirectional"):
        raise ValueError(f"direction: expected 'forward' or 'bidirectional', got {direction!r}")
    options: dict[str, Any] = {"bidirectional": direction == "bidirectional", "clip": clip}
    for name, argument, kind, value in (
        ("linear_before_reset", "reset_after", "GRU", linear_before_reset),
        ("input_forget", "coupled", "LSTM", input_forget),
    ):
        if op_type == kind:
            options[argument] = _flag(name, value)
        elif value:
            raise ValueError(f"{name}: an attribute of {kind} alone, got {value!r} for {op_type}")
    nonlinearity = _nonlinearity(op_type, 2 if direction == "bidirectional" else 1, activations, alpha, beta)
    if op_type == "RNN":
        options["nonlinearity"] = nonlinearity
    return options


def _nonlinearity(
    op_type: str,
    K: int,
    activations: Sequence[str | bytes] | None,
    alpha: Sequence[float] | None,
    beta: Sequence[float] | None,
) -> str:
    """phi of an RNN; for the others it is checked that the activations are the default."""
    default = _ACTIVATIONS[op_type] * K
    if isinstance(activations, str | bytes):
        raise TypeError(f"activations: expected a sequence of names, got {type(activations).__name__}")
    names = default if activations is None else tuple(_text(name) for name in activations)
    if op_type == "RNN" and names == ("Tanh", "Tanh"):
        names = default  # ONNX's own default for RNN, whatever the direction
    if op_type != "RNN":
        if names != default:
            raise ValueError(f"activations: expected {op_type}'s default, {default}, got {names}")
        return "tanh"
    if len(names) != K:
        raise ValueError(f"activations: expected {K}, one a direction, got {names}")
    if len(set(names)) > 1:
        raise ValueError(f"activations: expected the same for both directions, got {names}")
    if names[0] not in _NONLINEARITIES:
        raise ValueError(f"activations: expected {', '.join(_NONLINEARITIES)}, got {names[0]!r}")
    if names[0] == "Affine":
        for name, values, identity in (("activation_alpha", alpha, 1), ("activation_beta", beta, 0)):
            if values is not None and any(value != identity for value in values):
                raise ValueError(f"{name}: expected {identity} for Affine, the identity, got {list(values)}")
    return _NONLINEARITIES[names[0]]


def _load(layer: Layer, index: int, W: Array, R: Array, B: Array | None, P: Array | None) -> None:
    """Writes an operator's tensors into one layer of a stack; all are checked before the first is written."""
    op_type = _op_type(layer)
    ours, theirs, dtype = _own_gates(layer), _GATES[op_type], layer.dtype
    H, ends, parameters = layer.hidden_size, _ends(layer, index), layer.parameters
    K, rows = len(ends), len(theirs) * H
    W = real("W", W, (K, rows, parameters[f"weight_ih_l{index}"].shape[1]), dtype)
    R = real("R", R, (K, rows, H), dtype)
    if B is None:
        B = np.zeros((K, 2 * rows), dtype)
    elif layer.bias:
        B = real("B", B, (K, 2 * rows), dtype)
    else:
        raise ValueError("B: expected None for a layer without bias, got an array")
    peephole = isinstance(layer, LSTM) and layer.peephole
    if P is None:
        P = np.zeros((K, len(_PEEPHOLES) * H), dtype)
    elif peephole:
        P = real("P", P, (K, len(_PEEPHOLES) * H), dtype)
    else:
        raise ValueError("P: expected None for a layer without peepholes, got an array")
    values = {}
    for k, end in enumerate(ends):
        values[f"weight_ih{end}"] = _reorder(W[k], theirs, ours)
        values[f"weight_hh{end}"] = _reorder(R[k], theirs, ours)
        if layer.bias:
            for side, b in zip(("ih", "hh"), np.split(B[k], 2), strict=True):
                values[f"bias_{side}{end}"] = _reorder(b, theirs, ours)
        if isinstance(layer, LSTM) and layer.peephole:
            values[f"weight_peephole{end}"] = _reorder(P[k], _PEEPHOLES, _own_peepholes(layer))
    for name, array in values.items():
        parameters[name][...] = array.reshape(parameters[name].shape)
