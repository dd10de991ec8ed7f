"""One step (T = 1, B = 1) of an LSTM on one thread, from NumPy to NumPy: packed weights and calls that pack.

`python benchmarks/steps.py` prints the table; PyTorch and ONNX Runtime are left out where they are missing.
"""

from __future__ import annotations

import os

import machine

for variable in machine.THREAD_VARIABLES:
    os.environ[variable] = "1"
machine.pin(1)

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402

import pybptt  # noqa: E402

SIZES = ((64, 128), (128, 512))  # D, H
TOLERANCE = 1e-6
TURNS, TURN_SECONDS = 40, 0.005


def with_torch(lstm: pybptt.LSTM, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> dict[str, Callable]:
    import torch

    D, H = lstm.input_size, lstm.hidden_size
    values = {name: torch.from_numpy(array.copy()) for name, array in lstm.parameters.items()}
    layer, cell = torch.nn.LSTM(D, H), torch.nn.LSTMCell(D, H)
    layer.load_state_dict(values)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in values.items()})

    def run_cell() -> np.ndarray:
        with torch.inference_mode():
            return cell(torch.from_numpy(x[0]), (torch.from_numpy(h[0]), torch.from_numpy(c[0])))[0].numpy()

    def run_layer() -> np.ndarray:
        with torch.inference_mode():
            return layer(torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c)))[0].numpy()

    return {"nn.LSTMCell": run_cell, "nn.LSTM": run_layer}


def with_onnxruntime(lstm: pybptt.LSTM, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> dict[str, Callable]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    D, H = lstm.input_size, lstm.hidden_size
    operator = pybptt.onnx.to_onnx(lstm)
    weights = [numpy_helper.from_array(getattr(operator, name), name) for name in "WRB"]
    inputs = {"X": (1, 1, D), "initial_h": (1, 1, H), "initial_c": (1, 1, H)}
    outputs = {"Y": (1, 1, 1, H), "Y_h": (1, 1, H), "Y_c": (1, 1, H)}
    node = helper.make_node(
        "LSTM", ["X", "W", "R", "B", "", "initial_h", "initial_c"], list(outputs), hidden_size=H
    )
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in some.items()]
        for some in (inputs, outputs)
    ]
    graph = helper.make_graph([node], "step", *infos, initializer=weights)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return {"ONNX Runtime": lambda: session.run(None, {"X": x, "initial_h": h, "initial_c": c})[0]}


def seconds(calls: dict[str, Callable]) -> dict[str, float]:
    """The best time of each: they take turns, so that noise hits all alike."""
    best = dict.fromkeys(calls, np.inf)
    for _ in range(TURNS):
        for name, call in calls.items():
            call()
            end = time.perf_counter() + TURN_SECONDS
            while (start := time.perf_counter()) < end:
                call()
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    pybptt.set_num_threads(1)
    for D, H in SIZES:
        lstm = pybptt.LSTM(D, H, seed=0)
        x, h, c = (np.random.default_rng(0).standard_normal((1, 1, n), dtype=np.float32) for n in (D, H, H))
        weights = np.ones(4 * H * (D + H), np.float32)
        run = lstm.packed()
        calls = {
            "reading W": weights.max,  # as fast as NumPy can
            "pybptt, packed": lambda run=run, x=x, h=h, c=c: run(x, (h, c))[0],
            "pybptt": lambda lstm=lstm, x=x, h=h, c=c: lstm(x, (h, c))[0],
        }
        for others in (with_torch, with_onnxruntime):
            try:
                calls |= others(lstm, x, h, c)
            except ImportError as error:
                print(f"without {error.name}")
        for name, call in list(calls.items())[2:]:
            error = np.abs(np.asarray(call()).ravel() - run(x, (h, c))[0].ravel()).max()
            assert error < TOLERANCE, f"{name}: h is off by {error}"
        found = seconds(calls)
        print(f"LSTM, D = {D}, H = {H} ({weights.nbytes / 1e6:.1f} MB of weights)")
        for name, value in found.items():
            print(f"    {name:16}{value * 1e6:9.1f} us{value / found['pybptt, packed']:8.2f}")


if __name__ == "__main__":
    main()
