"""See gradients vanish and explode: the norm of dL/dh_t, step by step back from the loss.

`backward(..., hidden=True)` also returns the memoised derivatives dL/dh_t. Here one loss at the last step is
sent back through 100 steps of a network whose recurrent matrix is scaled to a given spectral radius. A linear
network's gradient goes like a power of it; a tanh network's grows less, as its slopes are below 1 (Bengio,
Simard and Frasconi, Learning long-term dependencies with gradient descent is difficult, IEEE Transactions on
Neural Networks 5(2), 1994).

    python examples/vanishing_gradients.py [--plot FILE.png]
"""

import argparse

import numpy as np

import pybptt

STEPS, BATCH, HIDDEN = 100, 8, 64


def norms_over_time(radius: float, nonlinearity: str) -> np.ndarray:
    """Norm of dL/dh_t (T,), relative to that at the last step, as the mean over the batch."""
    rng = np.random.default_rng(0)
    rnn = pybptt.RNN(4, HIDDEN, nonlinearity=nonlinearity, bias=False, dtype="float64", seed=1)
    weight = rng.standard_normal((HIDDEN, HIDDEN))
    rnn.parameters["weight_hh_l0"][...] = weight * (radius / np.abs(np.linalg.eigvals(weight)).max())

    x = 0.5 * rng.standard_normal((STEPS, BATCH, 4))
    _, _, tape = rnn.forward(x)
    d_state = rng.standard_normal((1, BATCH, HIDDEN))  # dL/dh_T: the loss sees the last state only
    gradients = rnn.backward(tape, d_state=d_state, hidden=True, input=False)
    norms = np.linalg.norm(gradients.hidden[0], axis=-1).mean(axis=-1)
    return norms / norms[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the curves (needs matplotlib)")
    path = parser.parse_args().plot

    curves = {
        (nonlinearity, radius): norms_over_time(radius, nonlinearity)
        for nonlinearity in ("identity", "tanh")
        for radius in (0.8, 1.0, 1.2, 1.5)
    }
    back = [0, 10, 20, 40, 60, 80, 99]
    print("norm of dL/dh_t, relative to that at the last step")
    print("network, spectral radius" + "".join(f"{f't = T-{k}' if k else 't = T':>10}" for k in back))
    for (nonlinearity, radius), norms in curves.items():
        print(f"{nonlinearity:>15} {radius:8.1f}" + "".join(f"{norms[-1 - k]:10.1e}" for k in back))

    if path:
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        axes = figure.subplots()
        for (nonlinearity, radius), norms in curves.items():
            style = "--" if nonlinearity == "identity" else "-"
            axes.semilogy(np.arange(1, STEPS + 1), norms, style, label=f"{nonlinearity}, radius {radius}")
        axes.set(xlabel="time step t", ylabel="|dL/dh_t| / |dL/dh_T|")
        axes.legend()
        figure.savefig(path)
        print(f"drawn in {path}")


if __name__ == "__main__":
    main()
