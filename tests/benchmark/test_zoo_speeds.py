from __future__ import annotations

import pytest

from fasthmr.benchmark.zoo_runs import GroupRun, Setting, ZooRuns
from fasthmr.benchmark.zoo_speeds import cut_rows, speed_rows

ONE = Setting(threads=2, engine="torch", precision="float32", batch=4)
CUTS = ("hmr2_swin_t_s2", "hmr2_swin_t_s3", "hmr2_swin_t_s4")
SECONDS = {
    "hmr2_vit_s": 0.4,
    CUTS[0]: 0.2,
    CUTS[1]: 0.5,
    CUTS[2]: 0.6,
    "hmr2_vit_b": 1.6,
    "vitpose_vit_s": 0.5,
}


def group(*models: str, busy: float = 1.0) -> GroupRun:
    rounds = tuple(
        tuple(busy * noise * SECONDS[m] for m in ("hmr2_vit_s", *models))
        for noise in (1.0, 1.1, 3.0, 1.0, 1.0)
    )
    return GroupRun(setting=ONE, models=("hmr2_vit_s", *models), seconds=rounds)


@pytest.fixture
def runs() -> ZooRuns:
    """The second group ran while the machine was half as fast."""
    groups = [group(*CUTS), group("hmr2_vit_b", "vitpose_vit_s", busy=2.0), group(busy=1.0)]
    return ZooRuns(reference="hmr2_vit_s", settings=(ONE,), machine={}, runs=groups)


def test_speeds_are_multiples_of_the_reference(runs: ZooRuns) -> None:
    rows = {row.model: row for row in speed_rows(runs)}
    assert list(rows) == sorted(rows, key=lambda name: rows[name].seconds)
    unit = rows["hmr2_vit_s"].seconds
    assert unit == pytest.approx(0.44) and rows["hmr2_vit_s"].speedup == 1 and rows["hmr2_vit_s"].rounds == 15
    for name, row in rows.items():
        assert row.speedup == pytest.approx(0.4 / SECONDS[name])
        assert row.interval == pytest.approx((row.speedup, row.speedup))
        assert row.crops_per_s == pytest.approx(4 * row.speedup / unit)
        assert row.crops_interval == pytest.approx((row.crops_per_s, row.crops_per_s))
    assert (rows[CUTS[0]].family, rows["hmr2_vit_b"].family) == ("Swin", "ViT")
    assert rows["hmr2_vit_b"].parameters == 88_247_837 and rows["vitpose_vit_s"].task == "pose"


def test_fronts(runs: ZooRuns) -> None:
    accuracy = {
        CUTS[0]: {"pa_mpjpe_mm": 70.0},
        "hmr2_vit_s": {"pa_mpjpe_mm": 72.0},
        CUTS[1]: {"pa_mpjpe_mm": 65.0, "pck": 0.8},
        CUTS[2]: {"pa_mpjpe_mm": 66.0, "pck": 0.9},
    }
    fronts = {row.model: row.fronts for row in speed_rows(runs, accuracy)}
    assert fronts == {
        CUTS[0]: ("parameters", "macs", "pa_mpjpe_mm"),
        "hmr2_vit_s": ("parameters", "macs"),
        CUTS[1]: ("pa_mpjpe_mm", "pck"),
        CUTS[2]: ("parameters", "macs", "pck"),
        "hmr2_vit_b": ("parameters", "macs"),
        "vitpose_vit_s": ("parameters", "macs"),  # of another task
    }


def test_cuts(runs: ZooRuns) -> None:
    [row] = cut_rows(runs)
    assert row.model == "hmr2_swin_t" and row.setting == ONE
    assert row.ratios[2] == pytest.approx((3, 3, 3)) and row.ratios[3] == pytest.approx((1.2, 1.2, 1.2))
