from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fasthmr.benchmark.counters import count
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import open_weights, save_weights
from fasthmr.checkpoints.loading import build_model, plan_from_file
from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import UsageError
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.camera_hmr import CameraHMR, CameraHMRConfig
from fasthmr.models.hmr import HMR, HMRConfig
from fasthmr.models.keypoint_hmr import KeypointHMR, KeypointHMRConfig
from fasthmr.models.reduced import ReducedEncoder, ReducedEncoderConfig, reduce_model, with_budget
from fasthmr.reduction.adaptive import TokenBudget
from fasthmr.reduction.eclm import LayerMergePlan, MergeRule
from fasthmr.reduction.mask_tokens import ellipse_mask
from fasthmr.reduction.mask_tome import MaskToMe
from fasthmr.reduction.self_mask import SelfMaskConfig, SelfMaskHead
from fasthmr.reduction.tome_schedule import TokenMergePlan
from fasthmr.types import HMROutput
from fasthmr.zoo.registry import preset

VIT = ViTConfig(dim=16, depth=4, heads=2, image_size=(128, 96), drop_path=0.2)
HEAD = SMPLHeadConfig(context_dim=16, dim=24, depth=2, heads=2, head_dim=8, mlp_dim=16)
LAYERS = LayerMergePlan(groups=((0,), (1, 2, 3)))
TOKENS = TokenMergePlan.to_keep(20, tokens=48, per_block=16)


def make_hmr() -> HMR:
    torch.manual_seed(0)
    return HMRConfig(encoder=VIT, head=HEAD).build().eval()


def make_keypoint_hmr() -> KeypointHMR:
    torch.manual_seed(0)
    channels = (8, 12, 16)
    return (
        KeypointHMRConfig(
            encoder=ConvViTConfig(
                widths=channels, blocks=(1, 1, 1), token_stride=8, depth=4, heads=2, image_size=(64, 48)
            ),
            head=KeypointSMPLConfig(
                channels=channels, token_stride=8, map_channels=8, dim=16, depth=1, heads=2
            ),
        )
        .build()
        .eval()
    )


