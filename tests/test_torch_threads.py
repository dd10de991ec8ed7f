"""Calls from a PyTorch program, on its threads. Every program must end by itself, well and silently."""

import textwrap

import pytest
from support import run_python

pytest.importorskip("torch", reason="it is about PyTorch's threads")

SETUP = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
import torch, pybptt
from pybptt._core import TorchThreads
from test_threads import CASES

ROWS, COLUMNS, MODEL = (CASES[n] for n in ("rows", "columns for one sequence", "model with many classes"))

def results(threads=None):
    cases = [(case, dtype) for case in (ROWS, COLUMNS, MODEL) for dtype in ("float32", "float64")]
    if threads is None:
        return [case(dtype) for case, dtype in cases]
    with TorchThreads(threads):
        return [case(dtype) for case, dtype in cases]

def tasks():
    return len(os.listdir("/proc/self/task"))

def wait_for(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def product():  # so large that PyTorch takes all its threads
    a = torch.ones(200_000)
    return (a * a + a).sum().item()

pybptt.set_num_threads(1)
expected = results()
torch.set_num_threads(3)
product()
"""


def program(code, **environment):
    return run_python(SETUP + textwrap.dedent(code), **environment)


def test_the_same_bits_on_threads_that_are_there():
    """Not one thread is made for them, and the core's own number does not matter."""
    printed = program("""
        before = tasks()
        print([results(n) == expected for n in (1, 2, 3)], tasks() - before)
        print(pybptt.get_num_threads())
        pybptt.set_num_threads(3)
        print(results() == expected, tasks() - before)
    """)
    assert printed == "[True, True, True] 0\n1\nTrue 2\n"


@pytest.mark.parametrize("number", [0, -1, 1025])
def test_a_number_out_of_range(number):
    printed = program(f"""
        try:
            results({number})
        except ValueError as error:
            print(error)
        print(results() == expected)
    """)
    assert printed == f"threads: expected a number of threads from 1 to 1024, got {number}\nTrue\n"


@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_THREAD_LIMIT": "1"},
        {"OMP_THREAD_LIMIT": "2"},
        {"OMP_DYNAMIC": "true"},
        {"OMP_WAIT_POLICY": "passive"},
        {"OMP_WAIT_POLICY": "active"},
        {"OMP_PROC_BIND": "true"},
    ],
)
def test_the_same_bits_whatever_the_runtime_gives(variables):
    """Fewer threads than asked for, or threads that wait in another manner."""
    printed = program("""
        before = tasks()
        print([results(n) == expected for n in (3, 5, 2)], tasks() - before <= 2)
    """, **variables)  # fmt: skip
    assert printed == "[True, True, True] True\n"


def test_within_a_parallel_region_there_is_one_thread():
    """Its other threads are at work already: a team within would be more threads than cores."""
    printed = program("""
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(3) as executor:  # callers at once each have a region of their own
            print(all(same == expected for same in executor.map(results, [3] * 6)))

        model = pybptt.SequenceModel(pybptt.LSTM(9, 64, seed=0), 5, seed=1)
        import numpy as np
        x, y = np.ones((400, 32, 9), np.float32), np.ones((400, 32), int)
        nested = []
        def nest(done, total):  # of a region's first thread
            if not nested:
                before = tasks()
                nested.append((results(3) == expected, product(), tasks() - before))
        with TorchThreads(3):
            model.loss_and_grad(x, y, progress=nest)
        print(nested, results(3) == expected)
    """)
    assert printed == "True\n[(True, 400000.0, 0)] True\n"


def test_pytorchs_threads_get_their_floating_point_mode_back():
    printed = program("""
        denormal = torch.full((300_000,), 1e-40)
        for _ in range(3):
            results(3)
            print(bool((denormal * 0.5 > 0).all()))
    """)
    assert printed == "True\n" * 3


def test_fork():
    """The threads stay with the parent: its children compute on threads of the core's own."""
    printed = program("""
        results(3)
        child = os.fork()
        if child == 0:
            grandchild = os.fork()
            same = results(3) == expected
            if grandchild == 0:
                os._exit(0 if same else 1)
            os._exit(0 if same and wait_for(grandchild) == 0 else 1)
        print(results(3) == expected, wait_for(child), results(3) == expected)
    """)
    assert printed == "True 0 True\n"


def test_a_child_that_is_the_first_to_load_the_core():
    printed = run_python("""
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch
        torch.set_num_threads(3)
        a = torch.ones(200_000) * 2
        child = os.fork()
        if child == 0:
            import pybptt
            from pybptt._core import TorchThreads
            from test_threads import CASES
            pybptt.set_num_threads(1)
            expected = CASES["rows"]("float32")
            with TorchThreads(3):
                os._exit(0 if CASES["rows"]("float32") == expected else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    assert printed == "0\n"


def test_a_child_that_progress_forks_gets_an_error():
    printed = program("""
        import numpy as np
        model = pybptt.SequenceModel(pybptt.LSTM(9, 64, seed=0), 5, seed=1)
        x, y = np.ones((400, 32, 9), np.float32), np.ones((400, 32), int)
        children = []
        def fork(done, total):
            if not children:
                children.append(os.fork())
        try:
            with TorchThreads(3):
                model.loss_and_grad(x, y, progress=fork)
        except RuntimeError as error:
            well = children == [0] and "child of fork()" in str(error)
            os._exit(3 if well and product() == 400_000 and results(3) == expected else 4)
        print(children[0] > 0, wait_for(children[0]), results(3) == expected)
    """)
    assert printed == "True 3 True\n"


def test_what_progress_raises_ends_the_region():
    printed = program("""
        import numpy as np
        model = pybptt.SequenceModel(pybptt.LSTM(9, 64, seed=0), 5, seed=1)
        x, y = np.ones((400, 32, 9), np.float32), np.ones((400, 32), int)
        def refuse(done, total):
            raise KeyError("enough")
        for _ in range(3):
            try:
                with TorchThreads(3):
                    model.loss_and_grad(x, y, progress=refuse)
            except KeyError as error:
                print(error, product(), results(3) == expected, pybptt.get_num_threads())
    """)
    assert printed == "'enough' 400000.0 True 1\n" * 3


def test_exit_while_a_daemon_thread_computes():
    program("""
        begun = threading.Event()

        def work():
            while True:
                results(3)
                begun.set()

        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
        begun.wait()
    """)


def test_exit_at_once_after_a_call():
    program("results(3); os._exit(0)")
    program("results(3)")
