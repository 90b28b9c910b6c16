"""What every hierarchical encoder promises, whole and cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.encoders.groupmixformer import GroupMixFormerConfig
from fasthmr.encoders.registry import encoder_config, list_encoders
from fasthmr.encoders.swin import SwinConfig
from fasthmr.encoders.truncated import (
    HierarchicalConfig,
    TruncatedConfig,
    cut_and_matched,
    truncate,
)
from fasthmr.models.inference import ready_for_inference

SWIN = SwinConfig(dim=8, depths=(2, 1, 2, 1), heads=(1, 2, 2, 4), window=3, image_size=(64, 32))
GMF = GroupMixFormerConfig(
    widths=(20, 20, 30, 40), depths=(1, 1, 2, 1), mlp_ratios=(2, 2, 2, 2), image_size=(64, 32)
)
FAMILIES = {"swin": SWIN, "gmf": GMF}


@pytest.fixture(params=sorted(FAMILIES))
def config(request) -> HierarchicalConfig:
    return FAMILIES[request.param]


def built(config, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = config.build()
    for parameter in model.parameters():  # as if trained: nothing is zero or one by accident
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def pictures(config, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, *config.image_size, generator=torch.Generator().manual_seed(0))


def test_all_maps_finest_first(config):
    config = replace(config, out_stages=(1, 2, 3, 4))
    net = config.build().eval()
    with torch.no_grad():
        maps = net(pictures(config, 2))
    assert net.channels == config.widths and net.strides == (4, 8, 16, 32)
    for x, channels, stride in zip(maps, net.channels, net.strides, strict=True):
        assert x.shape == (2, channels, 64 // stride, 32 // stride)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_cut_encoders_give_one_map_of_stride_16(config, stages):
    cut = cut_and_matched(config, stages)
    net = built(cut).eval()
    with torch.no_grad():
        (x,) = net(pictures(config, 2))
    assert net.channels == (config.widths[2],) and net.strides == (16,) and cut.image_size == (64, 32)
    assert x.shape == (2, config.widths[2], 4, 2)
    assert len(net.encoder.config.depths) == stages == cut.stages


def test_only_kept_stages_are_built(config):
    """Nothing of what leads to a later stage, and the same weights otherwise."""
    whole = {key: tuple(t.shape) for key, t in config.build().state_dict().items()}
    for stages in (2, 3):
        cut = {key: tuple(t.shape) for key, t in truncate(config, stages).build().state_dict().items()}
        norm = {f"norm{stages - 1}.weight", f"norm{stages - 1}.bias"}
        assert cut.keys() - whole.keys() <= norm
        assert all(whole[key] == shape for key, shape in cut.items() if key in whole)
        later = [f".{number}." for number in range(stages, 4)]
        starts = ("layers", "patch_embed_layers", "groupmixformer_backbone")
        assert not [key for key in cut for mark in later if key.startswith(tuple(s + mark for s in starts))]
        assert f"layers.{stages - 1}.downsample.reduction.weight" not in cut


def test_rates_of_stochastic_depth(config):
    config = replace(config, drop_path=0.5)

    def rates(encoder):
        return [m.rate for m in encoder.build().modules() if type(m).__name__ == "DropPath"]

    full, kept = rates(config), rates(truncate(config, 3))
    assert kept[0] == 0 and kept[-1] == pytest.approx(0.5)
    assert rates(truncate(config, 3, continuing=True)) == pytest.approx(full[: len(kept)])


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_batch_equals_its_samples(config, stages):
    net = built(cut_and_matched(config, stages)).eval()
    with torch.no_grad():
        together = net(pictures(config, 3))[0]
        alone = torch.cat([net(sample[None])[0] for sample in pictures(config, 3)])
    assert torch.allclose(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stages", [2, 4])
def test_gradients_reach_all_parameters(config, stages):
    net = built(cut_and_matched(config, stages))
    (net(pictures(config, 2))[0] * torch.randn(1, net.channels[0], 4, 2)).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("training", [False, True])
def test_gradients(config, training):
    """Against differences, in double precision, through blocks, merging and norms."""
    if isinstance(config, SwinConfig):
        small = replace(config, dim=4, depths=(2, 1), heads=(1, 2), image_size=(12, 12))
    else:
        small = replace(config, widths=(10, 10), depths=(1, 1), mlp_ratios=(1, 1), image_size=(8, 8))
    net = built(small).double().train(training)
    x = pictures(small, 2).double().requires_grad_()
    projection = torch.randn(3, net(x)[0].numel(), dtype=torch.float64)
    weights = [p for p in net.parameters() if p.numel() <= 40][:6]

    def run(x, *weights):
        return projection @ net(x)[0].flatten()

    assert torch.autograd.gradcheck(run, (x, *weights), fast_mode=True)


def test_ready_for_inference(config):
    net = built(cut_and_matched(config, 4)).train()
    for _ in range(2):
        net(pictures(config, 4))  # running statistics
    net.eval()
    with torch.no_grad():
        before = net(pictures(config, 2))[0]
        after = ready_for_inference(net)(pictures(config, 2))[0]
    assert torch.allclose(before, after, atol=1e-5 * float(before.abs().max()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_a_layer_without_bias_takes_over_a_batch_norm():
    net = built(replace(GMF, qkv_bias=False))
    net(pictures(GMF, 4))  # running statistics
    net.eval()
    with torch.no_grad():
        before = net(pictures(GMF, 2))[0]
        for _ in range(2):  # the second time there is nothing left to do
            after = ready_for_inference(net)(pictures(GMF, 2))[0]
            assert torch.allclose(before, after, atol=1e-5 * float(before.abs().max()))


def test_matching_layer_is_configuration(config):
    cut = replace(cut_and_matched(config, 2), match_kernel=2, match_norm=True, match_relu=True)
    net = built(cut).eval()
    with torch.no_grad():
        (x,) = net(pictures(config, 1))
    assert x.shape[-2:] == (4, 2) and float(x.min()) >= 0
    assert net.match.kernel_size == (2, 2) and isinstance(net.match_norm, nn.BatchNorm2d)


def test_unusable_cuts(config):
    with pytest.raises(ValueError, match="2, 3 or 4 stages"):
        TruncatedConfig(encoder=truncate(config, 1), context_dim=8)
    with pytest.raises(ValueError, match="used as it is"):
        TruncatedConfig(encoder=truncate(config, 3), context_dim=7)
    with pytest.raises(ValueError, match="no matching layer"):
        replace(cut_and_matched(config, 3), match_relu=True)
    with pytest.raises(ValueError, match="match_kernel is 2 or 3"):
        replace(cut_and_matched(config, 2), match_kernel=5)
    with pytest.raises(ValueError, match="has 4 stages, cannot keep 5"):
        truncate(config, 5)


def test_configurations_as_text(config):
    for stages in (2, 3, 4):
        cut = cut_and_matched(config, stages)
        assert config_from_json(config_to_json(cut)) == cut


@pytest.mark.parametrize("family", ["swin", "gmf"])
def test_registered_names(family):
    names = list_encoders(f"{family}_[tsb]*")
    assert len(names) == 3 * 4
    for name in names:
        config = encoder_config(name)
        stages = int(name[-1]) if name[-2] == "s" and name[-1].isdigit() else 4
        assert len(getattr(config, "encoder", config).depths) == stages
        assert isinstance(config, TruncatedConfig) == name[-1].isdigit()


def test_swin_takes_every_size():
    net = built(SWIN).eval()
    with torch.no_grad():
        for height, width in ((64, 32), (50, 30), (3, 5)):
            (x,) = net(torch.zeros(1, 3, height, width))
            assert x.shape == (1, 64, -(-height // 32), -(-width // 32))


def test_swin_of_the_classifiers_takes_one_size():
    with pytest.raises(
        ValueError, match=r"\(256, 192\).*\(224, 224\) fits, the 'dense' one takes every size"
    ):
        replace(encoder_config("swin_t"), convention="classification")
    config = replace(
        SWIN, window=2, image_size=(64, 128), convention="classification", out_stages=(4,), classes=5
    )
    net = built(config).eval()
    assert net.classify(torch.zeros(2, 3, 64, 128)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"pictures of \(64, 128\) \(height, width\), got \(64, 64\)"):
        net(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="has no classifier"):
        built(SWIN).classify(torch.zeros(1, 3, 64, 32))


def test_groupmixformer_takes_multiples():
    net = built(GMF).eval()
    with pytest.raises(ValueError, match=r"multiples of 32, got \(250, 190\) .*\(256, 192\) fits"):
        net(torch.zeros(1, 3, 250, 190))
    with pytest.raises(ValueError, match=r"multiples of 16, got \(24, 192\)"):
        replace(truncate(GMF, 3), image_size=(24, 192))
    with pytest.raises(ValueError, match="has no classifier"):
        net.classify(torch.zeros(1, 3, 64, 32))
    assert built(replace(GMF, classes=3)).eval().classify(torch.zeros(1, 3, 64, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": (1, 2)}, "4 depths but 2 heads"),
        ({"heads": (3, 2, 2, 4)}, "8 channels are not a multiple of 3"),
        ({"out_stages": (5,)}, r"out_stages=\(5,\) of 4"),
        ({"window": 0}, "at least 1"),
    ],
)
def test_unusable_swin(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SWIN, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (1, 2)}, "4 widths, 2 depths"),
        ({"widths": (20, 25, 30, 40)}, "25 channels are not a multiple of 10"),
        ({"out_stages": (2, 1)}, r"out_stages=\(2, 1\)"),
    ],
)
def test_unusable_groupmixformer(change, message):
    with pytest.raises(ValueError, match=message):
        replace(GMF, **change)


def test_fresh_groupmixformers_do_not_blow_up_maps_block_by_block() -> None:
    torch.manual_seed(0)
    deep = replace(GMF, depths=(12, 12), widths=GMF.widths[:2], mlp_ratios=GMF.mlp_ratios[:2], out_stages=())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for model in (deep.build().eval(), deep.build().train()):
            assert 0.05 < float(model(images)[-1].std()) < 5
