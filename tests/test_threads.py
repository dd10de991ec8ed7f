"""Threads: the same bits for any number, several Python threads at once, the variables that set a number."""

import os
import sys
import threading
import time

import numpy as np
import pytest
from support import bits, layer_problem, model_problem, run_layer, run_python

import pybptt


def layer(*shape, tokens=False):
    def run(dtype):
        p = layer_problem(*shape, tokens=tokens, dtype=dtype)
        return bits(*run_layer(p), *p.rnn(p.x, p.state))

    return run


def model(*shape, **options):
    def run(dtype):
        p = model_problem(*shape, dtype=dtype, **options)
        gradients = p.model.loss_and_grad(p.x, p.y, p.state, hidden=True, input=True)
        return bits(*gradients, *p.model.loss(p.x, p.y, p.state), *p.model(p.x, p.state))

    return run


def textbook(T, D, H, Q, truncate):
    def run(dtype):
        rng = np.random.default_rng(0)
        weights = [rng.normal(size=s).astype(dtype) / 4 for s in ((H, D), (Q, H), (H, H))]
        return bits(*pybptt.bptt(*weights, rng.integers(D, size=T), rng.integers(Q, size=T), truncate))

    return run


# Each is large enough for seven threads (engine/division.hpp); the last test but one sees to that.
CASES = {
    "rows": layer(20, 64, 17, 96),
    "rows of tokens": layer(20, 64, 500, 100, tokens=True),
    "rows, several chunks of time": layer(150, 32, 9, 64),
    "columns for one sequence": layer(40, 1, 33, 384),
    "columns for a few sequences": layer(30, 5, 20, 200),
    "columns for tokens, two chunks of time": layer(180, 3, 40, 224, tokens=True),
    "rows for 2 threads, columns for 7": layer(40, 20, 20, 96),
    "fewer rows than threads like": layer(300, 10, 5, 64),
    "more threads than panels": layer(60, 64, 800, 20),
    "model with many classes": model(30, 2, 50, 64, 2000),
    "model, squared error": model(40, 16, 30, 64, 300, tokens=False, loss="mse"),
    "model, last step": model(30, 32, 40, 96, 50, last_only=True, tokens=False),
    "model, blocks of classes": model(8, 40, 12, 30, 8001),
    "model, one sequence": model(600, 1, 65, 100, 65),
    "textbook": textbook(300, 60, 96, 100, None),
    "textbook, truncated": textbook(300, 60, 96, 100, 5),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_threads_gives_the_same_bits(name, dtype, set_threads):
    set_threads(1)
    expected = CASES[name](dtype)
    for threads in (2, 3, 7):
        set_threads(threads)
        assert CASES[name](dtype) == expected


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_these_cases_do_use_seven_threads():
    """Each in a child of its own, which begins with one thread."""
    counts = run_python("""
        import os, warnings, pybptt
        from test_threads import CASES
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
        for name, case in CASES.items():
            child = os.fork()
            if child == 0:
                pybptt.set_num_threads(7)
                case("float32")
                os._exit(len(os.listdir("/proc/self/task")))
            print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sep=": ")
    """)
    assert counts.splitlines() == [f"{name}: 7" for name in CASES]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_small_work_and_one_thread_start_none():
    counts = run_python("""
        import os, pybptt
        from test_threads import CASES, layer
        before = len(os.listdir("/proc/self/task"))
        pybptt.set_num_threads(7)
        layer(30, 4, 10, 16)("float32")
        pybptt.set_num_threads(1)
        CASES["rows"]("float32")
        print(len(os.listdir("/proc/self/task")) - before)
    """)
    assert counts == "0\n"


def test_python_threads_may_share_a_layer_and_a_tape(set_threads):
    """Forward on one layer, backward on tapes of their own and on a common one, and a model."""
    p = layer_problem(30, 16, 8, 64, dtype="float32")
    q = model_problem(30, 16, 20, 48, 20, dtype="float32")
    _, _, common = p.rnn.forward(p.x, p.state)
    scales = [np.float32(s) for s in (1, 2, 3, -1)]

    def work(scale):
        output, last, tape = p.rnn.forward(p.x * scale, p.state)
        own = p.rnn.backward(tape, p.d_output, p.d_state, hidden=True)
        other = p.rnn.backward(common, p.d_output * scale, p.d_state, hidden=True)
        return bits(output, last, own, other, *q.model.loss_and_grad(q.x, q.y, q.state * scale))

    set_threads(3)
    expected = [work(scale) for scale in scales]
    found = [[] for _ in scales]
    barrier = threading.Barrier(len(scales))

    def repeat(i):
        barrier.wait()
        for _ in range(12):
            found[i].append(work(scales[i]))

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(len(scales))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, results in enumerate(found):
        assert len(results) == 12
        assert all(result == expected[i] for result in results)


@pytest.mark.parametrize("call", ["forward", "backward", "infer", "loss_and_grad", "loss", "predict"])
def test_the_interpreter_is_free_during_the_work(call):
    """With forced switching off, the main thread runs before the other's call ends only if that lets it."""
    p, q = layer_problem(400, 16, 8, 64), model_problem(400, 16, 8, 64, 8)
    _, _, tape = p.rnn.forward(p.x)
    work = {
        "forward": lambda: p.rnn.forward(p.x),
        "backward": lambda: p.rnn.backward(tape, p.d_output),
        "infer": lambda: p.rnn(p.x),
        "loss_and_grad": lambda: q.model.loss_and_grad(q.x, q.y),
        "loss": lambda: q.model.loss(q.x, q.y),
        "predict": lambda: q.model(q.x),
    }[call]

    def main_runs_first():
        started, ended = [], []

        def run():
            started.append(True)
            work()
            ended.append(True)

        thread = threading.Thread(target=run)
        thread.start()
        while not started:
            time.sleep(1e-4)
        first = not ended
        thread.join()
        return first

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:  # more than once, because on a busy machine the main thread may come too late
        assert any(main_runs_first() for _ in range(20))
    finally:
        sys.setswitchinterval(interval)


# ---- How many -------------------------------------------------------------------------------------------

FOUND = pybptt.config()["processors"]  # tests/cpp/test_processors.cpp
USABLE = min(FOUND["cores"], FOUND["quota"] or FOUND["cores"])


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, USABLE),
        ({"PYBPTT_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"PYBPTT_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"PYBPTT_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "many"}, USABLE),
        ({"PYBPTT_NUM_THREADS": "1024"}, 1024),
    ],
)
def test_variables_set_the_number(variables, threads):
    program = "import pybptt; print(pybptt.get_num_threads(), pybptt.config()['threads'])"
    assert run_python(program, **variables) == f"{threads} {threads}\n"


