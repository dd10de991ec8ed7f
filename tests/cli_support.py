"""What the tests of the command line share."""

import re
import sys

PYTHON = [sys.executable, "-m", "pybptt"]
SMALL = ["--hidden", "12", "--batch", "4", "--window", "10", "--sample", "20"]


def number(pattern, output):
    found = re.search(pattern, output)
    assert found, output
    return float(found[1].replace(",", ""))
