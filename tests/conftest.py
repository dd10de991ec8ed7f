"""Fixtures of several test files."""

import hypothesis
import pytest

import pybptt

pytest.register_assert_rewrite("support")  # so that its assertions say what they compared
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
