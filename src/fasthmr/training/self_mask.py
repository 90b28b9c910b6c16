"""Training of the self-mask head: person or background, read from tokens that the model has anyway.

What is right comes from masks of the crops, or, where nobody has masks, from the model itself: the silhouette
of the mesh that it recovers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fasthmr.body.default_body import load_default_body
from fasthmr.body.lbs import BodyModel
from fasthmr.body.transfer import fit_pose
from fasthmr.errors import UsageError
from fasthmr.geometry.cameras import HMR2_FOCAL, crop_camera_translation
from fasthmr.layers.tokens import TokenState
from fasthmr.models.reduced import ReducedEncoder
from fasthmr.reduction.mask_tokens import person_patches
from fasthmr.reduction.self_mask import SelfMaskConfig, SelfMaskHead
from fasthmr.reduction.tome_schedule import run_blocks
from fasthmr.render.rasterizer import rasterize
from fasthmr.training.crop_batches import BatchSource, CropBatch
from fasthmr.types import BodyParams

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SelfMaskTraining:
    """Length of the training.

    Attributes:
        learning_rate: Falls linearly to zero.
        ratio_weight: Of the squared difference between the share of tokens that are marked and the share that
            should be, in each picture.
        min_share, dilate: Which patches are on the person; those of the `TokenMergePlan` it is trained for.
    """

    steps: int = 200
    learning_rate: float = 1e-2
    ratio_weight: float = 1.0
    min_share: float | None = None
    dilate: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0:
            raise ValueError(f"SelfMaskTraining: steps={self.steps} or learning_rate={self.learning_rate}")


def train_self_mask(
    model: Any,
    batches: BatchSource,
    config: SelfMaskTraining | None = None,
    *,
    head: SelfMaskConfig | None = None,
    progress: Callable[[int, Tensor], None] | None = None,
) -> SelfMaskHead:
    """A head for the tokens of a model that is not reduced; the model stays as it is.

    Args:
        batches: From step 0 on. Batches without masks take `silhouettes` of what the model recovers.
        head: Sizes; None for a head of the model's width that reads what enters the first block.
        progress: Called after each step with its number and the loss.

    Raises:
        UsageError: The model is reduced already, or its encoder has no tokens.
    """
    config = config or SelfMaskTraining()
    encoder = model.encoder
    if isinstance(encoder, ReducedEncoder) or not hasattr(encoder, "before_blocks"):
        raise UsageError("a self-mask head is trained on a model with ViT blocks that is not reduced yet")
    first = next(encoder.parameters())
    head = head or SelfMaskConfig(dim=encoder.channels[-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        trained = head.build().to(first.device)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=config.learning_rate, weight_decay=0.0)
    training, body = model.training, load_default_body()
    model.eval()
    for step in range(config.steps):
        batch = batches(step).to(first.device)
        with torch.no_grad():
            mask = silhouettes(model, batch, body) if batch.mask is None else batch.mask
            tokens = _tokens(encoder, batch, head.after).tokens
        wanted = marks(encoder, mask, config).to(tokens.dtype)
        logits = trained(tokens)
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
        share = logits.sigmoid().mean(1) - wanted.mean(1)
        loss = loss + config.ratio_weight * share.square().mean()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - step / config.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == config.steps - 1:
            _LOG.info("self-mask, step %d: loss %.4f", step, loss.item())
        if progress is not None:
            progress(step, loss.detach())
    model.train(training)
    return trained.eval()


@dataclass(frozen=True, kw_only=True)
class MaskAgreement:
    """Marked patches against those that should be, over all pictures.

    Attributes:
        iou: Patches marked in both over those marked in either.
        recall: Share of the patches on the person that are marked; the others may merge.
        share: Share of all patches that are marked.
    """

    iou: float
    recall: float
    share: float

    @staticmethod
    def of(found: Bool[Tensor, "batch patches"], wanted: Bool[Tensor, "batch patches"]) -> MaskAgreement:
        both, either = (found & wanted).sum().item(), (found | wanted).sum().item()
        return MaskAgreement(
            iou=both / max(either, 1),
            recall=both / max(wanted.sum().item(), 1),
            share=found.float().mean().item(),
        )


@torch.no_grad()
def compare_with_masks(
    head: SelfMaskHead, model: Any, batch: CropBatch, config: SelfMaskTraining | None = None
) -> MaskAgreement:
    """How well a head agrees with the masks of a batch.

    Raises:
        ValueError: The batch has no masks.
    """
    if batch.mask is None:
        raise ValueError("this batch has no masks to compare with")
    tokens = _tokens(model.encoder, batch, head.config.after).tokens
    return MaskAgreement.of(
        head.person(tokens), marks(model.encoder, batch.mask, config or SelfMaskTraining())
    )


def marks(encoder: Any, mask: Tensor, config: SelfMaskTraining) -> Bool[Tensor, "batch patches"]:
    """Patches on the person, as token merging counts them."""
    return person_patches(
        mask,
        patch_size=encoder.strides[-1],
        padding=encoder.patch_padding,
        min_share=config.min_share,
        dilate=config.dilate,
    )


@torch.no_grad()
def silhouettes(
    model: Any, batch: CropBatch, body: BodyModel, resolution: int = 64
) -> Float[Tensor, "batch height width"]:
    """Masks of the meshes that a model recovers, as large as the pictures of the batch.

    Args:
        body: Models trained on SMPL are posed on it as well; limbs then differ by a little.
        resolution: Rows of the picture that is rendered.
    """
    height, width = batch.pixels.shape[-2:]
    features = model.encoder(batch.pixels)
    if hasattr(model.head, "from_tokens"):
        output = model.head(features[-1], batch.bbox_info)
        params, camera = output.params, output.camera
    else:
        pose = model.head(features).pose
        params, camera = BodyParams.of_rotmats(pose.rotmats, pose.betas), pose.camera
    params = replace(params, body_pose=fit_pose(params.body_pose, body))
    vertices = body(params).vertices + crop_camera_translation(camera)[:, None]
    columns = round(resolution * width / height)
    # Of the crop of 256 pixels: x / z * HMR2_FOCAL / 256 is 0 in its middle, 0.5 at its lower edge.
    focal = HMR2_FOCAL / 256 * resolution
    K = torch.tensor(
        [[focal, 0, (columns - 1) / 2], [0, focal, (resolution - 1) / 2], [0, 0, 1]], dtype=torch.float32
    )
    faces = body.faces.cpu()
    masks = [
        rasterize(mesh, faces, K, (resolution, columns)).silhouette.float() for mesh in vertices.float().cpu()
    ]
    return F.interpolate(torch.stack(masks)[:, None], (height, width), mode="nearest")[:, 0].to(camera.device)


def _tokens(encoder: Any, batch: CropBatch, after: int) -> TokenState:
    """What the head reads."""
    _, state = encoder.before_blocks(batch.pixels)
    return run_blocks(encoder.blocks[:after], state)
