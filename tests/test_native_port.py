"""examples/native/bptt.c, the port that docs/porting.md has been followed for: it passes the test vectors."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from vector_support import FILES, FOLDER

SOURCE = Path(__file__).parent.parent / "examples" / "native" / "bptt.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
FLAGS = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
ROW = re.compile(r"^(\S+\.json) +(\d+) of +(\d+) +(\d+) +(\S+)$", re.MULTILINE)
# All cases of one layer in one direction without what an LSTM or GRU may have on top.
WHOLE = ("01", "02", "03", "04", "05", "06", "07", "08", "19", "20", "21")
IN_PART = {"17": 8, "18": 2}

pytestmark = pytest.mark.skipif(COMPILER is None, reason="it needs a C compiler")


@pytest.fixture(scope="module")
def bptt(tmp_path_factory):
    program = tmp_path_factory.mktemp("native") / "bptt"
    subprocess.run([COMPILER, *FLAGS, "-o", program, SOURCE, "-lm"], check=True, timeout=100)

    def run(*arguments):
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=100)

    return run


def test_it_passes_the_vectors(bptt):
    result = bptt(*FILES)
    assert (result.returncode, result.stderr) == (0, "")
    rows = {row[0][:2]: row for row in ROW.findall(result.stdout)}
    assert len(rows) == len(FILES)
    for number, (_, run, of, values, error) in rows.items():
        expected = int(of) if number in WHOLE else IN_PART.get(number, 0)
        assert int(run) == expected
        assert (int(values) > 0) == (expected > 0)
        assert float(error) <= 1e-12


@pytest.mark.parametrize("where", [("forward", "output"), ("backward", "input")])
def test_it_says_what_is_wrong(bptt, tmp_path, where):
    """One number of one array is another by 1e-9."""
    file = json.loads((FOLDER / "07_lstm.json").read_text())
    of_pass, name = where
    file["cases"][0][of_pass][name][0][0][0] += 1e-9
    (tmp_path / "wrong.json").write_text(json.dumps(file))
    result = bptt(tmp_path / "wrong.json")
    assert result.returncode == 1
    assert f"the first that is wrong is {name}" in result.stdout
    assert "WRONG" in result.stdout


def test_it_says_where_the_first_error_is(bptt, tmp_path):
    """In the order of the work: of two wrong steps of a sweep the later one, and there the first array."""
    file = json.loads((FOLDER / "07_lstm.json").read_text())
    steps = file["cases"][0]["backward"]["sweeps"][0]["runs"][0]
    for name, t in (("dc", 1), ("to_h", 2), ("dz_g", 2)):
        steps[name][t - 1][0][0] += 1e-9
    (tmp_path / "wrong.json").write_text(json.dumps(file))
    assert "lstm: the first that is wrong is dz_g, at step 2\n" in bptt(tmp_path / "wrong.json").stdout


def test_a_value_that_it_does_not_know_is_no_success(bptt, tmp_path):
    file = json.loads((FOLDER / "02_elman.json").read_text())
    file["cases"][0]["forward"]["more"] = [1.0]
    (tmp_path / "more.json").write_text(json.dumps(file))
    result = bptt(tmp_path / "more.json")
    assert result.returncode == 1
    assert "more was not compared" in result.stdout


def test_what_is_no_vector(bptt, tmp_path):
    (tmp_path / "broken.json").write_text('{"cases": [')
    for path in (FOLDER / "schema.json", tmp_path / "broken.json", tmp_path / "absent.json"):
        result = bptt(path)
        assert result.returncode in (1, 2)
        assert result.stderr
