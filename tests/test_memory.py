"""Limits on memory: the same bits, no more than was allowed, and progress."""

import itertools
import os
import re
import signal
import threading
import time

import numpy as np
import pytest
from cell_support import FEW, FLAGS, arrays_of, backward, forward, problem
from support import bits, run_python

import pybptt
from pybptt.memory import memory_bytes, readable

ALL = 1 << 40


def all_bits(result):
    return bits(*arrays_of(result).values())


def layer_run(p, **options):
    """What `run` of cell_support returns, with options of forward."""
    output, state, tape = forward(p, **options)
    return type(p)(output=output, state=state, cells=tape.cells, g=backward(p, tape))


def limits_of(memory):
    """From the smallest that works to more than enough."""
    plain = memory.tape + memory.working
    return [memory.smallest, (2 * memory.smallest + plain) // 3, plain - 1, plain, 2 * plain]


def lengths_of(T, B, ragged):
    """One sequence has all steps."""
    return np.r_[np.random.default_rng(T).integers(0, T + 1, size=B - 1), T] if ragged else None


# ---- The same bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_layer_s_bits_do_not_depend_on_the_limit(set_threads, cell, L, dtype):
    turn = 0
    for (T, B, H), ragged in itertools.product([(1400, 1, 9), (170, 9, 7), (60, 40, 17)], FLAGS):
        lengths, tokens = lengths_of(T, B, ragged), turn % 3 == 0
        p = problem(cell, T, B, 4, H, L, lengths=lengths, tokens=tokens, mask=L > 1, dtype=dtype)
        set_threads(1)
        expected = all_bits(layer_run(p))
        memory = p.layer.memory(T, B, lengths=lengths, tokens=tokens)
        assert memory.smallest < memory.tape + memory.working  # there is something to be saved
        for limit in limits_of(memory):
            set_threads(1 + turn % 3)
            turn += 1
            # The mask is copied by forward, so that it counts.
            assert (
                all_bits(layer_run(p, memory_limit=limit + (0 if p.mask is None else p.mask.nbytes)))
                == expected
            )


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru-before"])
@pytest.mark.parametrize("last_only", FLAGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_s_bits_do_not_depend_on_the_limit(set_threads, cell, last_only, dtype):
    turn = 0
    for (T, B, H), L, ragged in itertools.product([(1400, 1, 9), (170, 9, 7)], (1, 2), FLAGS):
        lengths, tokens = lengths_of(T, B, ragged), turn % 2 == 0
        loss = ("mse", "cross_entropy")[turn % 2]
        p = problem(cell, T, B, 4, H, L, tokens=tokens, dtype=dtype, dropout=0.4 if L > 1 else 0.0)
        model = pybptt.SequenceModel(p.layer, 3, loss=loss, last_only=last_only, seed=1)
        shape = (B,) if last_only else (T, B)
        rng = np.random.default_rng(0)
        y = rng.integers(3, size=shape) if loss != "mse" else rng.normal(size=(*shape, 3)).astype(dtype)
        options = {"lengths": lengths, "seed": 5, "hidden": True, "input": not tokens}
        set_threads(1)
        expected = bits(*model.loss_and_grad(p.x, y, p.state, **options))
        memory = model.memory(T, B, lengths=lengths, tokens=tokens, input=not tokens)
        for limit in limits_of(memory):
            set_threads(1 + turn % 3)
            turn += 1
            assert bits(*model.loss_and_grad(p.x, y, p.state, memory_limit=limit, **options)) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": pybptt.TBPTT(10, 35)},
        {"truncation": pybptt.TBPTT(30, 30)},
        {"truncation": pybptt.TBPTT(30, 10)},
        {"truncation": pybptt.RandomTruncation(0.7, seed=3)},
        {"clip_hidden": ("norm", 0.01)},
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_limit_and_truncation(set_threads, cell, options):
    T, B = 300, 6
    p = problem(cell, T, B, 4, 9, 2, lengths=[300, 7, 123, 0, 299, 300], dtype="float32")
    model = pybptt.SequenceModel(p.layer, 3, seed=1)
    y = np.random.default_rng(0).integers(3, size=(T, B))
    options |= {"hidden": True}
    expected = bits(*model.loss_and_grad(p.x, y, lengths=p.lengths, **options))
    with pytest.raises(ValueError, match="memory_limit") as refused:
        model.loss_and_grad(p.x, y, lengths=p.lengths, memory_limit=1, **options)
    smallest = int(re.search(r"at least (\d+) bytes", str(refused.value))[1])
    assert smallest >= model.memory(T, B, lengths=p.lengths).smallest
    for turn, limit in enumerate((smallest, 2 * smallest)):
        set_threads(1 + 2 * turn)
        found = model.loss_and_grad(p.x, y, lengths=p.lengths, memory_limit=limit, **options)
        assert bits(*found) == expected
    limit = p.layer.memory(T, B, lengths=p.lengths).smallest
    sweeps = [
        bits(backward(p, p.layer.forward(p.x, lengths=p.lengths, memory_limit=of)[2], **options))
        for of in (None, limit)
    ]
    assert sweeps[0] == sweeps[1]


@pytest.mark.parametrize("limit", [ALL, 0])
def test_a_tape_owns_what_it_needs_and_serves_again_and_from_several_threads(limit):
    p = problem("lstm-peephole", 300, 5, 4, 9, 2, mask=True, lengths=[300, 0, 20, 290, 150])
    expected = all_bits(layer_run(p))
    given = forward(
        p, memory_limit=max(limit, p.layer.memory(300, 5, lengths=p.lengths).smallest + p.mask.nbytes)
    )
    for array in (p.x, p.layer.flat, p.mask, *p.state):
        array[...] = np.nan
    p.lengths[:] = [7] * 5
    found = []

    def sweep():
        output, state, tape = given
        found.append(all_bits(type(p)(output=output, state=state, cells=tape.cells, g=backward(p, tape))))

    sweep()
    threads = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_batch_first_and_other_layouts():
    T, B = 300, 6
    rng = np.random.default_rng(0)
    model = pybptt.SequenceModel(pybptt.GRU(5, 9, batch_first=True, seed=0), 4, seed=1)
    x, y = rng.integers(5, size=(B, T)).astype(np.uint8), rng.integers(4, size=(B, T)).astype(np.int16)
    expected = bits(*model.loss_and_grad(x, y))
    smallest = model.memory(T, B, tokens=True).smallest
    assert bits(*model.loss_and_grad(x, y, memory_limit=smallest)) == expected
    with pytest.raises(ValueError, match=f"at least {smallest} bytes"):
        model.loss_and_grad(x, y, memory_limit=smallest - 1)


@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (1, 1), (7, 2)])
def test_what_is_too_short_to_be_cut(T, B):
    p = problem("lstm", T, B, 4, 9)
    memory = p.layer.memory(T, B)
    assert memory.smallest == memory.tape + memory.working
    assert all_bits(layer_run(p, memory_limit=memory.smallest)) == all_bits(layer_run(p))
    with pytest.raises(ValueError, match="memory_limit"):
        forward(p, memory_limit=memory.smallest - 1)


