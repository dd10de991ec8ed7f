"""Every bold number in the answers of docs/exercises.md, computed."""

import re
from pathlib import Path

import numpy as np
import pytest

import pybptt
from pybptt import ARTBP, TBPTT, reference

PAGE = (Path(__file__).parent.parent / "docs" / "exercises.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## \d+\. .*$", PAGE, flags=re.MULTILINE)[1:]


def bold(exercise):
    """The bold numbers of an answer, in order, as the page writes them."""
    return re.findall(r"\*\*([^*]+)\*\*", SECTIONS[exercise - 1])


def assert_shown(exercise, *computed):
    """Each number is what the page shows, to as many digits as it shows."""
    shown = bold(exercise)
    assert len(shown) == len(computed), shown
    for text, value in zip(shown, computed, strict=True):
        mantissa, _, exponent = text.partition("e")
        digits = len(mantissa.partition(".")[2])
        unit = 10.0 ** (int(exponent or 0) - digits)
        assert abs(float(text) - value) <= 0.5 * unit * (1 + 1e-9), (text, value)


def pairs(T, truncation=None):
    """(loss, use) that the core's gradient has: in copy t of a linear network only loss t counts."""
    rnn = pybptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype="float64")
    rnn.flat[:] = 1.0
    _, _, tape = rnn.forward(np.ones((T, T, 1)))
    g = rnn.backward(tape, np.eye(T)[:, :, None], truncation=truncation, hidden=True)
    return {(t + 1, use + 1) for use, t in np.argwhere(g.hidden[0, :, :, 0])}


def test_1_output_layer():
    U, V, W = np.array([[1.0, -1.0]]), np.array([[1.0], [-1.0]]), np.array([[0.5]])
    x, y = np.array([0, 1]), np.array([1, 0])
    parameters = {"weight_ih_l0": U, "weight_hh_l0": W}
    states = reference.forward(parameters, x[:, None])[0].ravel()
    dLdV = pybptt.bptt(U, V, W, x, y)[1]
    assert_shown(1, *states, *dLdV.ravel())


def test_2_steps():
    def steps(T, k):
        return sum(1 for t in range(1, T + 1) for s in range(t, 0, -1) if t - s <= k)

    assert_shown(2, steps(100, 100), 100, steps(100, 4))
    assert len(pairs(100)) == steps(100, 100)
    assert len(pairs(100, TBPTT(1, 5))) == steps(100, 4)


def test_3_surviving_direction():
    rnn = pybptt.RNN(1, 2, nonlinearity="identity", bias=False, dtype="float64")
    rnn.parameters["weight_hh_l0"][:] = [[0.5, 0.3], [0.3, 0.5]]
    _, _, tape = rnn.forward(np.zeros((60, 1, 1)))
    dh = rnn.backward(tape, d_state=np.array([[[1.0, 0.0]]]), hidden=True).hidden[0, ::-1, 0]
    ratio = np.linalg.norm(dh[50]) / np.linalg.norm(dh[49])
    cosine = dh[3] @ [1, 1] / np.sqrt(2) / np.linalg.norm(dh[3])
    assert_shown(3, ratio, *dh[3], cosine)


def test_4_bounds():
    rng = np.random.default_rng(0)
    rnn = pybptt.RNN(1, 8, nonlinearity="sigmoid", bias=False, dtype="float64")
    W = rng.normal(size=(8, 8))
    rnn.parameters["weight_ih_l0"][:] = 0
    rnn.parameters["weight_hh_l0"][:] = 3 * W / np.linalg.norm(W, 2)
    bound = (0.25 * np.linalg.norm(rnn.parameters["weight_hh_l0"], 2)) ** 20
    assert_shown(4, bound)
    _, _, tape = rnn.forward(np.zeros((20, 1, 1)))
    d = rng.normal(size=(1, 1, 8))
    assert 0 < np.linalg.norm(rnn.backward(tape, d_state=d).state) <= bound * np.linalg.norm(d)


def test_5_forget_gate():
    lstm = pybptt.LSTM(1, 1, dtype="float64")
    lstm.flat[:] = 0
    lstm.parameters["bias_ih_l0"][1] = float(bold(5)[1])  # gates i f g o
    _, _, tape = lstm.forward(np.zeros((100, 1, 1)))
    zero, one = np.zeros((1, 1, 1)), np.ones((1, 1, 1))
    _, dc = lstm.backward(tape, d_state=(zero, one)).state
    assert_shown(5, dc.item(), np.log(99))


def test_6_windows():
    found = pairs(10, TBPTT(4, 6))
    assert_shown(6, *sorted(use for t, use in found if t == 5), len(found), len(pairs(10)))


def test_7_lost_losses():
    model = pybptt.SequenceModel(pybptt.RNN(2, 3), 2)
    x = np.zeros((10, 3), np.int64)
    unreached = model.loss_and_grad(x, x, truncation=TBPTT(5, 2))[1].unreached
    assert_shown(7, *sorted({t for t, _ in pairs(10, TBPTT(5, 2))}), unreached)


