"""The papers' and the released modules' numbers, and what the three counts mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fasthmr.benchmark.counters import Counts, count, example_inputs
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.vit import ViT
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.layers.attention import SelfAttention
from fasthmr.layers.skip_transformer import SkipDecoder, SkipEncoder, SkipStackConfig
from fasthmr.models.hmr import HMR
from fasthmr.reduction.tome_schedule import TokenMergePlan, run_blocks
from fasthmr.zoo import preset
from fasthmr.zoo.hmr import smpl_head


def in_g(macs: int, digits: int = 3) -> str:
    return f"{macs / 1e9:.{digits}f}"


def in_m(params: int, digits: int = 3) -> str:
    return f"{params / 1e6:.{digits}f}"


def on_meta(config: SMPLHeadConfig) -> nn.Module:
    with torch.device("meta"):
        return config.build()


def test_hmr2_in_both_conventions() -> None:
    counts = count(preset("hmr2_vit_h").config())
    assert counts.params == 670_459_037
    assert (in_m(counts.params), in_g(counts.macs)) == ("670.459", "125.547")
    assert counts.table_params == 670_210_973
    assert (in_m(counts.table_params), in_g(counts.table_macs)) == ("670.211", "122.590")
    assert counts.layer_macs < counts.run_macs < counts.macs


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [
        ("hmr2_vit_s", "23.97", "4.50"),
        ("hmr2_vit_s_large", "55.71", "4.96"),
        ("hmr2_vit_b", "88.25", "17.16"),
        ("hmr2_vit_b_large", "122.20", "18.04"),
        ("hmr2_vit_l", "305.85", "60.02"),
        ("hmr2_vit_l_large", "341.27", "61.19"),
        ("hmr2_vit_h_small", "633.56", "124.10"),
        ("hmr2_vit_h", "670.46", "125.55"),
        ("vitpose_vit_s", "24.29", "5.59"),
        ("vitpose_vit_s_simple", "21.72", "4.65"),
        ("vitpose_vit_b", "89.99", "18.52"),
        ("vitpose_vit_b_simple", "85.91", "17.46"),
        ("vitpose_vit_l", "308.54", "61.57"),
        ("vitpose_vit_l_simple", "303.45", "60.43"),
        ("vitpose_vit_h", "637.21", "125.83"),
        ("vitpose_vit_h_simple", "631.11", "124.61"),
    ],
)
def test_plain_vit_table(rows, name: str, params: str, gmacs: str) -> None:
    assert (in_m(rows[name]["parameters"], 2), in_g(rows[name]["macs"], 2)) == (params, gmacs)


def test_released_small_model_to_the_last_parameter(rows) -> None:
    assert rows["hmr2_vit_s"]["parameters"] == 23_969_309


@pytest.mark.parametrize(
    ("name", "params", "linear", "attention"),
    [
        ("vit_s", 21_663_744, "4.133", "0.340"),
        ("vit_b", 85_794_816, "16.421", "0.679"),
        ("vit_l", 303_296_512, "58.133", "1.812"),
        ("vit_h", 630_912_000, "120.985", "3.020"),
    ],
)
def test_encoders(name: str, params: int, linear: str, attention: str) -> None:
    counts = count(encoder_config(name))
    assert counts.params == params
    assert (in_g(counts.layer_macs), in_g(counts.macs - counts.layer_macs)) == (linear, attention)
    assert counts.run_macs == counts.macs


@pytest.mark.parametrize(
    ("context", "params", "gmacs"),
    [
        (384, 34_042_013, "0.485"),
        (768, 36_401_309, "0.938"),
        (1024, 37_974_173, "1.240"),
        (1280, 39_547_037, "1.542"),
    ],
)
def test_heads_count_as_published_though_ours_multiply_less(context: int, params: int, gmacs: str) -> None:
    head = on_meta(SMPLHeadConfig(context_dim=context))
    counts = count(head, torch.empty(1, context, 16, 12, device="meta"))
    assert (counts.params, in_g(counts.layer_macs)) == (params, gmacs)
    assert counts.run_macs < 0.1 * counts.macs


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("vitpose_vit_s", "5.25"),
        ("vitpose_vit_s_simple", "4.31"),
        ("vitpose_vit_b", "17.84"),
        ("vitpose_vit_b_simple", "16.78"),
        ("vitpose_vit_l", "59.76"),
        ("vitpose_vit_l_simple", "58.61"),
        ("vitpose_vit_h", "122.81"),
        ("vitpose_vit_h_simple", "121.59"),
    ],
)
def test_pose_models_without_attention_products(name: str, gmacs: str) -> None:
    assert in_g(count(preset(name).config()).layer_macs, 2) == gmacs


def test_small_decoder() -> None:
    counts = count(on_meta(smpl_head(384, "small")), torch.empty(1, 384, 16, 12, device="meta"))
    assert counts.params == 2_305_565


def test_intrinsics_network(rows) -> None:
    row = rows["humanfov_hrnet_w48"]
    assert (row["parameters"], in_g(row["macs"], 2)) == (67_677_178, "21.26")
    assert row["parameters"] - row["table_parameters"] == 1_050_776  # fc2 and final_layer are never called


def with_depth(name: str, depth: int) -> Any:
    config: Any = preset(name).config()
    return replace(config, encoder=replace(config.encoder, depth=depth))


def test_camera_model_with_its_intrinsics_network(rows) -> None:
    row, network = rows["camerahmr_vit_h"], rows["humanfov_hrnet_w48"]
    assert (in_m(row["table_parameters"]), in_g(row["table_macs"])) == ("737.090", "143.989")
    assert in_m(row["parameters"]) == "738.389"
    merged = with_depth("camerahmr_vit_h", 26)
    counts = count(replace(merged, intrinsics=None))  # they add up
    assert in_m(counts.table_params + network["table_parameters"], 2) == "619.03"
    assert in_g(counts.table_macs + network["table_macs"], 2) == "121.33"


def test_head_of_the_camera_model() -> None:
    head = on_meta(SMPLHeadConfig(context_dim=1280, token_input="camera", aux_keypoints=44))
    features, bbox_info = torch.empty(1, 1280, 16, 12, device="meta"), torch.empty(1, 3, device="meta")
    assert count(head, features, bbox_info).params == 39_800_053


class MergingTokens(nn.Module):
    """HMR 2.0 with the published token merging in its first blocks."""

    def __init__(self, model: HMR, plan: TokenMergePlan) -> None:
        super().__init__()
        self.encoder: ViT = model.encoder
        self.head = model.head
        self.plan = plan

    def forward(self, picture: Tensor) -> object:
        person = torch.zeros(1, 192, dtype=torch.bool, device=picture.device)
        state = self.encoder.token_state(picture)
        state = run_blocks(self.encoder.blocks, state, plan=self.plan, person=person)
        return self.head.from_tokens(self.encoder.last_norm(state.tokens))


def test_layers_and_tokens_after_merging() -> None:
    config = with_depth("hmr2_vit_h", 28)
    merged = count(config)
    assert (in_m(merged.table_params), in_g(merged.table_macs)) == ("591.501", "107.483")
    with torch.device("meta"):
        counts = count(MergingTokens(config.build(), TokenMergePlan()), torch.empty(1, 3, 256, 192))
    assert counts.table_params == merged.table_params
    assert in_g(merged.layer_macs - counts.layer_macs, 2) == "54.63"
    assert in_g(counts.table_macs, 1) == "52.8"
    assert merged.macs - counts.macs > merged.table_macs - counts.table_macs  # attention shrinks as well


class Mixed(nn.Module):
    """One of each kind of product."""

    image_size = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, groups=1)
        self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(8, 2, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.plain = nn.GroupNorm(1, 2, affine=False)
        self.unused = nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.ones(2, 3))
        self.attend = SelfAttention(dim=8, heads=2)
        self.offset = torch.ones(2)

    def forward(self, image: Tensor) -> Tensor:
        small = self.grouped(self.conv(image))
        tokens, _ = self.attend(small.flatten(2).mT)
        x = self.plain(self.norm(self.up(tokens.mT.unflatten(-1, small.shape[-2:]))))
        x = nn.functional.interpolate(x, scale_factor=2.0)
        return torch.einsum("bchw,cd->bdhw", x, self.scale) + (x.mT @ x)[:, :1] + self.offset.sum()


CONV, GROUPED, UP = 64 * 4 * 27, 16 * 8 * 18, 16 * 8 * 2 * 16
ATTEND, LOOK = 16 * 8 * 24 + 16 * 8 * 8, 2 * 16 * 16 * 8
EINSUM, SQUARE = 256 * 2 * 3, 2 * 16 * 16 * 16


@pytest.mark.parametrize("shapes_only", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_by_hand(shapes_only: bool, batch: int) -> None:
    torch.manual_seed(0)
    model = Mixed()
    counts = count(model, torch.zeros(batch, 3, 8, 8), shapes_only=shapes_only)
    layers = batch * (CONV + GROUPED + UP + ATTEND)
    assert counts.layer_macs == layers
    assert counts.macs == counts.run_macs == layers + batch * (LOOK + EINSUM + SQUARE)
    assert counts.table_macs == layers + batch * ((4 + 2) * 2 * 64 + 2 * 256)
    assert counts.params == sum(parameter.numel() for parameter in model.parameters())
    assert counts.params - counts.table_params == 30 + 6


def test_the_model_is_left_as_it_is() -> None:
    torch.manual_seed(1)
    model = Mixed().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    counts = count(model)
    assert model.training and not model.conv._forward_hooks and not model.norm._forward_hooks
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert counts == count(model, torch.zeros(1, 3, 8, 8))
    assert isinstance(counts, Counts)


def test_refinements_share_parameters_but_not_products() -> None:
    once = SMPLHeadConfig(context_dim=16, dim=32, depth=2, heads=2, head_dim=4, mlp_dim=8)
    features = torch.empty(1, 16, 4, 3, device="meta")
    one = count(on_meta(once), features)
    three = count(on_meta(replace(once, iterations=3)), features)
    assert (three.params, three.table_params) == (one.params, one.table_params)
    assert (three.macs, three.table_macs) == (3 * one.macs, 3 * one.table_macs)


def test_the_published_decoder_in_plain_form() -> None:
    """The rule for the decoder equals counting a general transformer decoder of the same sizes."""
    dim, inner, mlp, context, tokens, depth = 32, 8, 12, 16, 5, 2
    head = on_meta(
        SMPLHeadConfig(context_dim=context, dim=dim, depth=depth, heads=2, head_dim=4, mlp_dim=mlp)
    )
    own = dim * 3 * inner + inner * dim + dim * inner + inner * dim + 2 * dim * mlp
    readouts = dim * (144 + 10 + 3)
    layers = dim + depth * (own + tokens * context * 2 * inner) + readouts
    counts = count(head, torch.empty(1, context, tokens, 1, device="meta"))
    assert counts.layer_macs == layers
    assert counts.macs == layers + depth * (2 * inner + 2 * inner * tokens)
    assert counts.table_macs == layers + depth * 3 * dim * 4
    start = dim * inner + inner * dim + dim * inner + inner * context  # of layer 0: kept between calls
    read = 2 * 2 * context * tokens + inner * context + inner * dim + 2 * dim * mlp
    assert counts.run_macs == (depth - 1) * start + depth * read + readouts


def test_diffusion_decoder_of_table_12(rows) -> None:
    row = rows["diffusion_decoder_table12"]
    assert (in_m(row["table_parameters"]), in_g(row["table_macs"])) == ("29.506", "6.795")
    assert row["image_size"] == [243, 1024]
    decoder = preset("diffusion_decoder_table12").config()
    counts = count(decoder)
    assert (in_m(counts.table_params, 2), in_g(counts.layer_macs, 2)) == ("29.51", "6.78")
    assert 0.5e9 < counts.macs - counts.run_macs < 0.9e9  # what is not computed, or kept between calls


def test_nine_layers_cannot_be_those_of_table_12(rows) -> None:
    """33.7 M and 8.9 G, or 43.2 M and 9.6 G, instead of 29.5 M and 6.8 G."""
    row = rows["diffusion_decoder_table15"]
    assert (in_m(row["table_parameters"], 1), in_g(row["table_macs"], 1)) == ("43.2", "9.7")
    decoder: Any = preset("diffusion_decoder_table15").config()
    other = count(replace(decoder, vae=replace(decoder.vae, decoder="all_encoder")))
    assert (in_m(other.table_params, 1), in_g(other.layer_macs, 1)) == ("33.7", "8.9")


def test_skip_stacks_by_hand() -> None:
    """The published form computes every token of every layer; ours leaves out what nobody asks for."""
    config = SkipStackConfig(width=8, heads=2, mlp_dim=10, layers=3, max_tokens=20)
    mlp, project = 2 * 8 * 10, 8 * 8
    with torch.device("meta"):
        encoder, decoder = SkipEncoder(config), SkipDecoder(config)
    counts = count(encoder, torch.empty(2, 5, 8))
    layers = 2 * 5 * (3 * (4 * project + mlp) + 2 * project)
    assert counts.layer_macs == layers and counts.run_macs == counts.macs
    assert counts.macs == layers + 2 * 3 * 2 * 5 * 5 * 8
    assert counts.table_macs == layers + 2 * 5 * 8 * 4 * 7
    kept = count(_Wanted(encoder), torch.empty(2, 5, 8))
    left_out = 2 * 4 * (2 * project + mlp) + 2 * 2 * 4 * 5 * 8  # of the last layer
    assert (kept.macs, kept.run_macs) == (counts.macs, counts.macs - left_out)
    counts = count(_Written(decoder), torch.empty(2, 3, 8))
    layers = 2 * (5 * (3 * (6 * project + mlp) + 2 * project) + 3 * 3 * 2 * project)
    assert counts.layer_macs == layers
    assert counts.macs == layers + 2 * 3 * 2 * 5 * (5 + 3) * 8
    assert counts.table_macs == layers + 2 * 5 * 8 * 4 * 10
    start = 2 * (5 * 5 * project + 2 * 5 * 5 * 8)  # self-attention and queries of the first layer: kept
    assert counts.run_macs == counts.macs - start


class _Wanted(nn.Module):
    def __init__(self, stack: SkipEncoder) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x, None, slice(0, 1))


class _Written(nn.Module):
    def __init__(self, stack: SkipDecoder) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, memory: Tensor) -> Tensor:
        return self.stack(memory, 5)


def test_models_that_do_not_say_what_they_take() -> None:
    with pytest.raises(ValueError, match="Linear has neither crop_size nor image_size"):
        example_inputs(nn.Linear(2, 2))
    assert count(nn.Linear(2, 3), torch.zeros(4, 2)).macs == 24