def test_a_mask_drawn_in_pieces_is_the_one_drawn_at_once():
    layer = pybptt.RNN(3, 50, 3, dropout=0.3, dtype="float64", seed=0)
    drawn = np.random.default_rng(8).random((2, 401, 5, 50), dtype=np.float32)
    expected = np.where(drawn >= np.float32(0.3), 1 / (1 - 0.3), 0.0)
    assert bits(layer._mask(401, 5, True, 8, None)) == bits(expected)


# ---- No more than was allowed ---------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("tokens", FLAGS)
def test_the_smallest_works_and_one_byte_less_does_not(cell, tokens):
    p = problem(cell, 400, 5, 6, 9, 2, tokens=tokens, dtype="float32")
    smallest = p.layer.memory(400, 5, tokens=tokens).smallest
    p.layer.forward(p.x, memory_limit=smallest)
    message = f"expected at least {smallest} bytes ({readable(smallest)}) for this call, got {smallest - 1}"
    with pytest.raises(ValueError, match=re.escape(message)):
        p.layer.forward(p.x, memory_limit=smallest - 1)
    model = pybptt.SequenceModel(p.layer, 3, seed=0)
    y, smallest = np.zeros((400, 5), int), model.memory(400, 5, tokens=tokens).smallest
    model.loss_and_grad(p.x, y, memory_limit=smallest)
    with pytest.raises(ValueError, match=f"at least {smallest} bytes"):
        model.loss_and_grad(p.x, y, memory_limit=smallest - 1)


