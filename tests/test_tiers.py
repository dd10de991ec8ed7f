"""Every tier that this machine can run, each in a process of its own, against pybptt.reference."""

import itertools
from functools import cache, partial

import numpy as np
import pytest
from support import NONLINEARITIES, assert_close, layer_problem, model_problem, run_layer, run_python

import pybptt
from pybptt import reference

AVAILABLE = pybptt.config()["tiers_available"]
BUILT = pybptt.config()["tiers_built"]

# Every width of the last vector and of the last panel of every tier; rows of one tile, and of more than one.
SHAPES = [
    *((3, B, 3, H) for B, H in [(1, 1), (2, 2), (3, 3), (5, 4), (6, 5), (7, 7), (8, 8), (12, 9), (13, 12)]),
    *((3, B, D, H) for B, D, H in [(4, 16, 15), (11, 5, 16), (1, 17, 17), (25, 8, 23), (9, 31, 32)]),
    (2, 3, 70, 100),
    (70, 17, 5, 24),  # three chunks of time
]
# T, B, H, Q: the output layer has the rows T B in its lanes, and in blocks of 64 or 32 where Q is large.
MODELS = [
    (1, 1, 3, 1),
    (2, 3, 9, 4),
    (3, 5, 16, 8),
    (4, 4, 17, 15),
    (33, 1, 8, 16),
    (5, 9, 24, 33),
    (3, 30, 7, 8001),
]


def real(dtype):
    return "float64" if dtype == "reference" else dtype


def layer(T, B, D, H, tokens, nonlinearity, dtype):
    p = layer_problem(T, B, D, H, tokens=tokens, nonlinearity=nonlinearity, dtype=real(dtype))
    if dtype == "reference":
        output, last, tape = reference.forward(p.rnn.parameters, p.x, p.state, nonlinearity)
        g = reference.backward(tape, p.d_output, p.d_state)
    else:
        output, last, g = run_layer(p)
    return output, last, g.state, g.hidden, *g.parameters.values(), *([] if tokens else [g.input])


def model(T, B, H, Q, loss, last_only, dtype):
    p = model_problem(T, B, 5, H, Q, loss=loss, last_only=last_only, dtype=real(dtype))
    if dtype == "reference":
        options = {"loss": loss, "last_only": last_only}
        value, gradients, last = reference.loss_and_grad(p.model.parameters, p.x, p.y, p.state, **options)
        output, _, _ = reference.forward(p.model.parameters, p.x, p.state)
        prediction = reference.output_layer(p.model.parameters, output[-1] if last_only else output)
        return prediction, last, value, value, *gradients.values()
    value, g, last = p.model.loss_and_grad(p.x, p.y, p.state)
    return p.model(p.x, p.state)[0], last, value, p.model.loss(p.x, p.y, p.state)[0], *g.parameters.values()


def textbook(T, D, H, Q, truncate, dtype):
    rng = np.random.default_rng([T, D, H, Q])
    U, V, W = (rng.normal(size=s) / 4 for s in ((H, D), (Q, H), (H, H)))
    x, y = rng.integers(D, size=T), rng.integers(Q, size=T)
    if dtype == "reference":
        return reference.bptt(U, V, W, x, y, truncate)
    return pybptt.bptt(*(w.astype(dtype) for w in (U, V, W)), x, y, truncate)


PROBLEMS = [
    *(partial(layer, *s, t, n) for s, t, n in itertools.product(SHAPES, (False, True), NONLINEARITIES)),
    *(
        partial(model, *s, n, t)
        for s, n, t in itertools.product(MODELS, ("cross_entropy", "mse"), (False, True))
    ),
    *(partial(textbook, 20, 7, H, 9, k) for H, k in itertools.product((3, 8, 17), (None, 0, 2))),
]


def save(dtype, path):
    """What this process's tier makes of all problems."""
    arrays = [np.asarray(a) for problem in PROBLEMS for a in problem(dtype)]
    np.savez(path, *arrays)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """results(tier, dtype): what `save` saved in a process of that tier."""

    @cache
    def run(tier, dtype):
        path = tmp_path_factory.mktemp("results") / "results.npz"
        program = """
            import sys, pybptt, test_tiers
            test_tiers.save(*sys.argv[1:])
            print(pybptt.config()["tier"])
        """
        assert run_python(program, dtype, path, PYBPTT_TIER=tier) == f"{tier}\n"
        with np.load(path) as file:
            return list(file.values())

    return run


@pytest.fixture(scope="module")
def expected():
    """Of every result: its problem, and what the reference says."""
    return [(problem, np.asarray(a)) for problem in PROBLEMS for a in problem("reference")]


@pytest.mark.parametrize("tier", AVAILABLE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tier_agrees_with_the_reference(tier, dtype, results, expected):
    """To 1e-12 in float64; in float32 to 100 u, u = 2^-24 (the figures, too, are rounded to float32)."""
    tolerance = 1e-12 if dtype == "float64" else 100 * 2**-24
    for actual, (problem, wanted) in zip(results(tier, dtype), expected, strict=True):
        assert actual.dtype == (dtype if wanted.ndim else "float64"), problem
        assert_close(actual, wanted, tolerance, floor=1.0)


@pytest.mark.parametrize("tier", AVAILABLE)
def test_the_variable_forces_a_tier(tier):
    printed = run_python("import pybptt; pybptt.show_config()", PYBPTT_TIER=tier)
    assert [line.split()[-1] for line in printed.splitlines() if line.startswith("tier in use")] == [tier]


@pytest.mark.parametrize("value", [None, ""])
def test_the_fastest_is_the_default(value):
    program = "import pybptt; print(pybptt.config()['tier'])"
    variables = {} if value is None else {"PYBPTT_TIER": value}
    assert run_python(program, **variables) == f"{AVAILABLE[-1]}\n"


def errors_with(tier):
    """What the first calls say, each, and import, which says nothing."""
    return run_python(
        """
        import numpy as np, pybptt
        ids = np.zeros(1, int)
        for call in (
            lambda: pybptt.RNN(2, 3),
            lambda: pybptt.bptt(np.eye(2), np.eye(2), np.eye(2), ids, ids),
            pybptt.config,
            pybptt.show_config,
        ):
            try:
                call()
            except RuntimeError as error:
                print(error)
        """,
        PYBPTT_TIER=tier,
    )


@pytest.mark.parametrize("tier", ["quantum", "AVX2", "avx", "avx2 "])
def test_an_unknown_tier_is_a_clear_error(tier):
    names = ", ".join(BUILT)
    assert (
        errors_with(tier)
        == 4 * f"PYBPTT_TIER: expected one of the tiers in this build ({names}), got '{tier}'\n"
    )


def test_a_tier_that_the_machine_lacks_is_a_clear_error():
    missing = [tier for tier in BUILT if tier not in AVAILABLE]
    if not missing:
        pytest.skip("this machine can run every tier of the build")
    names = ", ".join(AVAILABLE)
    for tier in missing:
        message = f"PYBPTT_TIER: expected a tier that this processor can run ({names}), got '{tier}', which"
        assert errors_with(tier) == 4 * f"{message} it cannot\n"


def test_the_slowest_tier_runs_anywhere():
    assert AVAILABLE[0] == BUILT[0] in ("baseline", "neon", "generic")
    assert [tier for tier in BUILT if tier in AVAILABLE] == AVAILABLE
