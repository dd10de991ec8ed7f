"""Fixtures of several test files."""

import signal

import hypothesis
import pytest

import pybptt

pytest.register_assert_rewrite(
    "support", "cell_support", "truncation_support"
)  # so that their assertions say what they compared
hypothesis.settings.register_profile("pybptt", deadline=None, database=None)
hypothesis.settings.load_profile("pybptt")


@pytest.fixture(scope="session")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch's float64 autograd is the outside judge")
    torch.set_num_threads(1)  # the problems are small
    return torch


@pytest.fixture
def set_threads():
    """pybptt.set_num_threads, undone after the test."""
    before = pybptt.get_num_threads()
    yield pybptt.set_num_threads
    pybptt.set_num_threads(before)


@pytest.fixture
def text(tmp_path):
    """A file of 20,000 characters: b, c, d follow "a" in turn, which a table of pairs can't know."""
    path = tmp_path / "text.txt"
    path.write_text("abacad\n" * (20_000 // 7))
    return str(path)


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Some tests press Ctrl-C, which a process started in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