@pytest.mark.parametrize("of", ["layer", "model"])
def test_memory_is_a_table_of_choices(of):
    layer = pybptt.LSTM(8, 32, 2, dropout=0.1, seed=0)
    made = layer if of == "layer" else pybptt.SequenceModel(layer, 4, seed=0)
    memory = made.memory(5000, 4, training=False)
    plain, *limited = memory.choices
    assert memory.tape == layer.tape_bytes(5000, 4)
    assert plain == (None, memory.tape + memory.working, 1.0)
    assert all(choice.bytes <= choice.limit for choice in limited)
    assert [choice.limit for choice in limited[:2]] == [memory.tape // 2, memory.tape // 4]
    assert limited[-1].limit == memory.smallest
    passes = [choice.passes for choice in memory.choices]
    assert passes == sorted(passes)
    assert passes[2] < 2 < passes[-1]
    text = str(memory)
    assert len(text.splitlines()) == 2 + len(memory.choices)
    assert readable(memory.tape) in text
    assert "smallest=" in repr(memory)
    assert made.memory(5000, 4, training=True).smallest == memory.smallest + 5000 * 4 * 32 * 4  # a mask
    both = pybptt.GRU(3, 4, bidirectional=True, seed=0).memory(3000, 2)
    assert both.smallest == both.tape + both.working
    assert len(both.choices) == 1


@pytest.mark.parametrize("of", ["layer", "model"])
def test_what_a_call_takes_does_not_depend_on_threads(set_threads, of):
    layer = pybptt.LSTM(16, 64, seed=0)
    made = layer if of == "layer" else pybptt.SequenceModel(layer, 4, seed=0)
    choices = []
    for threads in (1, 2, 5):
        set_threads(threads)
        choices.append(made.memory(500, 32).choices)
    assert choices[1] == choices[2] == choices[0]


def test_long_sequences_are_planned_without_going_through_them():
    T, lengths = 1 << 40, [1 << 40, 5]
    layer = pybptt.LSTM(3, 4, seed=0)
    assert len(layer.memory(T, 2, lengths=lengths).choices) > 1
    two_directions = pybptt.SequenceModel(pybptt.GRU(3, 4, bidirectional=True, seed=0), 2, seed=0)
    outputs = (1 + 1) * 2 * 4 * 4 * 2 * T  # and their derivatives, of K H numbers each, with rows for padding
    rows = 8 * sum(lengths)  # which of them the output layer reads
    assert two_directions.memory(T, 2, lengths=lengths).working > outputs + rows


def test_a_tape_says_what_it_holds():
    p = problem("gru", 500, 6, 4, 20, dtype="float32")
    sizes = [forward(p, memory_limit=choice.bytes)[2].nbytes for choice in p.layer.memory(500, 6).choices]
    assert sizes[0] == p.layer.tape_bytes(500, 6)
    assert sizes == sorted(sizes, reverse=True)
    assert p.x.nbytes + p.layer.flat.nbytes < sizes[-1] < sizes[0] / 2


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of a part of a run")
def test_resident_memory_stays_below_the_limit():
    printed = run_python("""
        import ctypes
        import numpy as np, pybptt

        ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages: PR_SET_THP_DISABLE

        def resident(field):
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith(field + ":")) * 1024

        def peak(call):
            before = resident("VmRSS")
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            kept = call()
            return resident("VmHWM") - before, kept

        rng = np.random.default_rng(0)
        model = pybptt.SequenceModel(pybptt.RNN(65, 64, seed=0), 65, seed=1)
        text = rng.integers(65, size=(100_001, 1))
        model.loss_and_grad(text[:2000], text[1:2001], memory_limit="100MB")
        for limit in (None, 12_000_000, 6_000_000):
            used, _ = peak(lambda: model.loss_and_grad(text[:-1], text[1:], memory_limit=limit))
            print(used < (limit or 20_000_000))
        lstm = pybptt.LSTM(16, 64, 2, dropout=0.5, seed=0)
        x = rng.standard_normal((3000, 8, 16), np.float32)
        d_output = rng.standard_normal((3000, 8, 64), np.float32)

        def both():
            output, _, tape = lstm.forward(x, memory_limit=20_000_000, training=True)
            return output, lstm.backward(tape, d_output, input=False)

        used, kept = peak(both)
        print(lstm.tape_bytes(3000, 8) > 60_000_000, used - kept[0].nbytes < 20_000_000)
    """)
    assert printed == "False\nTrue\nTrue\nTrue True\n"


# ---- Progress -------------------------------------------------------------------------------------------


def long_model():
    model = pybptt.SequenceModel(pybptt.LSTM(5, 40, seed=0), 5, seed=1)
    text = np.random.default_rng(0).integers(5, size=(20_001, 2))
    return model, text[:-1], text[1:]


@pytest.mark.parametrize("memory_limit", [None, "8MB"])
@pytest.mark.parametrize("threads", [1, 3])
def test_progress_is_told_up_to_the_end(set_threads, memory_limit, threads):
    set_threads(threads)
    model, x, y = long_model()
    told = []
    found = model.loss_and_grad(x, y, memory_limit=memory_limit, progress=lambda *of: told.append(of))
    totals = {total for _, total in told}
    assert len(totals) == 1
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert bits(*found) == bits(*model.loss_and_grad(x, y))
    layer, told = model.layer, []
    layer.forward(x, memory_limit=memory_limit, progress=lambda *of: told.append(of))
    assert told[-1][0] == told[-1][1]
    pybptt.RNN(5, 8, bidirectional=True, seed=0).forward(x, progress=lambda *of: told.append(of))
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("memory_limit", [None, "8MB"])
@pytest.mark.parametrize("threads", [1, 3])
def test_what_progress_raises_ends_the_call(set_threads, memory_limit, threads):
    set_threads(threads)
    model, x, y = long_model()
    expected = bits(*model.loss_and_grad(x, y))

    class Enough(Exception):
        pass

    for after in (1, 2):  # after the first step, and at the end at the latest
        told = []

        def stop(done, total, told=told, after=after):
            told.append(done)
            if len(told) == after:
                raise Enough(done)

        with pytest.raises(Enough) as raised:
            model.loss_and_grad(x, y, memory_limit=memory_limit, progress=stop)
        assert raised.value.args == (told[-1],)
        told.clear()
        with pytest.raises(Enough):
            model.layer.forward(x, memory_limit=memory_limit, progress=lambda *of: stop(*of, after=1))
    assert bits(*model.loss_and_grad(x, y, memory_limit=memory_limit)) == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_call_with_a_limit(set_threads, threads):
    """Of the smallest limit, under which the call would take minutes."""
    set_threads(threads)
    model, x, y = long_model()
    smallest = model.memory(*x.shape, tokens=True).smallest
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begin = time.monotonic()

    def calls():
        for _ in range(1000):
            model.loss_and_grad(x, y, memory_limit=smallest)

    with pytest.raises(KeyboardInterrupt):
        calls()
    assert time.monotonic() - begin < 60
    timer.join()


def test_progress_may_use_the_package_and_sees_ordinary_numbers():
    """Denormals are not flushed there."""
    model, x, y = long_model()
    small = np.full(3, 1e-39, np.float32)
    seen = []

    def progress(done, total):
        seen.append((small * np.float32(0.5)).tolist())
        model.loss(x[:3], y[:3])

    model.loss_and_grad(x, y, progress=progress)
    assert all(value == (small * np.float32(0.5)).tolist() and value[0] != 0 for value in seen)


# ---- Errors ---------------------------------------------------------------------------------------------


def test_a_limit_in_words():
    for limit, size in [(1, 1), (np.int64(7), 7), ("3B", 3), ("256MB", 256_000_000), ("1GiB", 1 << 30),
                        ("2.5 kB", 2500), (" 1KiB ", 1024), ("1TB", 10**12), ("9999999TB", 1 << 60),
                        (1 << 80, 1 << 60)]:  # fmt: skip
        assert memory_bytes(limit) == size
    assert [readable(n) for n in (12, 24_640, 1_000_000, 2_300_000_001)] == [
        "12 bytes",
        "24.7 kB",
        "1.0 MB",
        "2.4 GB",
    ]


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        ("12XB", ValueError, "'256MB', '1.5GB' or '1GiB', got '12XB'"),
        ("256", ValueError, "got '256'"),
        ("-1MB", ValueError, "got '-1MB'"),
        ("1iB", ValueError, "got '1iB'"),
        ("MB", ValueError, "got 'MB'"),
        ("0.1B", ValueError, "at least 1 byte"),
        (-5, ValueError, "at least 1, got -5"),
        (0, ValueError, "at least 1, got 0"),
        (True, TypeError, "got bool"),
        (1e9, TypeError, "got 1000000000.0"),
        ([1], TypeError, "got list"),
        (3, ValueError, "for this call, got 3"),
        ("3kB", ValueError, "got 3000 ('3kB')"),
    ],
)
def test_limits_that_are_none(limit, error, message):
    layer = pybptt.LSTM(3, 4, seed=0)
    model, x = pybptt.SequenceModel(pybptt.RNN(3, 4, seed=0), 2, seed=0), np.zeros((300, 2, 3), np.float32)
    for call in (
        lambda: layer.forward(x, memory_limit=limit),
        lambda: model.loss_and_grad(x, np.zeros((300, 2), int), memory_limit=limit),
    ):
        with pytest.raises(error, match="^memory_limit: expected .*" + re.escape(message)):
            call()


def test_two_directions_and_progress_that_cannot_be_called():
    layer, x = pybptt.GRU(3, 4, bidirectional=True, seed=0), np.zeros((30, 2, 3), np.float32)
    model, y = (
        pybptt.SequenceModel(pybptt.GRU(3, 4, bidirectional=True, seed=0), 2, seed=0),
        np.zeros((30, 2), int),
    )
    with pytest.raises(ValueError, match="memory_limit: expected a layer of one direction"):
        layer.forward(x, memory_limit="1GB")
    with pytest.raises(ValueError, match="memory_limit: expected a layer of one direction"):
        model.loss_and_grad(x, y, memory_limit="1GB")
    with pytest.raises(TypeError, match="progress: expected a function"):
        model.loss_and_grad(x, y, progress=3)
    with pytest.raises(TypeError, match="progress: expected a function"):
        layer.forward(x, progress="yes")
    with pytest.raises(MemoryError):
        layer.memory(1 << 61, 4)
    with pytest.raises(TypeError, match="tokens: expected True or False"):
        layer.memory(3, 4, tokens=1)
