"""What the recipe `hierarchical` trains: presets as they are, or the same structure, narrower and smaller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.checkpoints.files import read_weights
from fasthmr.checkpoints.hierarchical import init_hierarchical
from fasthmr.encoders.groupmixformer import GroupMixFormerConfig
from fasthmr.encoders.registry import EncoderConfig, encoder_config
from fasthmr.encoders.swin import SwinConfig
from fasthmr.encoders.truncated import HierarchicalConfig, TruncatedConfig, truncate
from fasthmr.encoders.vit import ViT, ViTConfig
from fasthmr.encoders.vmamba import VMambaConfig
from fasthmr.errors import CheckpointMismatch, UsageError
from fasthmr.geometry.rotations import rotmat_to_rot6d
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.heads.smpl import SMPLHead
from fasthmr.models.hmr import HMR, HMRConfig
from fasthmr.models.pose import PoseConfig, PoseModel
from fasthmr.types import HMROutput
from fasthmr.zoo.hmr import smpl_head

Task = Literal["pose", "mesh"]
Model = PoseModel | HMR

_CUT = re.compile(r"(?P<whole>(?:swin|gmf|vmamba)_\w+)_s(?P<stages>[234])")
_HEAD_DIM = 32
_READOUT_GAIN = 0.01
_ZOO_HEIGHT = 256
"""Rows of the pictures of presets."""


def model_config(
    encoder: str,
    task: Task,
    *,
    narrowing: int = 1,
    image_size: tuple[int, int] = (256, 192),
    drop_path: float | None = None,
    continuing: bool = False,
) -> PoseConfig | HMRConfig:
    """The model of a preset (`vitpose_swin_t_s3`, `hmr2_swin_t_s3`), or a smaller one like it.

    Args:
        encoder: `swin_t_s3` and the like, or a plain ViT: `vit_s`.
        narrowing: Widths of encoder and head are divided by it; depths stay.
        image_size: Height and width; windows of attention shrink with the height.
        drop_path: Of the last block of the whole encoder; None for the preset's.
        continuing: The encoder was trained with all its stages, so that kept blocks keep their rates.

    Raises:
        UsageError: There is no such encoder, or it cannot be made so narrow.
    """
    found = _CUT.fullmatch(encoder)
    whole = encoder_config(found["whole"] if found else encoder)
    if not isinstance(whole, HierarchicalConfig if found else ViTConfig):
        raise UsageError(f"'{encoder}' is neither a cut hierarchical encoder such as 'swin_t_s3' nor a ViT")
    try:
        whole = _narrowed(whole, narrowing, image_size)
        if drop_path is not None:
            whole = replace(cast(Any, whole), drop_path=drop_path)
        built: EncoderConfig = whole
        if found:
            stages = int(found["stages"])
            kept = truncate(cast(HierarchicalConfig, whole), stages, continuing=continuing)
            built = TruncatedConfig(encoder=kept, context_dim=cast(HierarchicalConfig, whole).widths[2])
    except ValueError as error:
        raise UsageError(f"'{encoder}' with narrowing={narrowing}: {error}") from error
    width = built.context_dim if isinstance(built, TruncatedConfig) else cast(ViTConfig, built).dim
    if task == "mesh":
        head = smpl_head(width, "small")
        return HMRConfig(encoder=built, head=replace(head, dim=head.dim // narrowing))
    filters = HeatmapHeadConfig(context_dim=width).deconv_filters
    filters = tuple(count // narrowing for count in filters)
    return PoseConfig(encoder=built, head=HeatmapHeadConfig(context_dim=width, deconv_filters=filters))


def _narrowed(config: Any, by: int, image_size: tuple[int, int]) -> Any:
    """The same depths with widths divided by a number; heads stay 32 wide as far as they can."""
    size: dict[str, Any] = {"image_size": image_size}
    if isinstance(config, SwinConfig):
        size["window"] = -(-config.window * image_size[0] // _ZOO_HEIGHT)
    if by == 1:
        return replace(config, **size)
    if isinstance(config, SwinConfig):
        dim = max(config.dim // by, 1)
        heads = tuple(max(1, dim * 2**stage // _HEAD_DIM) for stage in range(len(config.depths)))
        return replace(config, dim=dim, heads=heads, **size)
    if isinstance(config, ViTConfig):
        dim = max(config.dim // by, 1)
        return replace(config, dim=dim, heads=max(1, dim // _HEAD_DIM), **size)
    if isinstance(config, GroupMixFormerConfig):
        widths = tuple(max(10, round(width / by / 10) * 10) for width in config.widths)
        return replace(config, widths=widths, **size)
    assert isinstance(config, VMambaConfig)
    return replace(config, widths=tuple(width // by for width in config.widths), **size)


class Learner(nn.Module):
    """One encoder with the head of each task."""

    def __init__(self, configs: Mapping[Task, PoseConfig | HMRConfig]) -> None:
        super().__init__()
        models = {task: config.build() for task, config in configs.items()}
        self.encoder = next(iter(models.values())).encoder
        self.heads = nn.ModuleDict({task: model.head for task, model in models.items()})

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor | HMROutput]:
        """What each head says."""
        features = self.encoder(pixels)[-1]
        return {task: head(features) for task, head in self.heads.items()}


def start_encoder(encoder: nn.Module, file: Path) -> None:
    """Begin with the encoder of a file: ImageNet weights of its family, or a model with the same encoder.

    Raises:
        UsageError: There is no such file.
        UnsafeFileError: The file is damaged or unsafe.
        CheckpointMismatch: The file holds another encoder.
    """
    if not isinstance(encoder, ViT):
        init_hierarchical(encoder, file)
        return
    state, _ = read_weights(file)
    own = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    wanted = encoder.state_dict()
    wrong = sorted(key for key in wanted if key not in own or own[key].shape != wanted[key].shape)
    if wrong:
        raise CheckpointMismatch(f"{file}: {len(wrong)} weights of the encoder do not fit, first {wrong[0]}")
    encoder.load_state_dict({key: own[key] for key in wanted})


@torch.no_grad()
def set_mean_pose(
    head: nn.Module, rotations: Float[Tensor, "people 24 3 3"], betas: Float[Tensor, "people betas"]
) -> None:
    """Let an SMPL head start from the mean pose and shape of people, upright and facing the camera.

    As in HMR 2.0 the readouts start close to zero, so that the first estimates are the mean.
    """
    assert isinstance(head, SMPLHead)
    mean = rotmat_to_rot6d(rotations.mean(dim=0), layout="columns")
    mean[0] = rotmat_to_rot6d(torch.diag(mean.new_tensor([1.0, -1.0, -1.0])), layout="columns")
    head.init_body_pose.copy_(mean.reshape(1, -1))
    head.init_betas.copy_(betas.mean(dim=0)[None])
    for readout in (head.decpose, head.decshape, head.deccam):
        nn.init.xavier_uniform_(readout.weight, gain=_READOUT_GAIN)
        nn.init.zeros_(readout.bias)
