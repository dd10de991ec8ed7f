"""Whole models and layers as ONNX files."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _core
from .._arrays import Array, flag, real_dtype, type_name
from ..files import replaced
from ..model import SequenceModel
from ..recurrent import RecurrentLayer
from .weights import to_onnx

__all__ = ["export"]

OPSET, IR_VERSION = 17, 8  # of 2022: the operators have not changed since, and older runtimes read it


def export(
    model: SequenceModel[Any] | RecurrentLayer[Any],
    path: str | os.PathLike[str],
    *,
    tokens: bool = False,
    state: bool = False,
    dtype: DTypeLike | None = None,
) -> None:
    """Writes a model or a layer as an ONNX file, which ONNX Runtime and others run.

    The file is checked by ``onnx.checker`` before it is written, whole or not at all. T and B are free. Its
    inputs and outputs are those of calling the model, by these names:

    - ``x``: (T, B, D), or (T, B) of int64 with `tokens`;
    - ``h_0`` and, of an LSTM, ``c_0``: (L K, B, H), with `state`; without it they are zero;
    - ``output``: (T, B, Q), or (B, Q) with `last_only`; of a layer (T, B, K H). There is no softmax in it;
    - ``h_T`` and, of an LSTM, ``c_T``: the final state.

    With `batch_first`, x and output are (B, T, ..) here, too. Dropout is not exported. A token out of range
    is no error there: it reads nothing.

    Parameters
    ----------
    model : SequenceModel, RNN, LSTM or GRU
    path : str or path
        As it is, so ``"model.onnx"`` with its ending. A file that is there is replaced.
    tokens : bool
        Whether x is token ids. ONNX's operators read dense input: the file makes one-hot rows of them.
    state : bool
        Whether the initial state is an input.
    dtype : {"float32", "float64"}, optional
        Of the file; the model's own if not given. ONNX Runtime (1.32) has no recurrent operators of float64,
        which ONNX itself does have: give "float32" to have a float64 model run there.

    Raises
    ------
    ImportError
        If the package onnx is not there.
    TypeError
        For something that is no model or layer, and an argument of another type.
    ValueError
        For an LSTM with a projection, which ONNX does not have; and from onnx for more than 2 GB.
    OSError
        If the file can't be written. One that was there is what it was then.

    Notes
    -----
    With ``clip``, ONNX Runtime leaves out the clipping of c_t before an LSTM's last tanh (its issue 27224),
    and so differs from the specification and from here.

    Examples
    --------
    >>> import os, tempfile
    >>> model = pybptt.SequenceModel(pybptt.GRU(65, 128, seed=0), 65, seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pybptt.onnx.export(model, os.path.join(folder, "model.onnx"), tokens=True)
    """
    layer = model.layer if isinstance(model, SequenceModel) else model
    if not isinstance(layer, RecurrentLayer):
        raise TypeError(f"model: expected a SequenceModel, an RNN, an LSTM or a GRU, got {type_name(model)}")
    tokens, state = flag("tokens", tokens), flag("state", state)
    dtype = layer.dtype if dtype is None else real_dtype(dtype)
    operators = [to_onnx(layer, index) for index in range(layer.num_layers)]  # type: ignore[arg-type]
    try:
        import onnx
    except ImportError:
        raise ImportError("onnx.export needs the package onnx: pip install 'pybptt[onnx]'") from None

    graph = _Graph(onnx, dtype)
    K, H, D = layer._directions, layer.hidden_size, layer.input_size
    turned = layer.batch_first
    graph.declare(graph.inputs, "x", ["B", "T"] if turned else ["T", "B"], None if tokens else D)
    states = ["h", "c"] if layer._has_cells else ["h"]
    y = "x"
    if tokens:  # 1 where the id is the column's
        column = graph.node("Unsqueeze", y, graph.constant(np.array([2])))
        y = graph.node("Cast", graph.node("Equal", column, graph.constant(np.arange(D))), to=graph.type)
    if turned:
        y = graph.node("Transpose", y, perm=[1, 0, 2])
    if state:
        for name in states:
            graph.declare(graph.inputs, f"{name}_0", [layer.num_layers * K, "B"], H)
    last: dict[str, list[str]] = {name: [] for name in states}
    for index, operator in enumerate(operators):
        tensors = [graph.constant(a.astype(dtype)) if a is not None else "" for a in operator[1:5]]
        W, R, B, P = tensors
        rows = [graph.constant(np.array([k])) for k in (index * K, (index + 1) * K)]
        initial = [graph.node("Slice", f"{name}_0", *rows) if state else "" for name in states]
        own = {name: value for name, value in operator.attributes.items() if name != "layout"}
        # sequence_lens is not given; P is an LSTM's last input
        inputs = [y, W, R, B, "", *initial, *([P] if layer._has_cells else [])]
        Y, *ends = graph.nodes(operator.op_type, inputs, 1 + len(states), **own)
        for name, end in zip(states, ends, strict=True):
            last[name].append(end)
        y = graph.side_by_side(Y, [0, 2, 1, 3], [0, 0, K * H])  # (T, K, B, H) to (T, B, K H)
    if isinstance(model, SequenceModel):
        if model.last_only:
            y = graph.side_by_side(last["h"][-1], [1, 0, 2], [0, K * H])  # (K, B, H) to (B, K H)
        # o_t = W_ho h_t + b_o
        weight, bias = (model.parameters[f"output.{name}"].astype(dtype) for name in ("weight", "bias"))
        y = graph.node("Add", graph.node("MatMul", y, graph.constant(weight.T)), graph.constant(bias))
        width, many = model.output_size, not model.last_only
    else:
        width, many = layer._width, True
    if turned and many:
        y = graph.node("Transpose", y, perm=[1, 0, 2])
    graph.node("Identity", y, outputs=["output"])
    graph.declare(graph.outputs, "output", (["B", "T"] if turned else ["T", "B"]) if many else ["B"], width)
    for name, ends in last.items():
        graph.node("Concat", *ends, outputs=[f"{name}_T"], axis=0)
        graph.declare(graph.outputs, f"{name}_T", [layer.num_layers * K, "B"], H)
    data = graph.model()
    with replaced(path) as file:
        file.write(data)


class _Graph:
    """An ONNX graph as it grows; values are known by their names."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self._onnx = onnx
        self.type = onnx.TensorProto.FLOAT if dtype.itemsize == 4 else onnx.TensorProto.DOUBLE
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def declare(self, where: list[Any], name: str, shape: list[str | int], last: int | None) -> None:
        """An input or output, the last axis of `last` values; of integers, if there is no such axis."""
        kind = self._onnx.TensorProto.INT64 if last is None else self.type
        shape = shape if last is None else [*shape, last]
        where.append(self._onnx.helper.make_tensor_value_info(name, kind, shape))

    def constant(self, array: Array) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def nodes(self, op_type: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        names = [f"{op_type}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self.node(op_type, *inputs, outputs=names, **attributes)
        return names

    def node(self, op_type: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any) -> str:
        names = outputs or [f"{op_type}_{len(self._nodes)}"]
        self._nodes.append(self._onnx.helper.make_node(op_type, inputs, names, **attributes))
        return names[0]

    def side_by_side(self, value: str, perm: list[int], shape: list[int]) -> str:
        """With the directions' axis moved next to the last, and merged into it; 0 is a length that stays."""
        turned = self.node("Transpose", value, perm=perm)
        return self.node("Reshape", turned, self.constant(np.array(shape)))

    def model(self) -> bytes:
        """The file, checked."""
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, "pybptt", self.inputs, self.outputs, self._constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="pybptt",
            producer_version=_core.version,
        )
        self._onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString()
        return data
