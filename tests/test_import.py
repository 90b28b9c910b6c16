from __future__ import annotations

import json
import subprocess
import sys

import pytest

import fasthmr

HEAVY = {"cv2", "av", "lightning", "viser", "ray", "onnxruntime", "openvino", "scipy"}
_PROBE = """
import json, sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def probe(statement: str) -> tuple[float, set[str]]:
    """Seconds and top-level modules after a statement in a fresh interpreter; the quickest of three."""
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _PROBE.format(statement=statement)],
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(done.stdout))
    return min(seconds for seconds, _ in runs), set(runs[0][1])


def test_import_is_quick_and_loads_nothing_heavy() -> None:
    seconds, modules = probe("import fasthmr")
    assert seconds <= 2
    assert not modules & (HEAVY | {"torch", "numpy"})


def test_the_pipeline_loads_no_optional_package() -> None:
    _, modules = probe("from fasthmr import Pipeline")
    assert "torch" in modules
    assert not modules & HEAVY


def test_help_is_quick_and_needs_neither_torch_nor_cv2() -> None:
    statement = "from fasthmr.cli import main; assert main(['--help']) == 0; sys.stdout.flush(); print()"
    done = subprocess.run(
        [sys.executable, "-m", "fasthmr", "--help"], capture_output=True, text=True, check=True
    )
    assert "predict" in done.stdout
    seconds, modules = probe(
        f"import os; out = sys.stdout; sys.stdout = open(os.devnull, 'w'); {statement}; sys.stdout = out"
    )
    assert seconds <= 0.4
    assert not modules & {"torch", "cv2", "numpy", "tyro"}


@pytest.mark.parametrize("command", ["demo", "predict", "convert", "import", "models", "doctor"])
def test_help_of_commands_needs_neither_torch_nor_cv2(command: str) -> None:
    code = (
        "import sys; from fasthmr.cli import main; code = main([sys.argv[1], '--help']);"
        "assert not {'torch', 'cv2', 'numpy'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--debug" in done.stdout


def test_every_public_name_is_there() -> None:
    for name in fasthmr.__all__:
        assert getattr(fasthmr, name) is not None
    assert set(dir(fasthmr)) == set(fasthmr.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        fasthmr.nonsense  # noqa: B018
