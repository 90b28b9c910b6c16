from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from fasthmr.benchmark.counters import count
from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.truncated import cut_and_matched, truncate
from fasthmr.encoders.vmamba import VMambaConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.runtime.backends import load_exported
from fasthmr.runtime.export import export_model
from fasthmr.runtime.export_gate import call, outputs_of

TINY = VMambaConfig(
    widths=(8, 12, 16, 20), depths=(1, 1, 2, 1), ssm_ratio=2, out_stages=(1, 2, 3, 4), image_size=(64, 48)
)


def built(config, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = config.build()
    for parameter in model.parameters():  # as if trained: nothing is zero or one by accident
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def pictures(batch: int, height: int = 64, width: int = 48) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(64, 48), (70, 50), (33, 4), (1, 1)])
@torch.no_grad()
def test_maps_finest_first_for_every_size(height, width):
    net = built(TINY)
    assert net.channels == TINY.widths and net.strides == (4, 8, 16, 32)
    for x, channels, stride in zip(net(pictures(2, height, width)), net.channels, net.strides, strict=True):
        assert x.shape == (2, channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_cut_encoder_is_the_start_of_the_whole(stages):
    whole, cut = built(TINY), truncate(TINY, stages).build().eval()
    state = {key: value for key, value in whole.state_dict().items() if key in cut.state_dict()}
    cut.load_state_dict(state)
    assert not hasattr(cut.layers[-1].downsample, "weight") and len(cut.layers) == stages
    assert sum(key.startswith("outnorm") for key in state) == 2
    with torch.no_grad():
        (x,) = cut(pictures(2))
        assert torch.equal(x, whole(pictures(2))[stages - 1])


@torch.no_grad()
def test_a_batch_equals_its_samples():
    net = built(TINY)
    together = net(pictures(3))[-1]
    assert torch.allclose(together, torch.cat([net(x[None])[-1] for x in pictures(3)]), atol=1e-5)


def test_gradients_reach_all_parameters():
    net = built(replace(TINY, drop_path=0.0)).train()
    sum((x * torch.randn_like(x)).sum() for x in net(pictures(2))).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradients_against_differences():
    small = VMambaConfig(widths=(4, 5), depths=(1, 1), ssm_ratio=1, mlp_ratio=1, image_size=(12, 8))
    net = built(small).double()
    weights = [p for p in net.parameters() if p.numel() <= 20][:8]
    x = pictures(1, 12, 8).double().requires_grad_()
    projection = torch.randn(net(x)[0].numel(), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, *weights: projection @ net(x)[0].flatten(), (x, *weights), fast_mode=True
    )


@torch.no_grad()
def test_classifier():
    net = built(replace(TINY, out_stages=(4,), out_norm=False, classes=5))
    assert net.classify(pictures(2)).shape == (2, 5)
    with pytest.raises(ValueError, match="has no classifier"):
        built(TINY).classify(pictures(1))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("vmamba_t", 30_249_064),
        ("vmamba_t_s2l5", 30_705_832),
        ("vmamba_s", 50_147_752),
        ("vmamba_s_s1l20", 49_012_840),
        ("vmamba_b", 88_557_800),
        ("vmamba_b_s1l20", 86_614_504),
    ],
)
def test_published_parameters(name, params):
    with torch.device("meta"):
        model = replace(encoder_config(name), classes=1000, out_norm=False).build()
    assert sum(p.numel() for p in model.parameters()) == params


@pytest.mark.parametrize(
    ("name", "stages", "params", "macs", "scan_ops"),
    [
        ("vmamba_t", 2, 1_200_768, 1_474_854_912, 35_389_440),
        ("vmamba_s", 3, 31_276_992, 7_458_766_848, 159_252_480),
        ("vmamba_b", 4, 87_532_800, 14_761_328_640, 220_200_960),
    ],
)
def test_counts_of_original_encoders(name, stages, params, macs, scan_ops):
    """Counted on the originals, 256 x 192, with the norm of the returned map."""
    counts = count(truncate(encoder_config(name), stages))
    assert (counts.params, counts.macs, counts.run_macs) == (params, macs, macs)
    assert counts.scan_ops == scan_ops


def test_whole_encoders_at_224():
    """4.87 G with the scans, printed as 4.9."""
    counts = count(replace(encoder_config("vmamba_t"), image_size=(224, 224)))
    assert counts.macs + counts.scan_ops == pytest.approx(4.87e9, abs=0.01e9)


def test_configurations_as_text():
    assert config_from_json(config_to_json(TINY)) == TINY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (1, 2)}, "2 depths but 4 widths"),
        ({"state": 0}, "at least 1"),
        ({"ssm_ratio": 0.01}, "no channels to scan"),
        ({"out_stages": (5,)}, r"out_stages=\(5,\) of 4"),
    ],
)
def test_unusable_configs(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.compile
@torch.no_grad()
def test_exported_models_equal_eager(tmp_path):
    encoder = cut_and_matched(replace(TINY, out_stages=()), 2)
    head = SMPLHeadConfig(context_dim=16, dim=16, depth=1, heads=2, head_dim=8, mlp_dim=16)
    model = built(HMRConfig(encoder=encoder, head=head))
    report = export_model(model, tmp_path, name="small")
    assert {file.engine for file in report.files} == {"onnxruntime", "openvino"}
    for loaded, batch in product((load_exported(file.path) for file in report.files), (1, 3)):
        inputs = {"pixels": torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(batch))}
        expected, got = outputs_of(call(model, inputs)), outputs_of(call(loaded, inputs))
        for key, value in expected.items():
            torch.testing.assert_close(got[key], value, rtol=0, atol=1e-4)
