"""What books say of linear recurrences, computed both ways: the closed form, and the core's sweep.

- A linear network: dL/dh_t is a power of W^T times dL/dh_T; what survives is the top eigenvector.
- a_t = b_t + c_t a_{t-1}: its sum written out, and dh_T/dw of a scalar network, which is such a recurrence.
- Truncation: of 1 + w + w^2 + ... it keeps the first terms.

docs/books.md has the output.

    python examples/closed_forms.py
"""

import numpy as np

import pybptt
from pybptt.recurrence import linear_scan

STEPS = 40
EIGENVALUES = (0.9, 0.6, -0.5, 0.3)


def powers_of_w() -> None:
    """Of a network h_t = W h_{t-1} with a loss at its end alone."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(4, 4))
    W = basis @ np.diag(EIGENVALUES) @ np.linalg.inv(basis)  # W v_i = lambda_i v_i, v_i a column of basis
    survivor = np.linalg.inv(basis)[0]  # W^T u_1 = lambda_1 u_1
    survivor /= np.linalg.norm(survivor)
    rnn = pybptt.RNN(1, 4, nonlinearity="identity", bias=False, dtype="float64")
    rnn.parameters["weight_hh_l0"][:] = W
    h_0, d = rng.normal(size=(2, 1, 1, 4))
    _, _, tape = rnn.forward(np.zeros((STEPS, 1, 1)), h_0)
    g = rnn.backward(tape, d_state=d, hidden=True)

    powers = [np.linalg.matrix_power(W.T, k) for k in range(STEPS + 1)]
    sweep = g.hidden[0, ::-1, 0]  # dL/dh_{T-k}, k = 0, 1, ...
    apart = max(np.abs(sweep[k] - powers[k] @ d[0, 0]).max() for k in range(STEPS))
    dW = sum(
        np.outer(powers[STEPS - t] @ d[0, 0], np.linalg.matrix_power(W, t - 1) @ h_0[0, 0])
        for t in range(1, STEPS + 1)
    )
    apart_W = np.abs(g.parameters["weight_hh_l0"] - dW).max()
    print(f"dL/dh_(T-k) = (W^T)^k dL/dh_T and dL/dW = sum of outer products: {max(apart, apart_W) < 1e-14}")
    print("  k  |dL/dh_(T-k)|  ratio to k - 1  cosine to the top eigenvector of W^T")
    for k in (0, 1, 2, 4, 8, 16, 32):
        norm = np.linalg.norm(sweep[k])
        ratio = f"{norm / np.linalg.norm(sweep[k - 1]):.6f}" if k else ""
        print(f"{k:3} {norm:14.6f} {ratio:>15} {abs(sweep[k] @ survivor) / norm:38.6f}")
    sines = [
        np.linalg.norm(sweep[k] - (sweep[k] @ survivor) * survivor) / np.linalg.norm(sweep[k])
        for k in (30, 31)
    ]
    print(f"what is left of other directions shrinks by {sines[1] / sines[0]:.3f} a step; 0.6 / 0.9 = 0.667")


def sum_of_products() -> None:
    """a_t, and dh_T/dw of h_t = tanh(u x_t + w h_{t-1})."""
    rng = np.random.default_rng(1)
    b, c = rng.normal(size=(2, STEPS, 1))
    a = linear_scan(b, c)[-1, 0]
    written_out = sum(b[s, 0] * np.prod(c[s + 1 :, 0]) for s in range(STEPS))
    print(f"a_T = sum of b_s c_(s+1) .. c_T: {abs(a - written_out) < 1e-14}")
    constant = linear_scan(np.ones((STEPS, 1)), np.full((STEPS, 1), 0.9))[-1, 0]
    print(f"b = 1, c = 0.9: a_40 = {constant:.6f}, (1 - 0.9^40) / (1 - 0.9) = {(1 - 0.9**STEPS) / 0.1:.6f}")

    w = 0.8
    rnn = pybptt.RNN(1, 1, bias=False, dtype="float64")
    rnn.parameters["weight_ih_l0"][:], rnn.parameters["weight_hh_l0"][:] = 1.0, w
    x = rng.normal(size=(STEPS, 1, 1))
    h, _, tape = rnn.forward(x)
    by_sweep = rnn.backward(tape, d_state=np.ones((1, 1, 1))).parameters["weight_hh_l0"][0, 0]
    slope, h = 1 - h[:, 0] ** 2, h[:, 0]
    before = np.concatenate([np.zeros((1, 1)), h[:-1]])
    a = linear_scan(slope * before, slope * w)[-1, 0]  # b_t = dh_t/dw with h_{t-1} held, c_t = dh_t/dh_{t-1}
    print(f"dh_T/dw of a tanh network: {a:.9f} as a_T, {by_sweep:.9f} by the sweep")


def truncated_series() -> None:
    """dh_T/dw = sum_k w^k h_{T-1-k} of h_t = w h_{t-1} + 1, in the long run; TBPTT(T, k) has k terms."""
    w, steps = 0.9, 200
    rnn = pybptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype="float64")
    rnn.flat[:] = 1.0, w
    _, _, tape = rnn.forward(np.ones((steps, 1, 1)))
    last = np.zeros((steps, 1, 1))
    last[-1] = 1
    full = rnn.backward(tape, last).parameters["weight_hh_l0"][0, 0]
    print(f"dL/dw = {full:.4f}; 1 / (1 - w)^2 = {1 / (1 - w) ** 2:.4f}")
    print("  k   kept by TBPTT(T, k)   1 - w^k")
    for k in (1, 5, 10, 20, 50):
        g = rnn.backward(tape, last, truncation=pybptt.TBPTT(steps, k))
        print(f"{k:3} {g.parameters['weight_hh_l0'][0, 0] / full:21.4f} {1 - w**k:9.4f}")


def main() -> None:
    powers_of_w()
    print()
    sum_of_products()
    print()
    truncated_series()


if __name__ == "__main__":
    main()
