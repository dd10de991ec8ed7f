"""What the core takes of the machine: memory that it keeps, and threads as threadpoolctl sees them."""

from pathlib import Path

import pytest
import threadpoolctl
from support import run_python

import pybptt


def test_kept_memory_is_given_back():
    """In a process of its own, because what other tests have left in malloc's heap moves what is resident."""
    run_python("""
        import os
        from pathlib import Path
        import numpy as np
        import pybptt

        def resident_bytes():
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        np.ones(4_000_000)  # gone, it makes malloc keep blocks of its size for itself
        layer, x = pybptt.LSTM(8, 128, seed=0), np.ones((400, 32, 8), np.float32)
        pybptt.release_memory()
        output, _, tape = layer.forward(x)
        size, expected = tape.nbytes, output.copy()
        assert pybptt.release_memory() < size / 10  # a tape that is alive keeps its own
        del tape
        before = resident_bytes()
        given = pybptt.release_memory()
        assert given >= size
        assert before - resident_bytes() > 0.9 * size
        assert pybptt.release_memory() == 0
        layer.forward(2 * x)
        assert np.array_equal(output, expected)  # an array that is alive was not given back
    """)


def ours():
    return [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "pybptt"]


def test_threadpoolctl_reports_the_threads(set_threads):
    set_threads(3)
    (info,) = ours()
    assert (info["internal_api"], info["num_threads"], info["version"]) == ("pybptt", 3, pybptt.__version__)
    assert Path(info["filepath"]).samefile(pybptt._core.__file__)


def test_threadpoolctl_limits_the_threads(set_threads):
    set_threads(3)
    for limits in (1, {"pybptt": 1}):
        with threadpoolctl.threadpool_limits(limits):
            assert pybptt.get_num_threads() == 1
        assert pybptt.get_num_threads() == 3
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert pybptt.get_num_threads() == 3
    with threadpoolctl.threadpool_limits(5000, user_api="pybptt"):
        assert pybptt.get_num_threads() == 1024


@pytest.mark.parametrize("order", ["threadpoolctl, pybptt", "pybptt, threadpoolctl"])
def test_threadpoolctl_finds_the_core_whichever_is_imported_first(order):
    program = (
        f"import {order}; print(sum(i['user_api'] == 'pybptt' for i in threadpoolctl.threadpool_info()))"
    )
    assert run_python(program) == "1\n"


def test_threadpoolctl_may_be_looked_for_before_it_is_imported():
    """As programs do that can use it, if it is there."""
    assert (
        run_python("""
            import importlib.util, sys, pybptt
            for _ in range(2):
                assert importlib.util.find_spec("threadpoolctl") is not None
            import threadpoolctl
            print(sum(info["user_api"] == "pybptt" for info in threadpoolctl.threadpool_info()))
        """)
        == "1\n"
    )


def test_a_threadpoolctl_that_takes_no_controllers():
    """Up to 3.2 it had no `register`."""
    stand_in = "import sys, types; sys.modules['threadpoolctl'] = types.ModuleType('threadpoolctl'); "
    assert run_python(stand_in + "import pybptt; print(pybptt.__version__)") == pybptt.__version__ + "\n"


def test_without_threadpoolctl():
    printed = run_python("""
        import sys, pybptt
        sys.path.clear()
        try:
            import threadpoolctl
        except ImportError:
            print("not there")
    """)
    assert printed == "not there\n"
