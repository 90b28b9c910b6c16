from __future__ import annotations

import pytest
import torch

from fasthmr.encoders.registry import encoder_config, list_encoders, register_encoder
from fasthmr.encoders.vit import ViT, ViTConfig
from fasthmr.errors import UsageError

TINY = ViTConfig(dim=24, depth=3, heads=2, image_size=(48, 32), drop_path=0.2)


def images(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 48, 32, generator=torch.Generator().manual_seed(seed))


def tiny() -> ViT:
    torch.manual_seed(0)
    return TINY.build().eval()


def test_one_map_of_the_promised_shape():
    vit = tiny()
    (features,) = vit(images(2))
    assert features.shape == (2, *vit.channels, *vit.grid)
    assert vit.strides == (16,)
    assert vit.grid == (3, 2)


def test_gradients_reach_all_parameters():
    vit = tiny().train()
    torch.manual_seed(1)
    sum(vit(images(8, seed))[0].square().sum() for seed in range(3)).backward()
    for name, parameter in vit.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_batch_equals_its_samples():
    vit, batch = tiny(), images(3)
    with torch.no_grad():
        together = vit(batch)[0]
        alone = torch.cat([vit(sample[None])[0] for sample in batch])
    assert torch.allclose(together, alone, atol=1e-5)


def test_halves_with_token_state_make_the_forward():
    vit = tiny()
    with torch.no_grad():
        state = vit.token_state(images(2))
        tokens = state.tokens
        for block in vit.blocks:
            attended, keys = block.attend(tokens, state.size)
            assert keys.shape == (2, 2, 6, 12)
            tokens = block.feed_forward(attended)
        expected = vit(images(2))[0]
    assert torch.allclose(vit.last_norm(tokens).mT.unflatten(-1, vit.grid), expected, atol=1e-5)


def test_other_picture_sizes_need_resizing():
    vit = tiny()
    with pytest.raises(ValueError, match=r"\(48, 32\).*resized\(\(64, 32\)\)"):
        vit(torch.zeros(1, 3, 64, 32))
    larger = vit.resized((64, 32))
    assert larger(torch.zeros(1, 3, 64, 32))[0].shape == (1, 24, 4, 2)
    assert not larger.training
    assert torch.equal(vit.resized((48, 32))(images(1))[0], vit(images(1))[0])


def test_a_stem_of_ones_own():
    class Stem(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 24, 16, 16)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.conv(image)

    vit = ViT(TINY, patch_embed=Stem())
    assert vit(images(1))[0].shape == (1, 24, 3, 2)


@pytest.mark.parametrize(
    ("size", "params"),
    [("s", 21_663_744), ("b", 85_794_816), ("l", 303_296_512), ("h", 630_912_000)],
)
def test_presets_have_the_published_size(size, params):
    with torch.device("meta"):
        vit = encoder_config(f"vit_{size}").build()
    assert sum(parameter.numel() for parameter in vit.parameters()) == params
    assert vit.grid == (16, 12)


def test_configs():
    with pytest.raises(ValueError, match="multiple of heads"):
        ViTConfig(dim=10, depth=1, heads=3)
    with pytest.raises(ValueError, match="smaller than one patch"):
        ViTConfig(dim=10, depth=1, heads=2, image_size=(8, 8))


def test_registry():
    assert {"vit_s", "vit_b", "vit_l", "vit_h"} <= set(list_encoders("vit_*"))
    with pytest.raises(UsageError, match="did you mean 'vit_h'"):
        encoder_config("vit_hh")
    with pytest.raises(ValueError, match="registered already"):

        @register_encoder
        def vit_s() -> ViTConfig:
            return TINY


@pytest.mark.compile
def test_compile_and_export_agree_with_eager():
    vit, batch = tiny(), images(2)
    with torch.no_grad():
        expected = vit(batch)[0]
        assert torch.allclose(torch.compile(vit, backend="aot_eager")(batch)[0], expected, atol=1e-5)
        program = torch.export.export(vit, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        assert torch.allclose(program.module()(images(3, seed=1))[0], vit(images(3, seed=1))[0], atol=1e-5)
