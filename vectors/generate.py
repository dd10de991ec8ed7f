"""Writes the test vectors of this folder from pybptt.reference: `python vectors/generate.py`.

docs/porting.md says in which order a port needs the files, and schema.json what is in them. What is given has
two decimals, so that it can be read; everything else is as float64 gives it, and round-trips.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pybptt import recurrence, reference
from pybptt.reference.network import upstream_of_loss
from pybptt.reference.truncation import reached_losses, window_sweeps

FOLDER = Path(__file__).parent
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
Case = dict[str, Any]


class Draw:
    """Numbers of two decimals, by Python's generator: unlike NumPy's, it never changes what it draws."""

    def __init__(self, name: str) -> None:
        self.random = random.Random(name)

    def values(self, *shape: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
        drawn = [round(self.random.uniform(low, high), 2) for _ in range(int(np.prod(shape)))]
        return np.array(drawn).reshape(shape)

    def choices(self, options: list[float], *shape: int) -> np.ndarray:
        return np.array(self.random.choices(options, k=int(np.prod(shape)))).reshape(shape)

    def ids(self, size: int, *shape: int) -> np.ndarray:
        return np.array([self.random.randrange(size) for _ in range(int(np.prod(shape)))]).reshape(shape)


# ---- Networks -------------------------------------------------------------------------------------------


def network(
    name: str,
    about: str,
    cell: str,
    *,
    T: int = 3,
    B: int = 2,
    D: int = 2,
    H: int = 3,
    Q: int = 3,
    options: dict[str, Any] | None = None,
    loss: dict[str, Any] | None = None,
    tbptt: tuple[int, int] | None = None,
    pi: float | None = None,
    clip_hidden: tuple[str, float] | None = None,
    tokens: bool = False,
    bias: bool = True,
    state: bool = False,
    d_cells: bool = False,
    mask: bool = False,
    lengths: list[int] | None = None,
    given: dict[str, Any] | None = None,
) -> Case:
    """A case, drawn but for what `given` has; without a loss the upstream derivatives are drawn, too."""
    draw, options = Draw(name), options or {}
    L, K = options.get("num_layers", 1), 2 if options.get("bidirectional") else 1
    P = options.get("proj_size") or H
    G = GATES[cell] - options.get("coupled", False)
    parameters = {}
    for layer in range(L):
        for end in ("", "_reverse")[:K]:
            shapes = {"weight_ih": (G * H, D if layer == 0 else K * P), "weight_hh": (G * H, P)}
            shapes |= {"bias_ih": (G * H,), "bias_hh": (G * H,)} if bias else {}
            shapes |= {"weight_hr": (P, H)} if "proj_size" in options else {}
            shapes |= {"weight_peephole": (G - 1, H)} if options.get("peephole") else {}
            for part, shape in shapes.items():
                parameters[f"{part}_l{layer}{end}"] = draw.values(*shape)
    if loss:
        parameters["output.weight"] = draw.values(Q, K * P)
        parameters |= {"output.bias": draw.values(Q)} if bias else {}

    def states() -> dict[str, np.ndarray]:
        c = {"c": draw.values(L * K, B, H)} if cell == "lstm" else {}
        return {"h": draw.values(L * K, B, P), **c}

    drawn: dict[str, Any] = {"parameters": parameters}
    drawn["x"] = draw.ids(D, T, B) if tokens else draw.values(T, B, D)
    drawn |= {"lengths": lengths} if lengths else {}
    drawn |= {"state": states()} if state else {}
    drawn |= {"dropout_mask": draw.choices([0.0, 1.25, 2.0], L - 1, T, B, K * P)} if mask else {}
    if loss:
        shape = (B,) if loss["last_only"] else (T, B)
        drawn["y"] = draw.ids(Q, *shape) if loss["kind"] == "cross_entropy" else draw.values(*shape, Q)
    else:
        drawn["d_output"] = draw.values(T, B, K * P)
        drawn |= {"d_state": states()} if state else {}
        drawn |= {"d_cells": draw.values(L * K, T, B, H)} if d_cells else {}
    if pi:  # xi_t is 1 / pi or 0
        drawn["xi"] = draw.choices([1 / pi] * 3 + [0.0], T, B)
    sizes = {"T": T, "B": B, "D": D, "H": H, "P": P, "L": L, "K": K} | ({"Q": Q} if loss else {})
    case = {"name": name, "about": about, "kind": "network", "cell": cell, "sizes": sizes, "options": options}
    case |= {"loss": loss} if loss else {}
    case |= {"tbptt": {"k1": tbptt[0], "k2": tbptt[1]}} if tbptt else {}
    case |= {"clip_hidden": {"by": clip_hidden[0], "limit": clip_hidden[1]}} if clip_hidden else {}
    case["given"] = drawn | (given or {})
    return case | _expected(case, tbptt, clip_hidden)


def _expected(case: Case, tbptt: tuple[int, int] | None, clip_hidden: tuple[str, float] | None) -> Case:
    """What pybptt.reference makes of a case: its forward and its backward pass, in the order of the work."""
    given, loss = case["given"], case.get("loss")
    output, final, _, trace = reference.run(
        case["cell"],
        given["parameters"],
        given["x"],
        state=_pair(given.get("state")),
        lengths=given.get("lengths"),
        dropout_mask=given.get("dropout_mask"),
        **case["options"],
    )
    forward: Case = {"runs": list(_runs_forward(trace)), "output": output, "state": _named(final)}
    backward: Case = {}
    d_output, d_state = given.get("d_output"), _pair(given.get("d_state"))
    top: dict[str, np.ndarray] = {}
    if loss:
        up = upstream_of_loss(
            given["parameters"],
            output,
            final,
            trace,
            given["y"],
            loss=loss["kind"],
            reduction=loss["reduction"],
            last_only=loss["last_only"],
            reached=reached_losses(trace, *tbptt) if tbptt else None,
        )
        forward |= {"o": up.o, "loss": up.loss}
        d_output, d_state, top = up.d_output, up.d_state, up.gradients
        backward |= {"do": up.do, "d_output": d_output} | (
            {"d_state": _named(d_state)} if loss["last_only"] else {}
        )
    if tbptt:
        gradients = list(window_sweeps(trace, d_output, d_state, given.get("d_cells"), *tbptt, clip_hidden))
        total = reference.truncated_sweep(
            trace, d_output, d_state, given.get("d_cells"), k1=tbptt[0], k2=tbptt[1], clip_hidden=clip_hidden
        )
        found = reference.windows(case["sizes"]["T"], *tbptt)
        about = [{"losses": [w.losses.start, w.boundary], "uses": [w.uses.start, w.boundary]} for w in found]
        if loss and not loss["last_only"]:
            count = len(given["x"][0]) * (len(given["x"]) - sum(len(w.losses) for w in found))
            backward["unreached"] = count
    else:
        total = reference.sweep(
            trace, d_output, d_state, given.get("d_cells"), xi=given.get("xi"), clip_hidden=clip_hidden
        )
        gradients, about = [total], [{}]
    backward["sweeps"] = [
        window | {"runs": list(_runs_backward(case, trace, g))}
        for window, g in zip(about, gradients, strict=True)
    ]
    backward["parameters"] = total.parameters | top
    backward |= {} if total.input is None else {"input": total.input}
    return {"forward": forward, "backward": backward | {"state": _named(total.state), "hidden": total.hidden}}


def _runs_forward(trace: Any) -> Iterator[Case]:
    """Of each layer and direction: what its cells keep of each step, then the states."""
    T, B, K = len(trace.kept[0]), len(trace.lengths), len(trace.runs) // trace.num_layers
    for i, name in enumerate(trace.runs):
        run: Case = {"name": name}
        for t, step in enumerate(trace.kept[i]):
            has = trace.lengths > t  # sequences that have this step; the others' entries are 0
            for part, values in zip(trace.cell.kept, step, strict=True):
                run.setdefault(part, np.zeros((T, B, values.shape[1])))[t, has] = values
        for part, states in zip("hc", trace.states, strict=False):
            run[part] = states[i]
        known = {"h_prev", "c_prev"} | ({"x"} if i < K else set())  # that of the case
        known |= {"z_f"} if getattr(trace.cell, "coupled", False) else set()  # f is 1 - i
        known |= set() if getattr(trace.cell, "proj_size", 0) else {"m"}  # m is h
        yield {part: values for part, values in run.items() if part not in known}


def _runs_backward(case: Case, trace: Any, g: Any) -> Iterator[Case]:
    """Of each layer and direction: what the sweep finds at each step."""
    for name, steps in zip(trace.runs, g.steps, strict=True):
        left_out = {"dx"} if case["given"]["x"].ndim == 2 and name.startswith("_l0") else set()
        left_out |= {"dz_f"} if case["options"].get("coupled") else set()
        left_out |= set() if case["options"].get("proj_size") else {"dm"}
        yield {"name": name} | {part: values for part, values in steps.items() if part not in left_out}


def _pair(state: dict[str, np.ndarray] | None) -> Any:
    """h, or (h, c), as the reference takes it."""
    if state is None:
        return None
    return (state["h"], state["c"]) if "c" in state else state["h"]


def _named(state: Any) -> dict[str, np.ndarray]:
    """Undo `_pair`."""
    return dict(zip("hc", state, strict=True)) if isinstance(state, tuple) else {"h": state}


# ---- What is no network ---------------------------------------------------------------------------------


def textbook(name: str, about: str, truncate: int | None) -> Case:
    """The textbook's function, and what its two loops pass: dL_t/dz_r is that of the window of loss t."""
    T, D, H, Q = 4, 4, 3, 4
    draw = Draw("textbook")
    U, V, W = draw.values(H, D), draw.values(Q, H), draw.values(H, H)
    x, y = draw.ids(D, T), draw.ids(Q, T)
    parameters = {"weight_ih_l0": U, "weight_hh_l0": W, "output.weight": V}
    output, final, _, trace = reference.run("rnn", parameters, x[:, None])
    up = upstream_of_loss(
        parameters, output, final, trace, y[:, None], loss="cross_entropy", reduction="sum", last_only=False
    )
    k2 = T if truncate is None else truncate + 1
    dz = [g.steps[0]["dz"][:, 0] for g in window_sweeps(trace, up.d_output, None, None, 1, k2, None)]
    dLdU, dLdV, dLdW = reference.bptt(U, V, W, x, y, truncate)
    return {
        "name": name,
        "about": about,
        "kind": "textbook",
        "sizes": {"T": T, "D": D, "H": H, "Q": Q},
        "given": {"U": U, "V": V, "W": W, "x": x, "y": y, "bptt_truncate": truncate},
        "forward": {"s": output[:, 0], "o": up.o[:, 0], "loss": up.loss},
        "backward": {
            "do": up.do[:, 0],
            "ds": up.d_output[:, 0],
            "dz": np.array(dz),
            "dLdU": dLdU,
            "dLdV": dLdV,
            "dLdW": dLdW,
        },
    }