def test_8_full():
    listed = re.findall(r"TBPTT\((\d+), (\d+)\)", SECTIONS[7].split("<details>")[0])
    full = [pairs(10, TBPTT(int(k1), int(k2))) == pairs(10) for k1, k2 in listed]
    assert full == [True, True, True, False, False]
    assert_shown(8, full.count(True))
    assert pairs(10) - pairs(10, TBPTT(1, 9)) == {(10, 1)}


def test_9_a_rest():
    detached = {(t, use) for t, use in pairs(12) if (t - 1) // 5 == (use - 1) // 5}
    window = pairs(12, TBPTT(5, 5))
    assert_shown(9, len(detached), len(window))
    assert window - detached == {(t, use) for t in (11, 12) for use in (8, 9, 10)}


def test_10_the_mistake():
    wrong, line = re.findall(r"```python\n(.*?)```", SECTIONS[9], flags=re.DOTALL)
    lines = wrong.splitlines()
    right = "\n".join([*lines[:-2], line.rstrip("\n"), lines[-1]])

    def error(code, T, scale):
        found = {"np": np}
        exec(code, found)
        rng = np.random.default_rng(0)
        rnn = pybptt.RNN(2, 3, bias=False, dtype="float64", seed=0)
        h_0, d = scale * rng.normal(size=(1, 1, 3)), rng.normal(size=(T, 1, 3))
        output, _, tape = rnn.forward(rng.normal(size=(T, 1, 2)), h_0)
        h = np.concatenate([h_0[0], output[:, 0]])
        dW_hh = found["sweep"](rnn.parameters["weight_hh_l0"], h, np.concatenate([np.zeros((1, 3)), d[:, 0]]))
        return np.abs(dW_hh - rnn.backward(tape, d).parameters["weight_hh_l0"]).max()

    assert error(wrong, 5, 1.0) > 1e-2
    assert max(error(wrong, 1, 1.0), error(wrong, 2, 0.0)) < 1e-14
    assert min(error(wrong, 2, 1.0), error(wrong, 3, 0.0)) > 1e-2
    assert error(right, 5, 1.0) < 1e-14


def test_11_gradient_check():
    w, slope = 0.5, 1 - np.tanh(0.5) ** 2

    def error(step, central):
        below = np.tanh(w - step) if central else np.tanh(w)
        return (np.tanh(w + step) - below) / (step * (1 + central)) - slope

    one_sided, below, above = bold(11)
    assert f"{error(1e-5, False):.1e}".replace("e-0", "e-") == one_sided
    assert 1e-12 < abs(error(1e-5, True)) < float(below)
    assert abs(error(1e-11, True)) > float(above)


def test_12_memory():
    T, B, D, H = 1000, 32, 64, 256
    numbers = T * B * (H + D)
    assert_shown(12, 4 * numbers / 1e6, 5, 2 * round(np.sqrt(T)))
    assert 1 <= pybptt.RNN(D, H).tape_bytes(T, B) / (4 * numbers) < 1.15
    lstm = pybptt.LSTM(D, H).tape_bytes(T, B) / (4 * T * B * H)
    assert 6 <= lstm - D / H < 6.5


def test_13_forward_accumulation():
    H, D = 100, 50
    P = H * (D + H + 1)
    layer = pybptt.RNN(D, H)
    assert layer.flat.size - H == P  # PyTorch's layers have two biases
    assert_shown(13, P, H * P, H * H * P, H * H * P / (H * H + P))


def test_14_no_bias():
    paths = ARTBP(0.1, seed=0).factors(10, 200_000).prod(axis=0)
    survive, count, variance = map(float, bold(14))
    assert_shown(14, 0.9**10, 0.9**-10, 0.9**-10 - 1)
    n = len(paths)
    assert (paths > 0).mean() == pytest.approx(survive, abs=5 * np.sqrt(survive * (1 - survive) / n))
    assert paths.max() == pytest.approx(count, rel=1e-3)
    assert paths.mean() == pytest.approx(1, abs=5 * np.sqrt(variance / n))
    assert paths.var() == pytest.approx(variance, rel=0.02)


def test_none_is_forgotten():
    """Every exercise has a test, and every answer is folded."""
    titles = re.findall(r"^## (\d+)\. ", PAGE, flags=re.MULTILINE)
    assert titles == [str(n) for n in range(1, len(SECTIONS) + 1)]
    assert (
        PAGE.count("<details><summary>Answer</summary>\n\n") == PAGE.count("\n\n</details>") == len(SECTIONS)
    )
    names = [name for name in globals() if re.match(r"test_\d+_", name)]
    assert sorted(int(name.split("_")[1]) for name in names) == list(range(1, len(SECTIONS) + 1))