def crops(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


def masks(batch: int = 2) -> Tensor:
    boxes = torch.tensor([[40.0, 10.0, 90.0, 120.0], [30.0, 30.0, 70.0, 110.0]])
    return ellipse_mask(boxes, (128, 128))[:batch]


def values(output: HMROutput) -> list[Tensor]:
    params = output.params
    return [params.global_orient, params.body_pose, params.betas, output.camera]


def assert_same(one: HMROutput, other: HMROutput, tolerance: float = 0.0) -> None:
    for a, b in zip(values(one), values(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("make", [make_hmr, make_keypoint_hmr])
@torch.no_grad()
def test_merging_nothing_changes_nothing(make):
    model, pixels = make(), crops()
    tokens = TokenMergePlan(counts=(0, 0))
    groups = LayerMergePlan(groups=((0,), (1,), (2,), (3,)))
    reduced = reduce_model(model, layers=groups, tokens=tokens)
    assert_same(reduced(pixels), model(pixels), 1e-6)
    assert_same(reduced(pixels, mask=masks()), model(pixels), 1e-6)


@pytest.mark.parametrize("make", [make_hmr, make_keypoint_hmr])
@torch.no_grad()
def test_a_reduced_model_rebuilds_from_its_configuration_and_weights(make):
    model, pixels, mask = make(), crops(), masks()
    reduced = reduce_model(model, layers=LAYERS, tokens=TOKENS)
    again = reduced.config.build().eval()
    again.load_state_dict(reduced.state_dict())
    assert_same(again(pixels, mask=mask), reduced(pixels, mask=mask))
    assert isinstance(reduced, type(model)) and reduced.takes_mask and not model.takes_mask
    assert isinstance(reduced.encoder, ReducedEncoder)
    assert len(reduced.encoder.inner.blocks) == 2 and len(model.encoder.blocks) == 4
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in reduced.parameters()}


@torch.no_grad()
def test_the_file_of_a_reduced_model_is_enough(tmp_path):
    rules = (MergeRule(kind="blend", weight=0.5, linear_only=True), MergeRule())
    tokens = replace(TOKENS, dilate=1, reducer=MaskToMe(order="raster"))
    reduced = reduce_model(make_hmr(), layers=replace(LAYERS, rules=rules), tokens=tokens)
    path = tmp_path / "reduced.safetensors"
    save_weights(reduced, path, dtype=torch.float32, metadata={"config": config_to_json(reduced.config)})
    loaded = build_model(plan_from_file(open_weights(path))).eval()
    assert isinstance(loaded, HMR) and loaded.config == reduced.config
    assert_same(loaded(crops(), masks()), reduced(crops(), masks()))


@pytest.mark.parametrize(
    ("name", "depth", "params", "layers_only", "both"),
    [("hmr2_vit_h", 28, 591.5, 107.5, 52.8), ("camerahmr_vit_h", 26, 619.0, 121.3, 70.7)],
)
def test_counts_of_table_12(name, depth, params, layers_only, both):
    config: Any = preset(name).config()
    groups = (*((block,) for block in range(depth - 1)), tuple(range(depth - 1, 32)))
    reduced = ReducedEncoderConfig(
        source=config.encoder, layers=LayerMergePlan(groups=groups), output="tokens"
    )
    merged = count(replace(config, encoder=reduced))
    assert merged.table_params / 1e6 == pytest.approx(params, abs=0.05)
    assert merged.table_macs / 1e9 == pytest.approx(layers_only, abs=0.05)
    fast = count(replace(config, encoder=replace(reduced, tokens=TokenMergePlan())))
    assert fast.table_macs / 1e9 == pytest.approx(both, abs=0.05)


@torch.no_grad()
def test_the_smpl_head_reads_the_merged_tokens():
    reduced = reduce_model(make_hmr(), tokens=TOKENS)
    assert reduced.features(crops(), masks()).shape == (2, 16, 20, 1)
    maps, state = reduced.encoder.merge(crops()[..., 16:112], masks()[..., 16:112])
    assert maps == [] and state.tokens.shape == (2, 20, 16)
    assert state.size.sum(1).tolist() == [48.0, 48.0]
    on_grid = ReducedEncoder(replace(reduced.encoder.config, output="grid"), reduced.encoder.inner)
    assert on_grid(crops()[..., 16:112])[-1].shape == (2, 16, 8, 6)


@torch.no_grad()
def test_reading_the_grid_is_attention_by_size():
    """On the grid a merged token is read once for each patch; with equal tokens nothing else differs."""
    model = make_hmr()
    context = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1))
    copies = context.repeat_interleave(torch.tensor([1, 4, 2, 1, 3]), dim=1)
    once, by_size = model.head.from_tokens(context), model.head.from_tokens(copies)
    assert (once.params.betas - by_size.params.betas).abs().max() > 1e-5


@torch.no_grad()
def test_the_mask_decides_what_merges():
    reduced = reduce_model(make_hmr(), tokens=TokenMergePlan(counts=(5,)))
    picture, mask = crops()[..., 16:112], masks()[..., 16:112]
    _, state = reduced.encoder.merge(picture, mask)
    person = reduced.encoder._person(picture, mask)
    sizes = state.size.gather(1, state.group)
    assert bool((sizes[person] == 1).all()) and bool((sizes[~person] > 1).any())
    plain = reduce_model(make_hmr(), tokens=TokenMergePlan(counts=(5,), guided=False))
    assert not plain.takes_mask
    with pytest.raises(ValueError, match="takes no mask"):
        plain(crops(), masks())
    # without a mask, the ellipse that fills the picture
    ellipse = ellipse_mask(torch.tensor([[0.0, 0.0, 96.0, 128.0]]), (128, 96)).expand(2, -1, -1)
    assert torch.equal(reduced.encoder(picture)[-1], reduced.encoder(picture, ellipse)[-1])


