"""How far a merged model is from the one that it was made from: the loss of healing."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fasthmr.body.default_body import load_default_body
from fasthmr.body.keypoints import KeypointBody
from fasthmr.body.transfer import fit_pose
from fasthmr.data.augment import TrainBatch
from fasthmr.data.records import KEYPOINTS_IN_POINTS
from fasthmr.geometry.cameras import project_to_crop
from fasthmr.heads.keypoint_smpl import KeypointSMPLOutput, PoseEstimate
from fasthmr.models.keypoint_hmr import KeypointHMR
from fasthmr.models.reduced import ReducedEncoder, ReducedEncoderConfig
from fasthmr.reduction.mask_tokens import person_patches
from fasthmr.reduction.tome_schedule import run_block
from fasthmr.training.crop_batches import CropBatch
from fasthmr.training.losses import LossWeights, losses, pose_losses
from fasthmr.types import BodyParams, HMROutput

Terms = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class HealWeights:
    """Weight of each term.

    Attributes:
        states: Squared distance of the tokens after each block over the square of the original's.
        background: Of a token beside the person in `states`, where one on the person has 1.
        readout: The same for what the head's transformer gives.
        maps: Divergence of heat maps and mask, and 2D points and depths, for heads that have them.
        pose: Rotations, shape, joints and their projection: the terms of `outputs`.
        outputs: Weights within `maps` and `pose`.
        truth: Of the loss against labels, for batches that carry them.
    """

    states: float = 1.0
    background: float = 0.1
    readout: float = 1.0
    maps: float = 1.0
    pose: float = 1.0
    outputs: LossWeights = field(default_factory=LossWeights)
    truth: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What one model makes of a batch.

    Attributes:
        states: Tokens after each block by block number, on every patch of the grid.
        person: Patches on the person, as the merging saw them.
        readout: What the head's transformer gives.
        points: Maps and points of a keypoint head.
    """

    states: dict[int, Float[Tensor, "batch patches dim"]]
    person: Bool[Tensor, "batch patches"] | None
    readout: Tensor
    pose: PoseEstimate
    points: KeypointSMPLOutput | None


class Distiller:
    """The loss of a merged model against its original, on a batch.

    Args:
        student: In evaluation mode.
        teacher: Left as it is.
    """

    def __init__(self, student: Any, teacher: Any, weights: HealWeights) -> None:
        self.student, self.teacher, self.weights = student, _frozen_view(teacher), weights
        config: ReducedEncoderConfig = student.encoder.config
        whole = ReducedEncoderConfig(source=config.source, output=config.output)
        self._teacher_encoder = ReducedEncoder(whole, self.teacher.encoder).eval()
        depth = len(student.encoder.inner.blocks)
        layers = config.layers
        self.tops = list(range(depth)) if layers is None else [group[-1] for group in layers.groups]
        body = load_default_body(student.head.config.num_betas)
        device = next(student.parameters()).device
        self.keypoint_body = KeypointBody(body, KEYPOINTS_IN_POINTS).to(device)

    def __call__(self, batch: CropBatch) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Weighted sum and the unweighted terms."""
        with torch.no_grad():
            wanted = self._read(self.teacher, self._teacher_encoder, batch)
        found = self._read(self.student, self.student.encoder, batch)
        weights = self.weights
        person = found.person if batch.mask is None else self._person(batch.mask)
        terms = {
            "states": self._states(found, wanted, person),
            "readout": relative_distance(found.readout, wanted.readout).mean(),
        }
        total = weights.states * terms["states"] + weights.readout * terms["readout"]
        pseudo = _as_labels(wanted, self.keypoint_body)
        pose = pose_losses(found.pose, pseudo, self.keypoint_body)
        total = total + weights.pose * _weighted(pose, weights.outputs)
        terms.update(pose)
        if found.points is not None and wanted.points is not None:
            maps = _map_losses(found.points, wanted.points)
            total = total + weights.maps * _weighted(maps, weights.outputs)
            terms.update(maps)
        if weights.truth and batch.labels is not None:
            terms["truth"] = self._truth(found, batch.labels)
            total = total + weights.truth * terms["truth"]
        return total, terms

    def _read(self, model: Any, encoder: ReducedEncoder, batch: CropBatch) -> _Reading:
        """Run a model and note what leaves each block and the head's transformer."""
        mask = batch.mask if encoder.takes_mask else None
        maps, state, person = encoder.start(batch.pixels, mask)
        states: dict[int, Tensor] = {}
        for index in range(encoder.first_merge, len(encoder.inner.blocks)):
            block = encoder.inner.blocks[index]
            state = run_block(block, state, plan=encoder.config.tokens, index=index, person=person)
            states[index] = state.unmerge(encoder.grid).flatten(2).mT if state.merged else state.tokens
        features = encoder.features(*encoder.finish(maps, state))
        head = model.head
        points: KeypointSMPLOutput | None = None
        with _output_of(head.decoder.norm if isinstance(model, KeypointHMR) else head.decoder) as kept:
            if isinstance(model, KeypointHMR):
                output = model.head(features)
                points, pose = output, output.pose
            else:
                read: HMROutput = head(features[-1], batch.bbox_info)
                rotmats = torch.cat(
                    (read.params.global_orient, fit_pose(read.params.body_pose, self.keypoint_body.body)), 1
                )
                pose = PoseEstimate(rotmats=rotmats, betas=read.params.betas, camera=read.camera)
        return _Reading(states=states, person=person, readout=kept[-1], pose=pose, points=points)

    def _states(self, found: _Reading, wanted: _Reading, person: Tensor | None) -> Float[Tensor, ""]:
        pairs = [(found.states[block], wanted.states[self.tops[block]]) for block in found.states]
        if not pairs:
            return wanted.readout.new_zeros(())
        distance = torch.stack([relative_distance(ours, theirs) for ours, theirs in pairs])
        if person is None:
            return distance.mean()
        weight = torch.where(person, 1.0, self.weights.background)
        return (distance * weight).sum() / (len(pairs) * weight.sum().clamp(min=1e-6))

    def _person(self, mask: Tensor) -> Bool[Tensor, "batch patches"]:
        encoder = self.student.encoder
        return person_patches(mask, patch_size=encoder.strides[-1], padding=encoder.inner.patch_padding)

    def _truth(self, found: _Reading, labels: TrainBatch) -> Float[Tensor, ""]:
        if found.points is not None:
            return losses(found.points, labels, self.keypoint_body, self.weights.outputs)[0]
        return _weighted(pose_losses(found.pose, labels, self.keypoint_body), self.weights.outputs)


