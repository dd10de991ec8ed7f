"""pybptt.onnx: ONNX's own node tests, its own evaluation of what is exported, round trips, and errors."""

import importlib

import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as node_tests
from onnx.reference import ReferenceEvaluator
from support import assert_close, bits, run_python

import pybptt
from pybptt.onnx import from_onnx, load_onnx, reverse_sequences, to_onnx

FLAGS = (False, True)
KINDS = ("RNN", "LSTM", "GRU")
ARGUMENTS = ("input_size", "hidden_size", "num_layers", "nonlinearity", "bias", "batch_first", "dropout",
             "bidirectional", "peephole", "coupled", "reset_after", "clip", "dtype")  # fmt: skip
INPUTS = {
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
}
LAYERS = [
    *(("RNN", {"nonlinearity": phi}) for phi in ("tanh", "relu", "sigmoid", "identity")),
    *(("LSTM", {"peephole": peephole, "coupled": coupled}) for peephole in FLAGS for coupled in FLAGS),
    *(("GRU", {"reset_after": after}) for after in FLAGS),
]
# ONNX's evaluator knows tanh and the identity of an RNN, and no coupled gates.
EVALUATED = [
    (kind, options)
    for kind, options in LAYERS
    if options.get("nonlinearity") not in ("relu", "sigmoid") and not options.get("coupled")
]


def ids(value):
    return value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items())


def every(layers):
    """A test for each of these layers, in one direction and in two."""
    both = pytest.mark.parametrize("bidirectional", FLAGS)
    return lambda test: pytest.mark.parametrize(("kind", "options"), layers, ids=ids)(both(test))


def node_cases():
    """ONNX's node tests of the three operators; importing the modules that define them collects them."""
    for kind in KINDS:
        importlib.import_module(f"onnx.backend.test.case.node.{kind.lower()}")
    cases = node_tests._NodeTestCases
    return {c.name: c for c in cases if c.model.graph.node[0].op_type in KINDS}


CASES = node_cases()


