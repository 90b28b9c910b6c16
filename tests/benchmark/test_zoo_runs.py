from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fasthmr.benchmark.listing import list_presets, matching_models
from fasthmr.benchmark.zoo_runs import (
    GroupRun,
    Setting,
    ZooRuns,
    cut_of,
    grouped,
    run_zoo,
)
from fasthmr.errors import UsageError
from fasthmr.runtime.backends import open_model

ONE = Setting(threads=1, engine="torch", precision="float32", batch=1)
LIGHT = "*_swin_*,*_gmf_*,*_vmamba_*,*_vit_[sb],*_vit_[sb]_*"


def test_patterns() -> None:
    names = matching_models(LIGHT)
    assert len(names) == 54 + 8 and names == sorted(names)
    assert matching_models("fasthmr_s, fasthmr_[s]") == ["fasthmr_s"]
    assert [row["name"] for row in list_presets("fasthmr_s,hmr2_vit_?")][:2] == ["fasthmr_s", "hmr2_vit_b"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("hmr3_*", r"no model matches 'hmr3_\*' \(did you mean 'hmr2_\*'\?\)"),
        ("fasthmr_s,hmr2_vit_q", r"no model matches 'hmr2_vit_q' \(did you mean 'hmr2_vit_"),
        (" , ", "no pattern of models"),
    ],
)
def test_patterns_that_nothing_fits(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        matching_models(pattern)


def test_cuts_of_an_encoder_stay_together() -> None:
    assert cut_of("hmr2_swin_t_s3") == ("hmr2_swin_t", 3)
    assert cut_of("hmr2_vit_s") is cut_of("fasthmr_s") is None
    groups = grouped(matching_models(LIGHT))
    assert sum(map(len, groups)) == 62 and max(map(len, groups)) <= 6
    where = {name: group for group in groups for name in group}
    assert all(
        where[f"{cut[0]}_s{stages}"] is group
        for group in groups
        for name in group
        if (cut := cut_of(name))
        for stages in (2, 3, 4)
    )
    assert grouped(["hmr2_vit_h", "hmr2_vit_h_small"]) == [("hmr2_vit_h",), ("hmr2_vit_h_small",)]  # memory


def test_models_are_timed_beside_the_reference_and_a_stopped_run_goes_on() -> None:
    names, told = ["fasthmr_s", "fasthmr_m_fast", "fasthmr_m"], list[str]()
    before = torch.get_num_threads()
    settings = [ONE, replace(ONE, batch=2)]
    runs = run_zoo(
        names, open_model, settings, seconds=0.0, min_rounds=2, done=lambda result, line: told.append(line)
    )
    assert torch.get_num_threads() == before
    assert told == ["[1/1] fasthmr_s, fasthmr_m"]
    assert runs.reference == "fasthmr_m_fast"  # the one in the middle
    assert [(run.setting, run.models) for run in runs.runs] == [
        (setting, ("fasthmr_m_fast", "fasthmr_s", "fasthmr_m")) for setting in settings
    ]
    assert all(len(run.seconds) == 2 and len(row) == 3 for run in runs.runs for row in run.seconds)
    stopped = replace(runs, runs=runs.runs[:1])
    more = run_zoo(names, open_model, settings, seconds=0.0, min_rounds=1, before=stopped)
    assert more.runs[0] == runs.runs[0] and [len(run.seconds) for run in more.runs] == [2, 1]
    same = run_zoo(
        names, open_model, settings, seconds=0.0, before=runs, done=lambda *_: pytest.fail("all is there")
    )
    assert same.runs == runs.runs and same.machine == runs.machine


def test_a_model_that_fails_leaves_the_others() -> None:
    def fail(model: nn.Module | Path, engine: str, precision: str) -> nn.Module:
        opened.append(1)
        if len(opened) == 2:
            raise RuntimeError("no such luck\nat all")
        return open_model(model, engine, precision)

    opened: list[int] = []
    names = ["fasthmr_s", "fasthmr_m_fast", "fasthmr_m"]
    runs = run_zoo(names, fail, [ONE], seconds=0.0, min_rounds=1)
    assert runs.failures == {"fasthmr_s": "torch, float32, 1 thread, batch 1: no such luck"}
    assert runs.runs[0].models == ("fasthmr_m_fast", "fasthmr_m")


def test_one_model_is_its_own_reference() -> None:
    runs = run_zoo(["fasthmr_s"], open_model, [ONE], seconds=0.0, min_rounds=2)
    assert runs.reference == "fasthmr_s" and runs.runs[0].models == ("fasthmr_s",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"precision": "float23"}, r"'float23' \(did you mean 'float32'"),
        ({"engine": "torhc"}, r"'torhc' \(did you mean 'torch'"),
    ],
)
def test_settings_that_are_none(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_zoo(["fasthmr_s"], open_model, [replace(ONE, **change)], seconds=0.0, min_rounds=1)


def test_models_that_are_none() -> None:
    with pytest.raises(UsageError, match="no model or file 'fasthmr_q'"):
        run_zoo(["fasthmr_q"], open_model, [ONE])
    with pytest.raises(UsageError, match="needs models"):
        run_zoo([], open_model, [ONE])


def a_run() -> ZooRuns:
    group = GroupRun(setting=ONE, models=("fasthmr_s", "fasthmr_m"), seconds=((0.25, 0.5), (0.2, 0.4)))
    machine = {"device": "abacus", "torch": "1"}
    return ZooRuns(reference="fasthmr_s", settings=(ONE,), machine=machine, runs=[group])


def test_runs_of_another_machine_are_not_gone_on_with() -> None:
    with pytest.raises(UsageError, match=r"'fasthmr_s' on abacus .*leave out --resume"):
        run_zoo(["fasthmr_s"], open_model, [ONE], before=a_run())