def scan(name: str, about: str) -> Case:
    """The linear recurrence and its gradient."""
    T, N = 4, 3
    draw = Draw(name)
    b, c, a0, d_a = draw.values(T, N), draw.values(T, N), draw.values(N), draw.values(T, N)
    a = reference.linear_scan(b, c, a0)
    d_b, d_c, d_a0 = reference.linear_scan_backward(d_a, c, a, a0)
    return {
        "name": name,
        "about": about,
        "kind": "linear_scan",
        "sizes": {"T": T, "N": N},
        "given": {"b": b, "c": c, "a0": a0, "d_a": d_a},
        "forward": {"a": a},
        "backward": {"d_b": d_b, "d_c": d_c, "d_a0": d_a0},
    }


def scalar_recurrence(
    name: str, about: str, f: Callable, df_dw: Callable, df_ds: Callable, w: int, s0: int, steps: int
) -> Case:
    """The partial derivatives of every step, and their products in both orders: two linear recurrences."""
    s = recurrence.unroll(f, w, s0, steps)
    by_w, by_s = [df_dw(w, value) for value in s[:-1]], [df_ds(w, value) for value in s[:-1]]
    forward = reference.linear_scan(by_w, by_s)  # dS_t/dW = df/dW_t + df/dS_t dS_{t-1}/dW
    at_end = [0.0] * (steps - 1) + [1.0]
    d_s, _, d_s0 = reference.linear_scan_backward(at_end, by_s, forward)  # dS_T/dS_t
    _, gradient = recurrence.reverse_sweep(f, df_dw, df_ds, w, s0, steps)
    return {
        "name": name,
        "about": about,
        "kind": "recurrence",
        "sizes": {"T": steps},
        "given": {"w": w, "s0": s0},
        "forward": {"s": s[1:], "df_dw": by_w, "df_ds": by_s, "ds_dw": forward.astype(int)},
        "backward": {"d_s": d_s.astype(int), "d_s0": int(d_s0), "d_w": gradient},
    }


