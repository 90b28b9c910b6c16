from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fasthmr.benchmark.bench import as_table, bench_models
from fasthmr.benchmark.candidates import make_candidate, variants
from fasthmr.benchmark.counters import count
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import UsageError
from fasthmr.evaluation.timing import summarise, time_in_turns
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.mesh import MeshModel
from fasthmr.runtime.backends import open_model
from fasthmr.temporal.latent_denoiser import LatentDenoiserConfig


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(0)
    encoder = ViTConfig(dim=32, depth=4, heads=2, image_size=(64, 48))
    head = SMPLHeadConfig(context_dim=32, dim=16, depth=1, heads=2, head_dim=8, mlp_dim=16)
    config = HMRConfig(encoder=encoder, head=head)
    path = tmp_path / "tiny.safetensors"
    save_weights(config.build(), path, metadata={"config": config_to_json(config)})
    return str(path)


def test_turns_begin_with_another_run_each_time():
    order: list[str] = []
    seconds = time_in_turns(
        [lambda: order.append("a"), lambda: order.append("b")], seconds=0.0, min_rounds=3, warm_up=1
    )
    assert seconds.shape == (3, 2) and order == list("ab" + "ab" + "ba" + "ab")
    assert len(time_in_turns([lambda: time.sleep(0.002)], seconds=0.02, min_rounds=1)) > 2


def test_summary():
    first = torch.tensor([2.0, 2.2, 1.8, 2.0, 9.0], dtype=torch.float64)  # one round was disturbed
    one, other = summarise(torch.stack([first, first / 2], dim=1))
    assert (one.median_s, one.quartiles_s, one.speedup, one.interval) == (2.0, (2.0, 2.2), 1.0, (1.0, 1.0))
    assert other.speedup == 2.0 and other.interval == pytest.approx((2.0, 2.0)) and other.rounds == 5
    noisy = summarise(torch.rand(9, 2, generator=torch.Generator().manual_seed(0)).double() + 0.5)[1]
    assert noisy.interval[0] < noisy.speedup < noisy.interval[1]


def test_groups_are_compared_with_their_own_first():
    seconds = torch.tensor([[4.0, 2.0, 9.0, 3.0]], dtype=torch.float64).expand(5, 4)
    timings = summarise(seconds, against=(0, 0, 2, 2))
    assert [timing.speedup for timing in timings] == [1, 2, 1, 3]


def test_names_joined_by_commas_are_a_group(weights: str):
    report = bench_models(
        [f"{weights},{weights}", weights], open_model, batches=(1,), seconds=0.0, min_rounds=2
    )
    assert [row.timing.speedup for row in report.rows][::2] == [1, 1]
    single = bench_models([weights, weights], open_model, batches=(1,), seconds=0.0, min_rounds=2)
    assert single.rows[0].timing.speedup == 1


def test_models_without_their_body_get_a_mesh_of_the_right_size():
    [(label, model)] = variants("tore_fastmetro_s_r50", None, None, 0)
    assert isinstance(model, MeshModel) and model.has_mesh and label == "tore_fastmetro_s_r50"
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_a_model_beside_its_merged_form(weights: str):
    report = bench_models(
        [weights],
        open_model,
        batches=(1, 2),
        precisions=("float32", "bfloat16"),
        layers=2,
        tokens=6,
        seconds=0.0,
        min_rounds=2,
    )
    assert [(row.model, row.precision, row.batch) for row in report.rows] == [
        (name, precision, batch)
        for batch in (1, 2)
        for name in ("tiny.safetensors", "tiny.safetensors, 2 layers, 6 tokens")
        for precision in ("float32", "bfloat16")
    ]
    whole, _, merged, _ = report.rows[:4]
    assert merged.macs < whole.macs and whole.timing.speedup == 1 and whole.share is not None
    sizes = {(rate.precision, rate.rows, rate.inner, rate.columns) for rate in report.products}
    assert {("float32", 12, 32, 128), ("bfloat16", 24, 32, 128)} <= sizes
    assert report.machine["threads"] == torch.get_num_threads()
    table = as_table(report)
    assert table.row_count == 8 and "12x32 by 32x128" in str(table.caption)
    assert report.as_json()["rows"][0]["timing"]["rounds"] == 2


def test_what_is_merged(weights: str):
    (_, model), (_, merged) = variants(weights, layers=3, tokens=8, seed=0)
    assert isinstance(merged, nn.Module)
    plan = merged.encoder.config
    assert plan.layers.groups == ((0,), (1,), (2, 3)) and plan.tokens.counts == (4,)
    candidate = make_candidate("m", merged, open_model, "torch", "float32", torch.device("cpu"))
    assert candidate.macs == count(merged.config).run_macs < count(model.config).run_macs
    lowered = make_candidate("m", model, open_model, "torch", "bfloat16", torch.device("cpu"))
    assert lowered.model.model.encoder.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert model.encoder.blocks[0].mlp.fc1.weight.dtype == torch.float32
    output = lowered.model(torch.zeros(1, 3, 64, 64))
    assert lowered.product == (12, 32, 128)
    torch.testing.assert_close(output.camera, model(torch.zeros(1, 3, 64, 64)).camera, rtol=0, atol=0.05)
    assert replace(candidate, name="n").product == candidate.product == (12, 32, 96)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 5}, "5 layers cannot be left of 4"),
        ({"tokens": 13}, "13 tokens cannot be left of 12"),
        ({"precisions": ("float23",)}, r"'float23' \(did you mean 'float32'"),
        ({"engines": ("torhc",)}, r"'torhc' \(did you mean 'torch'"),
        ({"batches": (0,)}, "at least 1"),
        ({"batches": ()}, "at least 1"),
    ],
)
def test_wrong_options(weights: str, options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        bench_models([weights], open_model, **options)


def test_clips_for_models_of_motion(tmp_path: Path):
    config = LatentDenoiserConfig(
        latents=2, condition_dim=6, frames=5, width=8, layers=1, heads=2, mlp_dim=8, max_tokens=8
    )
    path = tmp_path / "denoiser.safetensors"
    save_weights(config.build(), path, metadata={"config": config_to_json(config)})
    report = bench_models([str(path)], open_model, batches=(3,), seconds=0.0, min_rounds=2)
    assert report.rows[0].batch == 3 and report.rows[0].macs == count(config).run_macs


def test_models_that_are_none():
    with pytest.raises(UsageError, match="there is no model 'hmr2_vit_hh'"):
        bench_models(["hmr2_vit_hh"], open_model)
    with pytest.raises(UsageError, match="an exported model cannot be merged"):
        bench_models(["x.onnx"], open_model, layers=3)