def test_processors_are_those_of_the_affinity_mask():
    assert FOUND["allowed"] == len(os.sched_getaffinity(0))
    program = "import os, pybptt; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    program += "print(pybptt.get_num_threads(), pybptt.config()['processors']['allowed'])"
    assert run_python(program) == "1 1\n"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1025", "2x", "1.5", "99999999999999999999"])
def test_a_bad_variable_is_a_clear_error(value):
    """At the first call that needs it, and again at the next; not at import."""
    printed = run_python(
        """
        import numpy as np, pybptt
        rnn = pybptt.RNN(2, 3)
        for call in (pybptt.get_num_threads, lambda: rnn(np.zeros((1, 1, 2), np.float32)), pybptt.config):
            try:
                call()
            except ValueError as error:
                print(error)
        """,
        PYBPTT_NUM_THREADS=value,
    )
    assert printed == 3 * f"PYBPTT_NUM_THREADS: expected a number from 1 to 1024, got '{value}'\n"


def test_the_number_can_be_set(set_threads):
    for n in (1, 7, np.int32(3), 1024):
        set_threads(n)
        assert pybptt.get_num_threads() == n
        assert type(pybptt.get_num_threads()) is int


def test_the_number_holds_for_all_python_threads(set_threads):
    set_threads(5)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(pybptt.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [5]