@torch.no_grad()
def test_a_batch_equals_its_pictures():
    reduced = reduce_model(make_hmr(), layers=LAYERS, tokens=TOKENS)
    together = reduced(crops(), masks())
    for i in range(2):
        alone = reduced(crops()[i : i + 1], masks()[i : i + 1])
        for a, b in zip(values(alone), values(together), strict=True):
            torch.testing.assert_close(a[0], b[i], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_model_that_knows_the_camera():
    torch.manual_seed(0)
    config = CameraHMRConfig(encoder=VIT, head=replace(HEAD, token_input="camera"))
    model = config.build().eval()
    reduced = reduce_model(model, tokens=TOKENS)
    assert isinstance(reduced, CameraHMR)
    bbox_info = torch.zeros(2, 3)
    assert reduced(crops(), bbox_info, masks()).params.betas.shape == (2, 10)


@pytest.mark.parametrize("make", [make_hmr, make_keypoint_hmr])
def test_gradients_reach_all_weights(make):
    """What healing needs."""
    reduced = reduce_model(make(), layers=LAYERS, tokens=TOKENS).train()
    torch.manual_seed(0)
    sum(value.square().sum() for value in values(reduced(crops(4), masks().repeat(2, 1, 1)))).backward()
    reached = {name for name, p in reduced.named_parameters() if p.grad is not None}
    assert {name for name, _ in reduced.encoder.named_parameters(prefix="encoder")} <= reached


def test_training_the_copy_leaves_the_model_alone():
    model = make_hmr()
    before = copy.deepcopy(model.state_dict())
    reduced = reduce_model(model, layers=LAYERS, tokens=TOKENS)
    with torch.no_grad():
        for parameter in reduced.parameters():
            parameter.zero_()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_what_cannot_be_reduced():
    reduced = reduce_model(make_hmr(), tokens=TOKENS)
    with pytest.raises(UsageError, match="reduced already"):
        reduce_model(reduced, layers=LAYERS)
    with pytest.raises(ValueError, match="groups of 3 blocks, the encoder has 4"):
        reduce_model(make_hmr(), layers=LayerMergePlan(groups=((0,), (1, 2))))
    with pytest.raises(ValueError, match="cannot lose 30"):
        reduce_model(make_hmr(), tokens=TokenMergePlan(counts=(30,)))
    with pytest.raises(ValueError, match="the model has 2"):
        reduce_model(make_hmr(), layers=LAYERS, tokens=TokenMergePlan(counts=(1, 1, 1)))
    model: Any = torch.nn.Module()
    model.encoder = torch.nn.Linear(2, 2)
    model.encoder.config = None
    with pytest.raises(UsageError, match="no ViT blocks"):
        reduce_model(model, tokens=TOKENS)
    with pytest.raises(ValueError, match="the mask is"):
        reduced.encoder(crops()[..., 16:112], masks())
    with pytest.raises(ValueError, match="takes pictures of"):
        reduced.encoder(crops())
    with pytest.raises(ValueError, match="the encoder gives one"):
        KeypointHMRConfig(encoder=ReducedEncoderConfig(source=VIT), head=KeypointSMPLConfig())


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch about its own exporter
@torch.no_grad()
def test_onnx_equals_eager(tmp_path):
    import onnxruntime

    reduced = reduce_model(make_hmr(), layers=LAYERS, tokens=TOKENS).encoder
    picture, mask = crops()[..., 16:112].contiguous(), masks()[..., 16:112].float()
    dynamic = ({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC})
    program = torch.onnx.export(reduced, (picture, mask), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    path = tmp_path / "reduced.onnx"
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    names = [given.name for given in session.get_inputs()]
    for batch in (1, 2):
        given = dict(zip(names, (picture[:batch].numpy(), mask[:batch].numpy()), strict=True))
        (features,) = session.run(None, given)
        expected = reduced(picture[:batch], mask[:batch])[-1]
        torch.testing.assert_close(torch.from_numpy(features), expected, rtol=0, atol=1e-4)


def make_self_mask(after: int = 0) -> SelfMaskHead:
    torch.manual_seed(1)
    head = SelfMaskConfig(dim=16, hidden=4, after=after, threshold=0.5).build().eval()
    with torch.no_grad():  # half of the patches
        head.fc2.bias.copy_(-(head(torch.randn(1, 99, 16)) - head.fc2.bias).median())
    return head


@pytest.mark.parametrize(("make", "after"), [(make_hmr, 0), (make_hmr, 1), (make_keypoint_hmr, 0)])
@torch.no_grad()
def test_a_model_that_finds_the_person_itself(tmp_path, make, after):
    plan = TokenMergePlan(counts=(0, 10)) if after else TOKENS
    model = make()
    reduced = reduce_model(model, tokens=plan, self_mask=make_self_mask(after))
    assert not reduced.takes_mask
    path = tmp_path / "self_mask.safetensors"
    save_weights(reduced, path, dtype=torch.float32, metadata={"config": config_to_json(reduced.config)})
    loaded: Any = build_model(plan_from_file(open_weights(path))).eval()
    assert loaded.config == reduced.config
    assert_same(loaded(crops()), reduced(crops()))

    # the same as a mask that covers the patches which the head marks
    picture: Tensor = reduced.picture(crops())
    _, _, person = reduced.encoder.start(picture)
    assert person is not None and 0 < int(person.sum()) < person.numel()
    stride = reduced.encoder.strides[-1]
    mask = person.unflatten(1, reduced.encoder.grid)
    mask = mask.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    if model.encoder.patch_padding == 0:
        given = reduce_model(model, tokens=plan)
        torch.testing.assert_close(given.encoder(picture, mask)[-1], reduced.encoder(picture)[-1])


@pytest.mark.parametrize("make", [make_hmr, make_keypoint_hmr])
@torch.no_grad()
def test_budgets_for_each_picture(make):
    reduced = reduce_model(make(), layers=LAYERS, tokens=TOKENS)
    picture, mask = reduced.picture(crops()), reduced.picture_mask(masks())
    wide = TokenBudget(spare=4, least=8)
    together = reduced.encoder.adaptive(picture, wide, mask)
    for i in range(2):
        alone = reduced.encoder.adaptive(picture[i : i + 1], wide, mask[i : i + 1])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i], rtol=0, atol=1e-5)
    output = reduced.head(together if make is make_keypoint_hmr else together[-1])
    assert output is not None and together[-1].shape[-2:] == reduced.encoder.grid
    with pytest.raises(ValueError, match="need a plan"):
        reduce_model(make(), layers=LAYERS).encoder.adaptive(picture, wide)


