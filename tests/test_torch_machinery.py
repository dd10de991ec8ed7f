"""PyTorch's own machinery around pybptt.torch: compiled, exported, checkpointed, profiled programs."""

import gc

import numpy as np
import pytest
import torch
from support import run_python
from torch.utils.checkpoint import checkpoint
from torch_support import CELLS, assert_same, pair_of, random_input, random_state, run, tensors_of

import pybptt
import pybptt.torch
from pybptt.torch import ops

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.fixture(autouse=True)
def fresh_start():
    torch._dynamo.reset()
    gc.collect()  # what tests before have left in cycles


def call_of(layer, x, states=(), lengths=None, **options):
    """What a layer asks its operator for."""
    defaults = {"memory_limit": 0, "factors": None, "k1": 0, "k2": 0, "clip": 0, "clip_limit": 0.0}
    directions = 2 if layer.bidirectional else 1
    h_0, c_0 = (*states, None, None)[:2]
    return ops.Call(
        x, h_0, c_0, list(layer.parameters()), lengths, None, layer.mode, layer.num_layers, directions,
        layer.bias, **(defaults | options),
    )  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(cell, dtype):
    layer = getattr(pybptt.torch, cell)(3, 4, 2, bidirectional=True, dtype=dtype)
    x = random_input(layer, 5, 2, requires_grad=True)
    states = tensors_of(random_state(layer, 2, requires_grad=True))
    for call in (call_of(layer, x, states), call_of(layer, x, lengths=torch.tensor([5, 2]))):
        torch.library.opcheck(torch.ops.pybptt.forward, (*call, True), test_utils=CHECKS)
    data = random_input(layer, 7, requires_grad=True)
    packed = call_of(layer, data, states, torch.tensor([4, 3]))
    torch.library.opcheck(torch.ops.pybptt.forward, (*packed, True), test_utils=CHECKS)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_gradcheck(cell, options):
    layer = getattr(pybptt.torch, cell)(3, 4, dtype=torch.float64, **options)
    x = random_input(layer, 4, 2, requires_grad=True)
    states = tensors_of(random_state(layer, 2, requires_grad=True))
    parameters = list(layer.parameters())
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *rest):
        hx = tuple(rest[: len(states)]) if cell == "LSTM" else rest[0]
        given = dict(zip(names, rest[len(states) :], strict=True))
        return tuple(tensors_of(torch.func.functional_call(layer, given, (x, hx))))

    assert torch.autograd.gradcheck(function, (x, *states, *parameters))


def test_a_second_derivative_is_an_error():
    lstm = pybptt.torch.LSTM(3, 4, dtype=torch.float64)
    x = random_input(lstm, 4, 2, requires_grad=True)
    (dx,) = torch.autograd.grad(lstm(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"derivative of a gradient.*restore\(model\)"):
        dx.sum().backward()


class Model(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 3)
        self.layer = layer
        self.head = torch.nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), 2)

    def forward(self, tokens, hx=None):
        output, state = self.layer(self.embedding(tokens), hx)
        return self.head(output.relu()), state


def models_of(cell, **options):
    models = []
    for layer in pair_of(cell, 3, 4, **options):
        torch.manual_seed(0)
        models.append(Model(layer))
    return models


TOKENS = torch.randint(11, (6, 5), generator=torch.Generator().manual_seed(0))


