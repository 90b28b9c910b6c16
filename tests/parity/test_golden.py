"""Our code on the golden cases that travel with the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from parity_lib import load_checkers, read_index, run_case

GOLDEN = Path(__file__).parents[1] / "golden"
ROWS = read_index(GOLDEN)


@pytest.mark.parametrize("row", ROWS, ids=[row["case"] for row in ROWS])
def test_golden(row):
    outcome = run_case(GOLDEN, row, load_checkers())
    assert outcome.status == "PASS", outcome.line()


def test_every_golden_file_is_listed_and_small():
    listed = {GOLDEN / row[part] for row in ROWS for part in ("meta", "data") if row[part]}
    present = {path for path in GOLDEN.glob("*/*") if path.is_file()}
    assert present == listed
    assert sum(path.stat().st_size for path in present) <= 25 * 2**20


def test_command_line():
    run = [sys.executable, str(Path(__file__).with_name("run.py")), str(GOLDEN), "--only", "hmr2.rotations"]
    finished = subprocess.run(run, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    line, last = finished.stdout.splitlines()
    assert line.startswith("PASS hmr2/rotations max_abs=")
    assert last == "1 passed, 0 failed, 0 unsupported"