@pytest.mark.parametrize("make", [make_hmr, make_keypoint_hmr])
@torch.no_grad()
def test_a_model_with_budgets(make, tmp_path):
    reduced = reduce_model(make(), layers=LAYERS, tokens=TOKENS)
    budget = TokenBudget(spare=4, least=8)
    model = with_budget(reduced, budget)
    picture, mask = model.picture(crops()), model.picture_mask(masks())
    wanted = reduced.encoder.adaptive(picture, budget, mask)
    for ours, theirs in zip(model.encoder(picture, mask), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert model(crops(), mask=masks()).camera.isfinite().all()
    path = tmp_path / "budget.safetensors"
    save_weights(model, path, dtype=torch.float32, metadata={"config": config_to_json(model.config)})
    loaded: Any = build_model(plan_from_file(open_weights(path))).eval()
    assert loaded.config == model.config
    assert with_budget(model, None).config == reduced.config
    with pytest.raises(UsageError, match="merges tokens around a person"):
        with_budget(reduce_model(make(), layers=LAYERS), budget)


def test_self_mask_must_fit():
    with pytest.raises(ValueError, match="no tokens merge around"):
        reduce_model(make_hmr(), self_mask=make_self_mask())
    with pytest.raises(ValueError, match="begin the plan's counts with 1 zeros"):
        reduce_model(make_hmr(), tokens=TOKENS, self_mask=make_self_mask(1))
    with pytest.raises(ValueError, match="reads tokens of 8, the encoder has 16"):
        reduce_model(make_hmr(), tokens=TOKENS, self_mask=SelfMaskConfig(dim=8).build())


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch about its own exporter
@torch.no_grad()
def test_self_mask_in_onnx_equals_eager(tmp_path):
    import onnxruntime

    plan = TokenMergePlan(counts=(0, 10, 5))
    reduced = reduce_model(make_hmr(), tokens=plan, self_mask=make_self_mask(1)).encoder
    picture = crops()[..., 16:112].contiguous()
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(reduced, (picture,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    path = tmp_path / "self_mask.onnx"
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    (name,) = [given.name for given in session.get_inputs()]
    (features,) = session.run(None, {name: picture[:1].numpy()})
    torch.testing.assert_close(torch.from_numpy(features), reduced(picture[:1])[-1], rtol=0, atol=1e-4)


@pytest.mark.compile
@torch.no_grad()
def test_compiled_equals_eager():
    reduced = reduce_model(make_hmr(), layers=LAYERS, tokens=TOKENS).encoder
    picture, mask = crops()[..., 16:112], masks()[..., 16:112]
    compiled = torch.compile(reduced, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(picture, mask)[-1], reduced(picture, mask)[-1], rtol=0, atol=1e-5)
