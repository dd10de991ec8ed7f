"""Training on several processes: DistributedDataParallel over gloo, and torchrun's restarts.

The judge is torch.nn in one process on the whole batch.
"""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from support import started

torch = pytest.importorskip("torch", reason="it is about PyTorch's own data parallelism")
import distributed_support as problems  # noqa: E402

EXAMPLE = Path(__file__).parent.parent / "examples" / "torch_distributed.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TIMEOUT = 300  # seconds; it takes 10 on an idle machine


def torchrun(*arguments):
    return started(*TORCHRUN, *arguments, GLOO_SOCKET_IFNAME="lo")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes found: by case, a pair."""
    folder = tmp_path_factory.mktemp("distributed")
    with torchrun(problems.__file__, folder) as process:
        output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2))
    return {name: (first[name], second[name]) for name in first}


def whole(model, **options):
    """Gradients of one process on the whole batch."""
    x, y = problems.batch()
    problems.loss(model(x, **options), y).backward()
    return problems.gradients(model)


def assert_same(actual, expected, tolerance=1e-12):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(actual[name], value, rtol=0, atol=tolerance * scale, msg=name)


def assert_same_bits(a, b):
    assert list(a) == list(b)
    for name, value in a.items():
        assert value.numpy().tobytes() == b[name].numpy().tobytes(), name


@pytest.mark.parametrize("cell", problems.CELLS)
def test_gradients_are_those_of_the_whole_batch(both, cell):
    expected = whole(problems.one_branch(torch.nn, cell))
    for found in both[cell.lower()]:
        assert_same(found, expected)


@pytest.mark.parametrize("case", ["accelerated", "accelerated_later"])
def test_an_accelerated_model(both, case):
    """Before it is wrapped, and after."""
    expected = whole(problems.one_branch(torch.nn))
    for module, found in both[case]:
        assert module.startswith("pybptt.")
        assert_same(found, expected)


def test_no_sync_accumulates(both):
    expected = whole(problems.one_branch(torch.nn))
    (first, found), (second, also) = both["no_sync"]
    assert not torch.equal(first["layer.weight_hh_l0"], second["layer.weight_hh_l0"])
    for gradients in (found, also):
        assert_same(gradients, expected)


def test_branches_that_a_process_does_not_use(both):
    model = problems.Model(torch.nn)
    x, y = problems.batch()
    halves = zip(("layer", "other"), x.chunk(2, dim=1), y.chunk(2, dim=1), strict=True)
    sum(problems.loss(model(a, branch=branch), b) / 2 for branch, a, b in halves).backward()
    for found in both["unused"]:
        assert_same(found, problems.gradients(model))


def test_a_branch_that_nobody_uses(both):
    expected = whole(problems.Model(torch.nn))
    for found in both["unused_by_all"]:
        unused = {name for name, value in expected.items() if value is None}
        assert unused == {name for name, value in found.items() if value is None} != set()
        assert_same(*({n: g for n, g in gs.items() if n not in unused} for gs in (found, expected)))


def test_hooks_and_buckets(both):
    expected = whole(problems.one_branch(torch.nn))
    expected["layer.weight_hh_l0"] *= 2
    for found, buckets in both["hooks"]:
        assert_same(found, expected)
        assert len(set(buckets)) > 1


@pytest.mark.parametrize("case", ["views", "static_and_checkpointed"])
def test_a_second_step(both, case):
    expected = whole(problems.one_branch(torch.nn))
    for found in both[case]:
        if case == "views":
            found, in_place = found
            assert in_place
        assert_same(found, expected)


def test_packed_sequences(both):
    layer = torch.nn.LSTM(problems.D, problems.H, bidirectional=True, dtype=torch.float64)
    torch.manual_seed(0)
    layer.reset_parameters()
    output, _ = layer(problems.ragged(range(problems.B)))
    ((output.data**2).sum() / 2).backward()
    for found in both["packed"]:
        assert_same(found, problems.gradients(layer))


def test_parameters_and_buffers_at_the_start_are_those_of_process_0(both):
    first, second = both["start"]
    assert_same_bits(first, second)
    expected = problems.one_branch(torch.nn, seed=0).state_dict() | {"seed": torch.tensor(7.0).double()}
    assert_same_bits(first, expected)


def test_shares_of_the_example_s_loss(both):
    """Of five columns a process has three, the other two."""
    (x, y, found), (x_2, y_2, also) = both["shares"]
    assert (x.shape, x_2.shape) == ((12, 3), (12, 2))
    torch.manual_seed(0)
    model = problems.example.CharacterModel(9, 8).double()
    logits, targets = model(torch.cat([x, x_2], dim=1)), torch.cat([y, y_2], dim=1)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    for gradients in (found, also):
        assert_same(gradients, problems.gradients(model))


def test_parameters_are_the_same_bits_after_20_steps(both):
    (parameters, *_), (others, *_) = both["training"]
    assert_same_bits(parameters, others)


def test_a_checkpoint_goes_on_to_the_same_bits(both):
    for complete, stopped, resumed in both["training"]:
        assert not torch.equal(stopped["lstm.weight_hh_l0"], resumed["lstm.weight_hh_l0"])
        assert_same_bits(resumed, complete)


def children(pid):
    return [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]


def worker(torchrun, rank):
    """The process with this rank."""
    return next(
        pid
        for pid in children(torchrun.pid)
        if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    )


def test_a_killed_process_leads_to_a_restart_that_goes_on(tmp_path, text):
    """By SIGKILL, as when memory is short; the one that lives waits for it in an all-reduce."""
    kept, steps = tmp_path / "run.pt", 400
    options = ("--text", text, "--steps", steps, "--batch", 4, "--window", 10, "--hidden", 16)
    with torchrun(
        "--max-restarts", "1", EXAMPLE, *options, "--checkpoint", kept, "--save-every", 10
    ) as process:
        until = time.monotonic() + TIMEOUT
        while not kept.exists():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < until, "no checkpoint"
            time.sleep(0.01)
        os.kill(worker(process, rank=1), signal.SIGKILL)
        output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    begun = [int(line.split()[4]) for line in output.splitlines() if line.startswith("going on after step")]
    assert len(begun) == 1, output
    assert 0 < begun[0] < steps
    assert begun[0] % 10 == 0
    assert f"2 processes, {steps} steps" in output
    assert torch.load(kept, weights_only=True)["step"] == steps
    assert list(tmp_path.glob("*.tmp")) == []  # process 0 was not the one killed