def relative_distance(
    ours: Float[Tensor, "*batch dim"], theirs: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch"]:
    """Squared distance over the square of the second vector."""
    ours, theirs = ours.float(), theirs.float()
    return (ours - theirs).square().sum(-1) / theirs.square().sum(-1).clamp(min=1e-6)


@contextmanager
def _output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module returns inside the block, call by call."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        kept.append(output)

    handle = module.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def _as_labels(reading: _Reading, keypoint_body: KeypointBody) -> TrainBatch:
    """What the original says, in the form of labels; pictures are left out."""
    pose = reading.pose
    points = keypoint_body(BodyParams.of_rotmats(pose.rotmats, pose.betas))
    projected = project_to_crop(points, pose.camera)
    nothing = pose.camera.new_zeros(len(points), 0, 0)
    return TrainBatch(
        pixels=pose.camera.new_zeros(len(points), 3, 0, 0),
        mask=nothing,
        rotations=pose.rotmats,
        betas=pose.betas,
        points=projected,
        points_3d=points - points[:, :1],
        inside=projected.abs().amax(-1) < 0.5,
    )


def _map_losses(found: KeypointSMPLOutput, wanted: KeypointSMPLOutput) -> dict[str, Tensor]:
    """Named as in `LossWeights`; each is zero where both agree."""
    heat = found.heat_logits.float().log_softmax(-1)
    wanted_heat = wanted.heat_logits.float().log_softmax(-1)
    mask, score = wanted.mask_logits.float().sigmoid(), wanted.points.score
    entropy = F.binary_cross_entropy_with_logits(wanted.mask_logits.float(), mask)
    seen = score.sum().clamp(min=1e-6)
    return {
        "heat": (wanted_heat.exp() * (wanted_heat - heat)).sum(-1).mean(),
        "xy": ((found.points.xy - wanted.points.xy).abs().sum(-1) * score).sum() / seen,
        "depth": ((found.points.z - wanted.points.z).abs() * score).sum() / seen,
        "mask": F.binary_cross_entropy_with_logits(found.mask_logits.float(), mask) - entropy,
    }


def _weighted(terms: Terms, weights: LossWeights) -> Float[Tensor, ""]:
    return torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()


def _frozen_view(model: Any) -> Any:
    """The same weights without gradients and in evaluation mode; the model itself stays as it is."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor.detach() for tensor in tensors}).eval()
