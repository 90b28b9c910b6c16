from __future__ import annotations

import json

import pytest
import run
import torch
from parity_lib import Case, Pair, compare, judge, run_case, tolerance_of
from safetensors.torch import save_file


@pytest.mark.parametrize(
    ("error", "reference", "tolerance", "passes"),
    [
        (0.9e-3, 0.0, {"max_abs": 1e-3}, True),
        (1.1e-3, 0.0, {"max_abs": 1e-3}, False),
        (0.02, 10.0, {"atol": 1e-3, "rtol": 2e-3}, True),
        (0.03, 10.0, {"atol": 1e-3, "rtol": 2e-3}, False),
        (0.02, -10.0, {"max_abs": 1e-3, "rel": 2e-3}, True),
        (0.02, 10.0, {"max_rel_to_max": 2e-3}, True),
        (0.02, 1.0, {"max_rel_to_max": 2e-3}, False),
        (0.02, 1.0, {"mean_abs": 0.03}, True),
        (0.02, 1.0, {"max_abs": 1.0, "mean_abs": 0.01}, False),
        (0.0, 5.0, {"exact": True}, True),
        (1e-12, 5.0, {"exact": True}, False),
        (float("nan"), 5.0, {"max_abs": 1e9}, False),
    ],
)
def test_tolerances(error, reference, tolerance, passes):
    expected = torch.full((3,), reference, dtype=torch.float64)
    _, used, reason = compare(expected + error, expected, tolerance)
    assert (reason == "") == passes
    assert (used <= 1 + 1e-9) == passes


def test_equal_infinities_pass_and_shapes_must_match():
    infinite = torch.tensor([float("-inf"), float("nan")])
    assert compare(infinite, infinite, {"max_abs": 0.1})[2] == ""
    assert "shape" in compare(torch.zeros(2), torch.zeros(1, 2), {"max_abs": 0.1})[2]


def test_plain_values_are_compared_for_equality():
    assert compare({"a": [1, 2]}, {"a": [1, 2]}, {"exact": True})[2] == ""
    assert "a" in compare({"a": [1, 3]}, {"a": [1, 2]}, {"exact": True})[2]


def test_unknown_tolerances_are_refused():
    with pytest.raises(ValueError, match="tolerance"):
        compare(1.0, 1.0, {"almost": 1})
    with pytest.raises(ValueError, match="tolerance"):
        compare(1.0, 1.0, {})


def test_a_value_may_have_its_own_tolerance():
    tolerance = {"img_max_abs": 0.03, "img_mean_abs": 0.006, "atol": 1e-4}
    assert tolerance_of("output/0.img", tolerance) == {"max_abs": 0.03, "mean_abs": 0.006}
    assert tolerance_of("output/0.betas", tolerance) == {"atol": 1e-4}


def case_of(**tensors: torch.Tensor) -> Case:
    named = {f"output/{name}": tensor for name, tensor in tensors.items()}
    return Case(case="a/b", kind="k", meta={}, tensors=named, tolerance={"max_abs": 0.1})


def test_every_output_must_be_computed():
    case = case_of(x=torch.zeros(2), y=torch.zeros(2))
    assert judge(case, {"output/x": torch.zeros(2)}).status == "FAIL"
    both = judge(case, {"output/x": torch.zeros(2), "output/y": torch.full((2,), 0.05)})
    assert (both.status, both.worst) == ("PASS", "output/y")
    assert judge(case_of(), {}).status == "FAIL"
    assert judge(case_of(), {"mid/left_out": torch.zeros(2)}).status == "FAIL"
    assert judge(case_of(), {"n": Pair(actual=3, expected=3, tolerance={"exact": True})}).status == "PASS"


def write_suite(folder, kind):
    save_file({"output/x": torch.zeros(2)}, folder / "x.safetensors")
    (folder / "x.json").write_text(json.dumps({"config": {}}))
    row = {"case": "x", "kind": kind, "meta": "x.json", "data": "x.safetensors", "tolerance": {"max_abs": 1}}
    (folder / "index.json").write_text(json.dumps({"cases": [row]}))
    return row


def test_a_crash_is_a_failure_of_that_case(tmp_path):
    def crash(case):
        raise KeyError("nothing here")

    outcome = run_case(tmp_path, write_suite(tmp_path, "k"), {"k": crash})
    assert outcome.status == "FAIL"
    assert "KeyError" in outcome.line()


def test_unsupported_kinds_and_exit_codes(tmp_path, capsys):
    write_suite(tmp_path, "no.such.kind")
    assert run.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 0 failed, 1 unsupported"
    assert run.main([str(tmp_path), "--allow-unsupported", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["unsupported"] == 1
    assert summary["cases"][0]["status"] == "UNSUPPORTED"
    with pytest.raises(SystemExit):
        run.main([str(tmp_path / "missing")])