# ---- The files ------------------------------------------------------------------------------------------


def _loss(kind: str, reduction: str = "sum", last_only: bool = False) -> dict[str, Any]:
    return {"kind": kind, "reduction": reduction, "last_only": last_only}


def files() -> dict[str, tuple[str, list[Case]]]:
    """All files: what each is about, and its cases."""
    cross_entropy, two_layers, both = (
        _loss("cross_entropy", "mean"),
        {"num_layers": 2},
        {"bidirectional": True},
    )
    peephole, coupled, projected = {"peephole": True}, {"coupled": True}, {"proj_size": 2}
    after = {"reset_after": True}
    scalar = {
        "parameters": {
            "weight_ih_l0": np.array([[0.5]]),  # u
            "weight_hh_l0": np.array([[0.8]]),  # w
            "output.weight": np.array([[1.5]]),  # k
        },
        "x": np.array([[[1.0]], [[-0.5]]]),
        "y": np.array([[1.0]]),
    }
    at_end = _loss("mse", last_only=True)
    one_weight_each = {"T": 2, "B": 1, "D": 1, "H": 1, "Q": 1, "bias": False, "loss": at_end, "given": scalar}
    styles = {
        (5, 5): "One window: the full gradient.",
        (1, 5): "A window for each loss, all of them back to step 1: the full gradient again.",
        (2, 4): "Windows overlap.",
        (1, 3): "Every loss goes back two steps past its own: the textbook's bptt_truncate = 2.",
        (2, 2): "Blocks, the state detached in between.",
        (3, 2): "Losses of step 1 are reached by no window and count in nothing; the mean is over all.",
        (2, 1): "No step back at all.",
    }
    ragged = {"T": 4, "B": 3}
    tbptt = {"T": 5, "loss": cross_entropy, "state": True}
    return {
        "01_scalar": (
            "Two steps, one weight each: h_t = phi(u x_t + w h_{t-1}), L = (k h_2 - y)^2. "
            "The weights u, w, k are weight_ih_l0, weight_hh_l0 and output.weight.",
            [
                network(phi, "Many to one.", "rnn", options={"nonlinearity": phi}, **one_weight_each)
                for phi in ("sigmoid", "tanh")
            ],
        ),
        "02_elman": (
            "One layer of Elman's cell; the derivatives by its output are given.",
            [
                network(phi, f"phi is {phi}.", "rnn", options={"nonlinearity": phi})
                for phi in ("tanh", "relu", "sigmoid", "identity")
            ],
        ),
        "03_loss": (
            "Elman's cell with an output layer and a loss.",
            [
                network(f"{kind}-{reduction}", about, "rnn", loss=_loss(kind, reduction))
                for kind, about in (
                    ("cross_entropy", "Softmax cross-entropy; y are classes."),
                    ("mse", "Squared error, without a factor 1/2."),
                )
                for reduction in ("sum", "mean")
            ]
            + [network("last-only", "Many to one.", "rnn", loss=_loss("cross_entropy", "mean", True))],
        ),
        "04_tokens": (
            "Token ids for input: x_t picks a column of W_ih.",
            [network("tokens", "", "rnn", D=4, Q=4, tokens=True, loss=cross_entropy)],
        ),
        "05_initial_state": (
            "h_0 is given, and dL/dh_0 is asked for; the derivative by the final state is given as well.",
            [
                network("upstream", "Derivatives are given.", "rnn", state=True),
                network("loss", "Under a loss.", "rnn", state=True, loss=cross_entropy),
            ],
        ),
        "06_textbook": (
            "The textbook's network, s_t = tanh(U[:, x_t] + W s_{t-1}) and o_t = V s_t, and its two nested "
            "loops: dz[t][r] is the derivative of the loss of step t by z_r (both count from 0).",
            [
                textbook("full", "Every loss goes back to the start.", None),
                *(
                    textbook(f"truncate-{k}", f"The loss of step t goes back to step max(0, t - {k}).", k)
                    for k in (0, 1, 2)
                ),
            ],
        ),
        "07_lstm": (
            "LSTM.",
            [
                network("lstm", "", "lstm"),
                network("state", "With d_state and derivatives by c_t.", "lstm", state=True, d_cells=True),
                network("loss", "Under a loss.", "lstm", loss=cross_entropy),
            ],
        ),
        "08_gru": (
            "Both forms of the GRU; s is W_hn h_{t-1} + b_hn in the one, r h_{t-1} in the other.",
            [
                network("reset-after", "As PyTorch and cuDNN.", "gru", options=after),
                network("reset-before", "As Cho et al. (2014).", "gru", options={"reset_after": False}),
                network("loss", "Under a loss.", "gru", options=after, state=True, loss=cross_entropy),
            ],
        ),
        "09_peephole": (
            "LSTM whose gates see the cell state. Rows of weight_peephole are p_i, p_f, p_o; z_i, z_f and "
            "z_o have their terms.",
            [network("peephole", "", "lstm", options=peephole, state=True)],
        ),
        "10_coupled": (
            "LSTM with f = 1 - i: three gates i, g, o.",
            [
                network("coupled", "", "lstm", options=coupled, state=True),
                network("peephole", "Rows are p_i, p_o.", "lstm", options=coupled | peephole, state=True),
            ],
        ),
        "11_clip": (
            "Every argument of an activation is clipped to [-clip, clip]; z is what it was before.",
            [
                network(cell, "", cell, options={"clip": 0.5} | own, state=True)
                for cell, own in (("rnn", {}), ("lstm", peephole), ("gru", after))
            ],
        ),
        "12_projection": (
            "LSTM with h_t = W_hr m_t, m_t = o tanh(c_t).",
            [network("projection", "", "lstm", options=projected, state=True)],
        ),
        "13_layers": (
            "Two layers: what the first one's states receive direct is dx of the second.",
            [
                network("rnn", "", "rnn", options=two_layers, state=True),
                network("lstm", "", "lstm", options=two_layers, state=True),
            ],
        ),
        "14_directions": (
            "Two directions: the output is both states side by side, and dL/dx a sum over both.",
            [
                network("one-layer", "", "rnn", options=both, state=True),
                network("two-layers", "", "gru", D=2, H=2, options=both | two_layers | after),
            ],
        ),
        "15_ragged": (
            "Sequences of different lengths; everything is 0 at padding, and the mean is over the targets "
            "before it.",
            [
                network(
                    "one-direction", "", "rnn", lengths=[2, 4, 1], state=True, loss=cross_entropy, **ragged
                ),
                network("two", "", "lstm", H=2, options=both, lengths=[4, 1, 3], state=True, **ragged),
                network(
                    "last-only",
                    "The loss is at each sequence's end.",
                    "gru",
                    H=2,
                    lengths=[2, 4, 1],
                    options=after,
                    loss=_loss("mse", "mean", True),
                    **ragged,
                ),
            ],
        ),
        "16_dropout": (
            "The second layer reads the first one's output times a mask, which is given.",
            [network("mask", "", "rnn", options=two_layers, mask=True)],
        ),
        "17_tbptt": (
            "TBPTT(k1, k2): one sweep for each window; gradients are their sums. A sweep's losses and uses "
            "are the first and the last step of each.",
            [
                network(f"{k1}-{k2}", about, "rnn", tbptt=(k1, k2), **tbptt)
                for (k1, k2), about in styles.items()
            ]
            + [
                network("lstm", "The carry to c is cut as well.", "lstm", H=2, tbptt=(2, 3), **tbptt),
                network("two-layers", "", "gru", H=2, options=two_layers, tbptt=(2, 3), **tbptt),
            ],
        ),
        "18_random_truncation": (
            "What step t sends to the state before it is multiplied by xi_t, which is given: 1 / pi or 0.",
            [
                network("rnn", "", "rnn", T=4, pi=0.8, state=True, loss=cross_entropy),
                network("lstm", "", "lstm", T=4, H=2, pi=0.5, state=True, loss=cross_entropy),
                network("two-layers", "", "gru", T=4, H=2, options=two_layers, pi=0.5, state=True),
            ],
        ),
        "19_clip_hidden": (
            "dh_t is clipped before step t goes back; where windows overlap, each is clipped by itself.",
            [
                network("norm", "Each sequence's dh_t to that length.", "rnn", clip_hidden=("norm", 0.5)),
                network("value", "Each entry to [-limit, limit].", "lstm", clip_hidden=("value", 0.25)),
                network("windows", "", "rnn", tbptt=(1, 3), clip_hidden=("norm", 0.1), **tbptt),
            ],
        ),
        "20_linear_scan": (
            "a_t = b_t + c_t a_{t-1}, elementwise, and its gradient for given direct derivatives d_a.",
            [scan("scan", "")],
        ),
        "21_recurrence": (
            "A scalar recurrence; df_dw and df_ds at t - 1 are the partial derivatives of step t, ds_dw is "
            "what is carried forward, and d_s, dS_T/dS_t, what is carried back.",
            [
                scalar_recurrence(
                    "square",
                    "S_t = (1 + W S_{t-1})^2, W = 2, S_0 = 1: dS_4/dW = 12926834988414.",
                    lambda w, s: (1 + w * s) ** 2,
                    lambda w, s: 2 * (1 + w * s) * s,
                    lambda w, s: 2 * (1 + w * s) * w,
                    w=2,
                    s0=1,
                    steps=4,
                )
            ],
        ),
    }


def text_of(value: Any, indent: str = "") -> str:
    """JSON that can be read: a row of numbers is one line, and so is a handful of settings."""
    if isinstance(value, np.ndarray):
        value = (value + 0).tolist()  # + 0: no zero is negative
    inside = indent + "  "
    if isinstance(value, dict) and any(isinstance(part, dict | list | np.ndarray) for part in value.values()):
        lines = [f"{inside}{json.dumps(key)}: {text_of(part, inside)}" for key, part in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(part, dict | list | np.ndarray) for part in value):
        return "[\n" + ",\n".join(inside + text_of(part, inside) for part in value) + f"\n{indent}]"
    return json.dumps(value)


def texts() -> Iterator[tuple[str, str]]:
    """Every file's name and contents."""
    for name, (about, cases) in files().items():
        yield f"{name}.json", text_of({"version": 1, "about": about, "cases": cases}) + "\n"


def main() -> None:
    for name, text in texts():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
