"""Forks, exits, other libraries, no memory: every program must end by itself, well and silently."""

import textwrap

import pytest
from support import run_python

SETUP = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
import pybptt
from test_threads import CASES

ROWS, COLUMNS, MODEL = (CASES[n] for n in ("rows", "columns for one sequence", "model with many classes"))

def results():
    return [case(dtype) for case in (ROWS, COLUMNS, MODEL) for dtype in ("float32", "float64")]

def wait_for(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

pybptt.set_num_threads(3)
"""


def program(code):
    return SETUP + textwrap.dedent(code)


def test_fork_after_use():
    """The workers stay with the parent; parent, child and grandchild compute on with workers of their own."""
    printed = run_python(
        program("""
        expected = results()
        child = os.fork()
        if child == 0:
            grandchild = os.fork()
            same = results() == expected
            if grandchild == 0:
                os._exit(0 if same else 1)
            os._exit(0 if same and wait_for(grandchild) == 0 else 1)
        print(results() == expected, wait_for(child), results() == expected)
    """)
    )
    assert printed == "True 0 True\n"


def test_a_child_may_end_the_ordinary_way():
    """Through sys.exit and the destructors of static objects, whether or not it computed."""
    printed = run_python(
        program("""
        results()
        for compute in (False, True):
            child = os.fork()
            if child == 0:
                if compute:
                    results()
                sys.exit(7)
            print(wait_for(child), flush=True)  # or the next child would end with a copy of it
    """)
    )
    assert printed == "7\n7\n"


def test_fork_while_another_thread_computes():
    printed = run_python(
        program("""
        expected = results()
        stop = threading.Event()
        right = []

        def work():
            while not stop.is_set():
                right.append(results() == expected)

        worker = threading.Thread(target=work)
        worker.start()
        codes = set()
        for i in range(10):
            time.sleep(0.003 * i)
            child = os.fork()
            if child == 0:
                os._exit(0 if results() == expected else 1)
            codes.add(wait_for(child))
        stop.set()
        worker.join()
        print(codes, all(right), len(right) > 0)
    """)
    )
    assert printed == "{0} True True\n"


def test_a_child_that_progress_forks_gets_an_error():
    """It has one of the threads that its parent's call is on; the parent's goes on."""
    printed = run_python(
        program("""
        import numpy as np
        model = pybptt.SequenceModel(pybptt.LSTM(9, 64, seed=0), 5, seed=1)
        x, y = np.ones((400, 32, 9), np.float32), np.ones((400, 32), int)
        children = []
        def fork(done, total):
            if not children:
                children.append(os.fork())
        try:
            model.loss_and_grad(x, y, progress=fork)
        except RuntimeError as error:
            os._exit(3 if children == [0] and "child of fork()" in str(error) else 4)
        print(children[0] > 0, wait_for(children[0]))
    """)
    )
    assert printed == "True 3\n"


def test_multiprocessing_by_fork():
    printed = run_python(
        program("""
        import multiprocessing
        expected = results()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(all(r == expected for r in pool.starmap(results, [()] * 4)))
        print(results() == expected)
    """)
    )
    assert printed == "True\nTrue\n"


@pytest.mark.parametrize("threads", [1, 3])
def test_exit_with_a_live_pool(threads):
    run_python(program(f"pybptt.set_num_threads({threads}); results()"))


def test_exit_at_once_after_a_call():
    """Workers may not have gone to sleep yet; _exit and an exception are ways out too."""
    run_python(program("ROWS('float32'); os._exit(0)"))
    printed = run_python(
        program("""
        import atexit
        atexit.register(lambda: print(len(ROWS("float32")) > 0))
        ROWS("float32")
    """)
    )
    assert printed == "True\n"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", ["ROWS", "COLUMNS", "MODEL"])
def test_exit_while_a_daemon_thread_computes(case, threads):
    """The thread is inside a call when the interpreter ends, and never comes back from it."""
    run_python(
        program(f"""
        pybptt.set_num_threads({threads})
        begun = threading.Event()

        def work():
            while True:
                {case}("float32")
                begun.set()

        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
        begun.wait()
    """)
    )


def test_beside_torch():
    """Both with threads of their own, in turn and at once, and a fork afterwards."""
    pytest.importorskip("torch", reason="it is about PyTorch in the same process")
    printed = run_python(
        program("""
        def results():
            return ROWS("float32"), COLUMNS("float64")

        expected = results()
        import torch
        torch.set_num_threads(2)
        rnn, x = torch.nn.RNN(32, 64), torch.randn(20, 16, 32)

        def torch_results():
            rnn.zero_grad()
            rnn(x)[0].square().sum().backward()
            return [p.grad.clone() for p in rnn.parameters()]

        theirs = torch_results()
        print(results() == expected)
        worker = threading.Thread(target=lambda: [torch_results() for _ in range(5)])
        worker.start()
        print(all(results() == expected for _ in range(2)))
        worker.join()
        print(all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(torch_results(), theirs)))
        child = os.fork()
        if child == 0:
            os._exit(0 if results() == expected else 1)
        print(wait_for(child))
    """)
    )
    assert printed == "True\nTrue\nTrue\n0\n"


def test_memory_that_is_not_there():
    """MemoryError from inside the core, and then everything works as before."""
    printed = run_python("""
        import resource
        import numpy as np
        from support import bits, model_problem
        p = model_problem(40, 64, 10, 64, 10, dtype="float32")
        rnn, T = p.model.layer, 40_000
        expected, before = bits(*p.model.loss_and_grad(p.x, p.y, p.state)), bits(p.model.flat)
        x, d_output = np.zeros((T, 64), np.int64), np.broadcast_to(np.float32(0), (T, 64, 64))  # h is 655 MB

        def limit(megabytes):
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 1_000_000, resource.RLIM_INFINITY))

        calls = [
            (300, lambda: p.model.loss_and_grad(x, x)),
            (300, lambda: rnn(x)),  # no place for the output
            (1000, lambda: rnn.forward(x)),  # for the output, but not for the tape
        ]
        for megabytes, call in calls:
            limit(megabytes)
            for _ in range(2):
                try:
                    call()
                except MemoryError:
                    same = bits(*p.model.loss_and_grad(p.x, p.y, p.state)) == expected
                    print(same, bits(p.model.flat) == before)
        limit(300)
        print(np.isfinite(p.model.loss(x, x)[0]))  # needs no memory that grows with T, but for the ids
    """)
    assert printed == 6 * "True True\n" + "True\n"