def step(model, tokens=TOKENS, hx=None):
    """Results and gradients of a step, by all parameters."""
    torch.manual_seed(1)
    output, state = model(tokens, hx)
    loss = output.square().sum() + sum(s.sum() for s in tensors_of(state))
    return [output, *tensors_of(state), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
def test_compiled_in_full(cell, options):
    theirs, ours = models_of(cell, **options)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for tokens in (TOKENS, TOKENS[:4], TOKENS[:, :3]):  # the last ones with dynamic sizes
        assert_same(step(compiled, tokens), step(theirs, tokens))
    with torch.no_grad():
        assert_same(tensors_of(compiled(TOKENS)), tensors_of(theirs(TOKENS)))
    hx = random_state(ours.layer, TOKENS.shape[0 if ours.layer.batch_first else 1])
    assert_same(step(compiled, hx=hx), step(theirs, hx=hx))
    assert len(ops._handles) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own
def test_compiled_by_inductor(monkeypatch):
    """The tape finds its way through the compiled graphs: nothing is run again, and nothing left behind."""
    theirs, ours = models_of("LSTM", num_layers=2)
    runs = []
    monkeypatch.setattr(ops.Call, "run_core", lambda *a, old=ops.Call.run_core: runs.append(a) or old(*a))
    compiled = torch.compile(ours, fullgraph=True)
    for _ in range(3):
        assert_same(step(compiled), step(theirs))
    assert len(runs) == 3
    gc.collect()
    assert len(ops._handles) == 0


def test_compiled_with_dropout_truncation_and_clipping():
    layer = pybptt.torch.GRU(3, 4, 2, dropout=0.5, dtype=torch.float64).eval()
    options = {
        "truncation": pybptt.TBPTT(2, 3),
        "clip_hidden": ("norm", 0.1),
        "lengths": torch.tensor([6, 2]),
    }
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = random_input(layer, 6, 2, requires_grad=True)
    parameters = list(layer.parameters())
    found, expected = (torch.autograd.grad(m(x, **options)[0].sum(), parameters) for m in (compiled, layer))
    assert_same(found, expected)
    layer.train()
    output, _ = compiled(x)
    assert output.shape == (6, 2, 4)


@pytest.mark.parametrize("cell", CELLS)
def test_exported(cell):
    theirs, ours = (model.eval() for model in models_of(cell, num_layers=2, bidirectional=True))
    steps, batch = torch.export.Dim("steps", min=2), torch.export.Dim("batch", min=2)
    program = torch.export.export(ours, (TOKENS,), dynamic_shapes={"tokens": {0: steps, 1: batch}})
    assert "pybptt.forward" in str(program.graph)
    for tokens in (TOKENS, TOKENS[:3], TOKENS[:, :2]):
        assert_same(tensors_of(program.module()(tokens)), tensors_of(theirs(tokens)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_keeps_no_tape(reentrant):
    theirs, ours = pair_of("LSTM", 5, 7, 2, dropout=0.3, dtype=torch.float64)
    x = random_input(ours, 6, 3, requires_grad=True)
    found = []
    for layer in (ours, theirs):
        torch.manual_seed(0)
        output, _ = checkpoint(layer, x, use_reentrant=reentrant)
        assert len(ops._handles) == 0
        layer.zero_grad()
        output.square().sum().backward()
        found.append([output, *(p.grad for p in layer.parameters())])
    assert_same(*found)


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_is_copied(cell, monkeypatch):
    """What the program sees of either side is the memory that the core is given."""
    given, address = set(), ops.address

    def noted(tensor):
        given.add(address(tensor))
        return address(tensor)

    monkeypatch.setattr(ops, "address", noted)
    layer = getattr(pybptt.torch, cell)(3, 4, 2)
    x = random_input(layer, 5, 2, requires_grad=True)
    output, hx = layer(x)
    upstream = torch.ones_like(output)
    output.backward(upstream)
    seen = [x, output, upstream, *tensors_of(hx), *layer.parameters()]
    seen += [x.grad, *(parameter.grad for parameter in layer.parameters())]
    assert given >= {tensor.data_ptr() for tensor in seen}


def test_a_copied_handle_runs_forward_again():
    """As torch.autograd.graph.save_on_cpu may make one."""
    theirs, ours = pair_of("GRU", 5, 7, 2, dropout=0.3, bidirectional=True, dtype=torch.float64)
    x = random_input(ours, 6, 3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda t: t):
        found = run(ours, x, None)
    assert_same(found.gradients, run(theirs, x, None).gradients)


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_parameters_dtype(short):
    lstm = pybptt.torch.LSTM(4, 4, 2)
    linear = torch.nn.Linear(3, 4)
    with torch.autocast("cpu", dtype=short):
        x = linear(torch.ones(5, 2, 3))
        assert x.dtype == short
        hx = tuple(torch.ones(2, 2, 4, dtype=short) for _ in range(2))
        results = tensors_of(lstm(x, hx))
        packed = torch.nn.utils.rnn.pack_sequence([x[:, 0], x[:3, 1]])
        results += tensors_of(lstm(packed, hx))
    assert {r.dtype for r in results} == {torch.float32}
    results[0].sum().backward()
    assert linear.weight.grad.dtype == torch.float32


def test_profiler_shows_operators_by_name():
    lstm = pybptt.torch.LSTM(4, 4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        lstm(torch.ones(5, 2, 4))[0].sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"pybptt::forward", "pybptt::backward"} <= names


def test_transforms_of_functions_are_an_error():
    ours = pybptt.torch.LSTM(5, 7)
    parameters = {name: p.detach() for name, p in ours.named_parameters()}
    loss = torch.func.grad(lambda p: torch.func.functional_call(ours, p, (torch.ones(6, 3, 5),))[0].sum())
    with pytest.raises(NotImplementedError, match=r"torch\.func's transforms.*restore\(model\)"):
        loss(parameters)


def test_pybptt_does_not_import_pytorch():
    assert run_python("import sys, pybptt; print('torch' in sys.modules)") == "False\n"


def test_without_pytorch_the_error_says_what_to_install():
    printed = run_python("""
        import sys
        sys.modules["torch"] = None
        try:
            import pybptt.torch
        except ImportError as error:
            print(error)
    """)
    assert "pip install 'pybptt[torch]'" in printed


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "truncation",
    [pybptt.TBPTT(3, 3), pybptt.TBPTT(2, 5), pybptt.TBPTT(4, 2), pybptt.RandomTruncation(0.7, seed=3), None],
    ids=repr,
)
@pytest.mark.parametrize("clip", [None, ("norm", 0.05), ("value", 0.02)])
def test_truncation_and_clipping_are_those_of_the_layers_for_numpy(truncation, clip, packed):
    layer = pybptt.torch.LSTM(5, 7, 2, dtype=torch.float64)
    plain = pybptt.LSTM(5, 7, 2, dtype="float64")
    plain.load_parameters({name: p.detach().numpy() for name, p in layer.named_parameters()})
    lengths = [11, 8, 8, 2]
    x = random_input(layer, 11, 4, requires_grad=True)
    d_output = random_input(torch.nn.LSTM(7, 1, dtype=torch.float64), 11, 4, seed=8)
    output, _, tape = plain.forward(x.detach().numpy(), lengths=lengths)
    expected = plain.backward(tape, d_output.numpy(), truncation=truncation, clip_hidden=clip)
    options = {"truncation": truncation, "clip_hidden": clip}
    if packed:
        given = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
        found, _ = torch.nn.utils.rnn.pad_packed_sequence(layer(given, **options)[0])
    else:
        found, _ = layer(x, lengths=lengths, **options)
    assert_same([found], [torch.from_numpy(output)])
    found.backward(d_output)
    assert_same(
        [x.grad, *(p.grad for p in layer.parameters())],
        [torch.from_numpy(a) for a in (expected.input, *expected.parameters.values())],
    )


def test_random_truncation_without_a_seed_is_pytorchs():
    layer = pybptt.torch.GRU(3, 4)
    x = random_input(layer, 30, 5)

    def step(seed):
        torch.manual_seed(seed)
        output, _ = layer(x, truncation=pybptt.ARTBP(0.3))
        return torch.autograd.grad(output.sum(), layer.weight_hh_l0)[0]

    assert torch.equal(step(0), step(0))
    assert not torch.equal(step(0), step(1))


def test_memory_limit():
    layer = pybptt.torch.LSTM(5, 32, 2)
    x = random_input(layer, 2000, 4, requires_grad=True)
    expected = run(layer, x, None)
    found = run(layer, x, None, memory_limit="3MB")
    assert all(map(torch.equal, [*found.results, *found.gradients], [*expected.results, *expected.gradients]))
    before = set(ops._handles)
    output, _ = layer(x, memory_limit="3MB")
    (handle,) = (handle for at, handle in ops._handles.items() if at not in before)
    assert handle.tape.nbytes < 3_000_000
    del output, handle
    with pytest.raises(ValueError, match="memory_limit: expected at least"):
        layer(x, memory_limit=1000)
    with torch.no_grad():
        layer(x, memory_limit=1000)  # there is no tape


def test_numpy_views_of_results_stay():
    """Results are PyTorch's memory, not the core's."""
    lstm = pybptt.torch.LSTM(3, 4)
    kept = lstm(torch.ones(5, 2, 3))[0].detach().numpy()
    copied = kept.copy()
    for _ in range(10):
        lstm(torch.zeros(5, 2, 3))
    assert np.array_equal(kept, copied)
