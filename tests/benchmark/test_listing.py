from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from fasthmr.benchmark.counters import build_for_counting, count, example_inputs
from fasthmr.benchmark.listing import as_table, list_presets
from fasthmr.benchmark.preset_counts import preset_counts, stored_counts
from fasthmr.errors import UsageError
from fasthmr.zoo import list_models, preset, registry

_KEYS = {
    "name", "description", "task", "parameters", "macs", "table_parameters", "table_macs", "run_macs",
    "scan_operations",
    "transformer_macs",
    "regressor_macs", "published", "image_size", "weights",
}  # fmt: skip


def printed(rows: list[dict]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(as_table(rows))
    return stream.getvalue()


def test_every_preset_is_listed(rows) -> None:
    assert sorted(rows) == list_models()
    assert all(set(row) == _KEYS for row in rows.values())
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize("name", list_models())
def test_stored_counts_are_those_of_the_models(name: str) -> None:
    stored = stored_counts(name)
    assert stored is not None, "run: python -m fasthmr.benchmark.preset_counts"
    model = build_for_counting(preset(name).config())
    assert stored.image_size == example_inputs(model)[0].shape[-2:]
    built = sum(parameter.numel() for parameter in model.parameters())
    left_out = sum(getattr(module, "unused_published_params", 0) for module in model.modules())
    assert stored.counts == count(model, in_place=True), "run: python -m fasthmr.benchmark.preset_counts"
    assert stored.counts.params == built + left_out
    assert stored.counts.table_params <= stored.counts.params


def test_another_configuration_is_counted_anew(monkeypatch) -> None:
    row = preset("hmr2_vit_s")
    config: Any = row.config()
    deeper = replace(config, encoder=replace(config.encoder, depth=13))
    monkeypatch.setitem(registry._PRESETS, row.name, replace(row, config=lambda: deeper))
    assert stored_counts(row.name) is None
    assert preset_counts(row.name).counts == count(deeper)
    assert preset_counts(row.name).counts.params > count(config).params


def test_every_published_number_comes_out(rows) -> None:
    published = [(name, entry) for name, row in rows.items() for entry in row["published"]]
    assert [(name, entry["source"]) for name, entry in published if not entry["agrees"]] == []
    assert {entry["convention"] for _, entry in published} == {"complete", "tables"}


def test_exact_numbers_and_differences(rows) -> None:
    row = rows["hmr2_vit_h"]
    assert (row["parameters"], row["table_parameters"]) == (670_459_037, 670_210_973)
    assert row["task"] == "mesh"
    assert row["image_size"] == [256, 256]
    assert row["weights"] is False
    assert rows["fasthmr_s"]["weights"] is True
    (tables,) = (entry for entry in row["published"] if entry["convention"] == "tables")
    assert tables["params"] == 670.2
    assert tables["params_difference"] == pytest.approx(0.010973)
    assert tables["gmacs_difference"] == pytest.approx(-0.009761)


@pytest.mark.parametrize(
    ("name", "transformers", "regressor"),
    [
        ("metro_r50", 27.468, 0.0),
        ("tore_metro_r50", 0.796, 0.454),
        ("fastmetro_l_r50", 6.643, 0.0),
        ("tore_fastmetro_l_r50", 0.760, 0.454),
        ("tore_fastmetro_l_r50_itp80", 0.639, 0.454),
        ("tore_fastmetro_l_r50_itp50", 0.459, 0.454),
        ("tore_hand_fastmetro_l_hrnet_w64_itp80", 0.723, 0.182),
    ],
)
def test_transformers_are_counted_with_and_without_the_shape_regressor(
    rows, name: str, transformers: float, regressor: float
) -> None:
    row = rows[name]
    assert round(row["transformer_macs"] / 1e9, 3) == transformers
    assert round(row["regressor_macs"] / 1e9, 3) == regressor


def test_table_fits_a_hundred_columns(rows) -> None:
    text = printed(list(rows.values()))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert all(name[:24] in text for name in rows)  # longer ones go on in the next line
    assert "670.459 125.547  670.211  122.590" in text
    assert " yes " in text and "agrees" in text


def test_deviations_are_shown(rows) -> None:
    row = rows["hmr2_vit_s"]
    other = {**row["published"][0], "agrees": False, "gmacs_difference": -0.09}
    assert "-2.00%" in printed([{**row, "published": [other]}])


def test_patterns() -> None:
    assert [row["name"] for row in list_presets("fasthmr_[s]")] == ["fasthmr_s"]


def test_nothing_matches() -> None:
    with pytest.raises(UsageError, match="no model matches 'hmr3'"):
        list_presets("hmr3")