def attributes_of(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def run_operator(op_type, attributes, X, W, R, B=None, sequence_lens=None, initial_h=None, initial_c=None,
                 P=None):  # fmt: skip
    """An operator's outputs Y, Y_h and (of an LSTM) Y_c, by the layer that `from_onnx` makes of it."""
    reverse = attributes.get("direction") == b"reverse"
    batch_first = bool(attributes.get("layout", 0))
    layer = from_onnx(op_type, W, R, B, P, **attributes | ({"direction": "forward"} if reverse else {}))
    assert layer.batch_first == batch_first

    def turned(x):
        return reverse_sequences(x, sequence_lens, batch_first=batch_first) if reverse else x

    zero = np.zeros((len(W), X.shape[not batch_first], R.shape[2]), X.dtype)
    states = [zero if s is None else s.swapaxes(0, 1) if batch_first else s for s in (initial_h, initial_c)]
    output, state = layer(turned(X), tuple(states) if op_type == "LSTM" else states[0], lengths=sequence_lens)
    Y = turned(output).reshape(*output.shape[:2], len(W), -1)
    state = [s.swapaxes(0, 1) if batch_first else s for s in (state if op_type == "LSTM" else (state,))]
    return [Y if batch_first else Y.swapaxes(1, 2), *state]


@pytest.mark.parametrize("name", CASES)
def test_onnx_node_tests(name):
    case = CASES[name]
    (node,) = case.model.graph.node
    named = [INPUTS[node.op_type][k] for k, given in enumerate(node.input) if given]
    wanted = [k for k, name in enumerate(node.output) if name]
    for inputs, outputs in case.data_sets:
        found = run_operator(node.op_type, attributes_of(node), **dict(zip(named, inputs, strict=True)))
        for k, expected in zip(wanted, outputs, strict=True):
            assert found[k].dtype == expected.dtype
            np.testing.assert_allclose(found[k], expected, rtol=case.rtol, atol=case.atol)


def test_the_node_tests_are_there():
    for kind in KINDS:
        names = " ".join(name for name in CASES if f"_{kind.lower()}_" in name)
        for what in ("defaults", "initial_bias", "batchwise", "reverse", "bidirectional"):
            assert what in names, (kind, what)
    assert "test_lstm_with_peepholes" in CASES
    assert {"test_gru_seq_length", "test_rnn_seq_length"} <= set(CASES)


def make(kind, D=3, H=4, num_layers=1, seed=0, dtype="float64", **options):
    return getattr(pybptt, kind)(D, H, num_layers, dtype=dtype, seed=seed, **options)


def states_for(layer, batch, seed=1):
    K = 2 if layer.bidirectional else 1
    random = np.random.default_rng(seed)
    shape = (layer.num_layers * K, batch, layer.hidden_size)
    return [random.normal(size=shape) for _ in range(2 if isinstance(layer, pybptt.LSTM) else 1)]


def evaluate(operator, X, *states):
    """What ONNX itself says that the operator computes: Y, Y_h and (of an LSTM) Y_c."""
    values = {"X": X, "W": operator.W, "R": operator.R, "B": operator.B, "P": operator.P}
    values |= dict(zip(("initial_h", "initial_c"), states, strict=False))
    values = {name: value for name, value in values.items() if value is not None}
    inputs = [name if name in values else "" for name in INPUTS[operator.op_type]]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if operator.op_type == "LSTM" else 2]
    node = onnx.helper.make_node(operator.op_type, inputs, outputs, **operator.attributes)

    def declare(name, shape):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, shape)

    graph = onnx.helper.make_graph(
        [node],
        "one",
        [declare(name, value.shape) for name, value in values.items()],
        [declare(name, [None] * (4 if name == "Y" else 3)) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    onnx.checker.check_model(model)
    return ReferenceEvaluator(model).run(None, values)


@every(EVALUATED)
@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("batch_first", FLAGS)
def test_onnx_computes_what_the_layer_does(kind, options, bias, batch_first, bidirectional):
    layer = make(kind, bias=bias, batch_first=batch_first, bidirectional=bidirectional, **options)
    X = np.random.default_rng(2).normal(size=(5, 2, 3))
    states = states_for(layer, 5 if batch_first else 2)
    output, state = layer(X, tuple(states) if kind == "LSTM" else states[0])
    turn = (lambda a: a.swapaxes(0, 1)) if batch_first else np.asarray
    Y, *last = evaluate(to_onnx(layer), X, *map(turn, states))
    Y = Y if batch_first else Y.swapaxes(1, 2)
    assert_close(output, Y.reshape(output.shape))
    for found, expected in zip(state if kind == "LSTM" else (state,), last, strict=True):
        assert_close(found, turn(expected))


@every(EVALUATED)
def test_onnx_computes_what_a_stack_does(kind, options, bidirectional):
    """An operator a layer, each reading the one before it with its directions side by side."""
    layer = make(kind, num_layers=3, bidirectional=bidirectional, **options)
    x = np.random.default_rng(2).normal(size=(6, 2, 3))
    output, _ = layer(x)
    for index in range(3):
        Y = evaluate(to_onnx(layer, index), x)[0]
        x = Y.swapaxes(1, 2).reshape(6, 2, -1)
    assert_close(output, x)


@pytest.mark.parametrize("bidirectional", FLAGS)
@pytest.mark.parametrize("peephole", FLAGS)
def test_coupled_gates_are_a_forget_gate_of_opposite_weights(peephole, bidirectional):
    """1 - sigma(z) = sigma(-z): so ONNX can compute with four gates what the coupled layer does with 3."""
    layer = make("LSTM", coupled=True, peephole=peephole, bidirectional=bidirectional)
    operator = to_onnx(layer)
    assert operator.attributes.pop("input_forget") == 1
    H = layer.hidden_size
    for array, blocks in ((operator.W, 4), (operator.R, 4), (operator.B, 8), (operator.P, 3)):
        if array is not None:
            for first in range(0, blocks, 4):  # of B: the biases of the input, then of the recurrence
                i, f = (slice((first + gate) * H, (first + gate + 1) * H) for gate in (0, 2))
                assert not array[:, f].any()
                array[:, f] = -array[:, i]
    x = np.random.default_rng(2).normal(size=(5, 2, 3))
    states = states_for(layer, 2)
    output, state = layer(x, tuple(states))
    Y, *last = evaluate(operator, x, *states)
    assert_close(output, Y.swapaxes(1, 2).reshape(output.shape))
    for found, expected in zip(state, last, strict=True):
        assert_close(found, expected)


@every(LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back(kind, options, bidirectional, dtype):
    for bias, batch_first, clip in ((True, False, None), (False, True, 0.75)):
        layer = make(kind, bidirectional=bidirectional, bias=bias, batch_first=batch_first, clip=clip,
                     dtype=dtype, **options)  # fmt: skip
        operator = to_onnx(layer)
        assert not any(a is not None and np.shares_memory(a, layer.flat) for a in operator[1:5])
        back = from_onnx(*operator[:5], **operator.attributes)
        assert type(back) is type(layer)
        assert {name: getattr(back, name, None) for name in ARGUMENTS} == {
            name: getattr(layer, name, None) for name in ARGUMENTS
        }
        assert bits(back.flat) == bits(layer.flat)
        assert bits(*to_onnx(back)[1:5]) == bits(*operator[1:5])
        assert to_onnx(back).attributes == operator.attributes


@every(LAYERS)
def test_a_stack_is_assembled_layer_by_layer(kind, options, bidirectional):
    options = options | {"num_layers": 3, "bidirectional": bidirectional, "clip": 0.1}
    layer, other = make(kind, **options), make(kind, seed=1, **options)
    for index in (2, 0, 1):
        operator = to_onnx(layer, index)
        # what a model's file says: strings as bytes, numbers as float32
        node = onnx.helper.make_node(kind, [], [], **operator.attributes)
        load_onnx(other, *operator[:5], index=index, **attributes_of(node))
        for name, array in other.parameters.items():
            assert f"_l{index}" not in name or bits(array) == bits(layer.parameters[name])
    assert bits(other.flat) == bits(layer.flat)


def test_gates_and_peepholes_are_where_the_specification_says():
    """i o f c of an LSTM, z r h of a GRU: a number a gate, followed through."""
    lstm = from_onnx(
        "LSTM",
        W=np.array([1.0, 2, 3, 4]).reshape(1, 4, 1),
        R=np.array([5.0, 6, 7, 8]).reshape(1, 4, 1),
        B=np.array([[11.0, 12, 13, 14, 15, 16, 17, 18]]),
        P=np.array([[21.0, 22, 23]]),
    )
    found = {name.removesuffix("_l0"): array.ravel().tolist() for name, array in lstm.parameters.items()}
    assert found == {
        "weight_ih": [1, 3, 4, 2],
        "weight_hh": [5, 7, 8, 6],
        "bias_ih": [11, 13, 14, 12],
        "bias_hh": [15, 17, 18, 16],
        "weight_peephole": [21, 23, 22],
    }
    gru = from_onnx("GRU", np.array([1.0, 2, 3]).reshape(1, 3, 1), np.array([4.0, 5, 6]).reshape(1, 3, 1))
    assert gru.parameters["weight_ih_l0"].ravel().tolist() == [2, 1, 3]
    assert gru.parameters["weight_hh_l0"].ravel().tolist() == [5, 4, 6]
    assert (gru.reset_after, gru.bias) == (False, False)


def test_what_an_operator_lacks_is_zero():
    layer = make("LSTM", peephole=True, seed=3)
    operator = to_onnx(make("LSTM", bias=False, seed=4))
    assert operator.B is operator.P is None
    load_onnx(layer, *operator[:5], **operator.attributes)
    for name, array in layer.parameters.items():
        assert array.any() == name.startswith(("weight_ih", "weight_hh"))


@pytest.mark.parametrize(
    ("names", "nonlinearity"),
    [(["Tanh"], "tanh"), (["Tanh", "Tanh"], "tanh"), ([b"Relu"], "relu"), (["Affine"], "identity")],
)
def test_activations(names, nonlinearity):
    W = np.ones((1, 4, 3))
    layer = from_onnx("RNN", W, np.ones((1, 4, 4)), activations=names, activation_alpha=[1.0])
    assert layer.nonlinearity == nonlinearity
    full = {"activations": ["Sigmoid", "Tanh"]}
    assert isinstance(from_onnx("GRU", np.ones((1, 12, 3)), np.ones((1, 12, 4)), **full), pybptt.GRU)


@every(LAYERS[:1] + LAYERS[4:])
def test_a_reverse_operator_is_a_forward_layer_on_reversed_sequences(kind, options, bidirectional):
    """Against the second direction of a bidirectional layer."""
    both = make(kind, bidirectional=True, **options)
    x, lengths = np.random.default_rng(5).normal(size=(6, 4, 3)), np.array([6, 0, 2, 5])
    batch_first = bidirectional  # what `every` varies
    operator = to_onnx(both)
    W, R, B, P = (None if a is None else a[1:] for a in operator[1:5])
    attributes = operator.attributes | {"direction": b"reverse", "layout": int(batch_first)}
    output, state = both(x, lengths=lengths)
    X = x.swapaxes(0, 1) if batch_first else x
    Y, *last = run_operator(kind, attributes, X, W, R, B, lengths, P=P)
    assert_close(Y[:, :, 0].swapaxes(0, 1) if batch_first else Y[:, 0], output[:, :, 4:])
    for found, expected in zip(last, state if kind == "LSTM" else (state,), strict=True):
        assert_close(found.swapaxes(0, 1) if batch_first else found, expected[1:])


def test_reverse_sequences_is_its_own_inverse():
    x = np.random.default_rng(0).normal(size=(7, 3, 2))
    for lengths in (None, np.array([7, 0, 3], dtype=np.uint8)):
        found = reverse_sequences(x, lengths)
        assert bits(reverse_sequences(found, lengths)) == bits(x)
        assert bits(found.swapaxes(0, 1)) == bits(
            reverse_sequences(x.swapaxes(0, 1), lengths, batch_first=True)
        )
    assert bits(reverse_sequences(x)) == bits(x[::-1])
    assert bits(found[:, 1]) == bits(x[:, 1])
    assert reverse_sequences(np.zeros((0, 2))).shape == (0, 2)


OPERATOR = {"op_type": "LSTM", "W": np.ones((1, 16, 3)), "R": np.ones((1, 16, 4))}
RNN = {"op_type": "RNN", "W": np.ones((2, 4, 3)), "R": np.ones((2, 4, 4)), "direction": "bidirectional"}
BAD_OPERATORS = [
    (OPERATOR, {"op_type": "Conv"}, ValueError, "op_type: expected one of RNN, LSTM, GRU, got 'Conv'"),
    (OPERATOR, {"W": [1.0]}, TypeError, "W: expected a numpy array of float32 or float64, got list"),
    (OPERATOR, {"W": np.ones((16, 3))}, ValueError, r"W: expected 3 axes, got shape \(16, 3\)"),
    (OPERATOR, {"W": np.ones((1, 12, 3))}, ValueError, r"W: expected shape \(1, 16, 3\), got \(1, 12, 3\)"),
    (OPERATOR, {"W": np.ones((2, 16, 3))}, ValueError, r"W: expected shape \(1, 16, 3\), got \(2, 16, 3\)"),
    (OPERATOR, {"W": np.ones((1, 16, 3), np.float16)}, TypeError, r"W: .*got float16; .*W\.astype"),
    (OPERATOR, {"R": None}, TypeError, "R: expected a numpy array"),
    (OPERATOR, {"R": np.ones((1, 12, 4))}, ValueError, r"R: expected shape \(1, 16, 4\), got \(1, 12, 4\)"),
    (
        OPERATOR,
        {"R": np.ones((1, 16, 4), "f4")},
        TypeError,
        r"R: expected dtype float64, got float32; .*R\.as",
    ),
    (OPERATOR, {"B": np.ones((1, 16))}, ValueError, r"B: expected shape \(1, 32\), got \(1, 16\)"),
    (OPERATOR, {"B": np.ones((1, 32), "f4")}, TypeError, "B: expected dtype float64"),
    (OPERATOR, {"P": np.ones((1, 16))}, ValueError, r"P: expected shape \(1, 12\), got \(1, 16\)"),
    (OPERATOR, {"hidden_size": 5}, ValueError, r"W: expected shape \(1, 20, 3\)"),
    (OPERATOR, {"direction": "reverse"}, ValueError, r"direction: no layer .*\.reverse_sequences"),
    (
        OPERATOR,
        {"direction": b"up"},
        ValueError,
        "direction: expected 'forward' or 'bidirectional', got 'up'",
    ),
    (OPERATOR, {"direction": "bidirectional"}, ValueError, r"W: expected shape \(2, 16, 3\)"),
    (OPERATOR, {"layout": 2}, ValueError, "layout: expected 0 or 1, got 2"),
    (OPERATOR, {"input_forget": 2}, ValueError, "input_forget: expected 0 or 1, got 2"),
    (OPERATOR, {"linear_before_reset": 1}, ValueError, "linear_before_reset: an attribute of GRU alone"),
    (OPERATOR, {"activations": ["Tanh"] * 3}, ValueError, "activations: expected LSTM's default"),
    (OPERATOR, {"activations": ["Sigmoid", "Tanh"]}, ValueError, "activations: expected LSTM's default"),
    (RNN, {"P": np.ones((2, 12))}, ValueError, "P: expected None"),
    (RNN, {"input_forget": 1}, ValueError, "input_forget: an attribute of LSTM alone, got 1 for RNN"),
    (RNN, {"activations": ["Tanh"]}, ValueError, "activations: expected 2, one a direction"),
    (RNN, {"activations": ["Tanh", "Relu"]}, ValueError, "activations: expected the same for both"),
    (RNN, {"activations": ["Elu", "Elu"]}, ValueError, "activations: expected Tanh, Relu, .*, got 'Elu'"),
    (
        RNN,
        {"activations": ["Affine"] * 2, "activation_alpha": [1.0, 2.0]},
        ValueError,
        "activation_alpha: ex",
    ),
    (
        RNN,
        {"activations": ["Affine"] * 2, "activation_beta": [0.5]},
        ValueError,
        "activation_beta: expected 0",
    ),
]


@pytest.mark.parametrize(("operator", "change", "error", "message"), BAD_OPERATORS)
def test_bad_operators(operator, change, error, message):
    from_onnx(**operator)
    with pytest.raises(error, match=f"^{message}"):
        from_onnx(**operator | change)
    kind = getattr(pybptt, operator["op_type"])
    layer = kind(3, 4, bidirectional=len(operator["W"]) == 2, dtype="float64",
                 **{"peephole": True} if kind is pybptt.LSTM else {})  # fmt: skip
    load_onnx(layer, **operator)
    before = bits(layer.flat)
    changed = {"W": -operator["W"], "R": -operator["R"]}
    with pytest.raises(error):
        load_onnx(layer, **operator | changed | change)
    assert bits(layer.flat) == before


@pytest.mark.parametrize(
    ("kind", "options", "change", "message"),
    [
        ("LSTM", {}, {"op_type": "GRU"}, "op_type: expected 'LSTM' for this layer, got 'GRU'"),
        ("LSTM", {}, {"hidden_size": 5}, "hidden_size: expected 4 for this layer, got 5"),
        ("LSTM", {}, {"index": 2}, "index: expected one of 2 layers, from 0, got 2"),
        ("LSTM", {}, {"index": 1}, r"W: expected shape \(1, 16, 4\), got \(1, 16, 3\)"),
        (
            "LSTM",
            {},
            {"input_forget": 1},
            "input_forget: means coupled=True, but the layer has coupled=False",
        ),
        ("LSTM", {}, {"clip": 1.0}, "clip: means clip=1.0, but the layer has clip=None"),
        ("LSTM", {"clip": 1.0}, {"clip": 0.5}, "clip: means clip=0.5, but the layer has clip=1.0"),
        ("LSTM", {"clip": 1.0}, {"clip": None}, "clip: means clip=None, but the layer has clip=1.0"),
        ("LSTM", {}, {"P": np.ones((1, 12))}, "P: expected None for a layer without peepholes"),
        ("LSTM", {"bias": False}, {"B": np.ones((1, 32))}, "B: expected None for a layer without bias"),
        ("RNN", {}, {"activations": ["Relu"]}, "activations: means nonlinearity='relu', but"),
        ("GRU", {}, {"linear_before_reset": 0}, "linear_before_reset: means reset_after=False, but"),
        ("GRU", {}, {"direction": "bidirectional"}, "direction: means bidirectional=True, but"),
    ],
)
def test_an_operator_that_is_not_the_layers(kind, options, change, message):
    layer = make(kind, num_layers=2, **options)
    before = bits(layer.flat)
    operator = to_onnx(make(kind, seed=7, **options))
    tensors = dict(zip(("op_type", "W", "R", "B", "P"), operator[:5], strict=True))
    with pytest.raises(ValueError, match=f"^{message}"):
        load_onnx(layer, **tensors | operator.attributes | change)
    assert bits(layer.flat) == before


def test_bad_exports():
    with pytest.raises(TypeError, match=r"^layer: expected an RNN, LSTM or GRU, got NoneType"):
        to_onnx(None)
    with pytest.raises(TypeError, match=r"^layer: expected an RNN, LSTM or GRU, got str"):
        load_onnx("LSTM", **OPERATOR)
    for call in (to_onnx, lambda layer: load_onnx(layer, **OPERATOR)):
        with pytest.raises(ValueError, match=r"^layer: ONNX's LSTM has no projection, got proj_size=2"):
            call(pybptt.LSTM(3, 4, proj_size=2))
    for index, error in ((1, ValueError), (-1, ValueError), (0.0, TypeError)):
        with pytest.raises(error, match=r"^index: expected"):
            to_onnx(make("RNN"), index)


@pytest.mark.parametrize(
    ("x", "lengths", "error", "message"),
    [
        ([[1]], None, TypeError, "x: expected a numpy array"),
        (np.zeros(3), None, ValueError, "x: expected at least 2 axes"),
        (
            np.zeros((3, 2)),
            [[3], [1, 2]],
            ValueError,
            r"lengths: expected shape \(2,\), got \[\[3\], \[1, 2\]\]",
        ),
        (np.zeros((3, 2)), np.array([3.0, 2]), TypeError, "lengths: expected integers, got float64"),
        (np.zeros((3, 2)), np.array([3]), ValueError, r"lengths: expected shape \(2,\), .* got \(1,\)"),
        (
            np.zeros((3, 2)),
            np.array([3, 4]),
            ValueError,
            r"lengths: expected values in \[0, 3\], got 4 at \[1\]",
        ),
        (
            np.zeros((3, 2)),
            np.array([3, -1]),
            ValueError,
            r"lengths: expected values in \[0, 3\], got -1 at \[1\]",
        ),
    ],
)
def test_bad_sequences(x, lengths, error, message):
    with pytest.raises(error, match=f"^{message}"):
        reverse_sequences(x, lengths)


def test_the_package_onnx_is_not_needed():
    printed = run_python("""
        import sys
        sys.modules["onnx"] = None
        import pybptt.onnx
        layer = pybptt.RNN(3, 4)
        print(type(pybptt.onnx.from_onnx(*pybptt.onnx.to_onnx(layer)[:5])).__name__)
    """)
    assert printed == "RNN\n"
