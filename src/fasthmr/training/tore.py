"""Recipe `tore`: METRO and FastMETRO, with and without the reductions of TORE, on the free body or hand.

Bodies come from rendered shards (recipe `first_light` writes them), hands are drawn here. The trunk learns
with the rest, or is that of one of the project's own models and stays as it is; what it sees is then stored
once, and only heads are trained. Steps depend on (seed, step) alone: a resumed run continues as if it had not
stopped. The published settings of each model stand in `specs/tore.md` and in docs/design/027.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.data.augment import RecordStore
from fasthmr.data.hands import SyntheticHands, write_hands
from fasthmr.data.shards import load_shards
from fasthmr.encoders.efficientnet import EfficientNetConfig
from fasthmr.encoders.registry import EncoderConfig, encoder_config
from fasthmr.errors import UsageError
from fasthmr.evaluation.metrics import f_scores, mpjpe_mm, pa_mpjpe_mm, pve_mm
from fasthmr.geometry.alignment import similarity_align
from fasthmr.heads.fastmetro import FastMetroHeadConfig
from fasthmr.heads.metro import MetroHead, MetroHeadConfig
from fasthmr.io.atomic import write_bytes
from fasthmr.layers.mesh_levels import MeshOperators
from fasthmr.models.mesh import MeshModel, MeshModelConfig, mesh_operators, rest_template
from fasthmr.reduction.gtr import GCNRegressorConfig, MLPRegressorConfig, NSRConfig
from fasthmr.reduction.itp import ITPConfig
from fasthmr.reduction.token_learner import TokenLearnerConfig
from fasthmr.training.motion_loop import LoopConfig, run_loop
from fasthmr.training.tore_data import (
    FITTED_LEVELS,
    BodyCrops,
    CachedMaps,
    HandCrops,
    Kind,
    MeshBatch,
    MeshSource,
    MeshSubject,
    cache_maps,
    mesh_subject,
)
from fasthmr.training.tore_losses import (
    FASTMETRO_HAND_LOSS,
    FASTMETRO_LOSS,
    METRO_HAND_LOSS,
    METRO_LOSS,
    TORE_FASTMETRO_LOSS,
    TORE_METRO_LOSS,
    MeshLossConfig,
    MeshLosses,
)
from fasthmr.types import MeshOutput
from fasthmr.zoo import create_model

_LOG = logging.getLogger(__name__)

HOURS = "hours.json"
"""Where a run notes the processor time that it has taken."""

OWN_TRUNKS = ("fasthmr_s", "fasthmr_m")
"""Presets whose trained encoder can stand in for a CNN; it is not trained any further."""

NARROW = EfficientNetConfig(
    stages=((1, 3, 2, 2, 16), (2, 3, 2, 4, 32), (3, 3, 2, 4, 64)),
    stem=16,
    features=256,
    drop_connect=0.0,
    image_size=(112, 112),
)
"""A small EfficientNet with a map of 7 x 7 cells."""


@dataclass(frozen=True, kw_only=True)
class ToreConfig:
    """Settings of the recipe.

    Attributes:
        out: Folder for the checkpoint and, at the end, `model.safetensors`.
        data: Folder of rendered shards (body) or of drawn hands; missing hands are drawn first.
        validation: The same for people or hands that are not trained on.
        maps: Folder for what a trunk that stays as it is sees; runs with the same data and trunk share it.
        trunk: "fasthmr_s" or "fasthmr_m" (trained, stays as it is), "narrow", or a CNN such as "resnet50".
        regressor: What makes the mesh from joint tokens (GTR); "none" for vertex tokens throughout.
        tokens: How image tokens are reduced to a share `keep_ratio`.
        layers: Of each half of each transformer: 1, 2 and 3 are S, M and L.
        width: Of the first transformer: 512 in the papers.
        surface_terms: Compare edges and normals too, where the released code of the family does.
        samples: Records, or stored maps, to train on.
        validated: Samples to measure on while training.
        learning_rate: The highest of one cycle; the papers' is 1e-4 for much longer trainings.
    """

    out: Path
    data: Path
    validation: Path
    maps: Path | None = None
    kind: Kind = "body"
    trunk: str = "fasthmr_s"
    head: Literal["fastmetro", "metro"] = "fastmetro"
    regressor: Literal["none", "nsr", "mlp", "gcn"] = "nsr"
    tokens: Literal["none", "itp", "token_learner"] = "none"
    keep_ratio: float = 0.8
    layers: int = 1
    width: int = 128
    heads: int = 4
    dropout: float = 0.0
    surface_terms: bool = False
    samples: int = 16_384
    validated: int = 256
    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip: float = 1.0
    seed: int = 88
    checkpoint_every: int = 200
    report_every: int = 1000

    def __post_init__(self) -> None:
        if self.kind == "hand" and self.trunk in OWN_TRUNKS:
            raise UsageError(f"trunk '{self.trunk}' knows people, not hands; use 'narrow' or a CNN")
        if self.samples < 1 or self.validated < 1:
            raise UsageError(f"samples={self.samples} and validated={self.validated} must be positive")


def model_config(config: ToreConfig, subject: MeshSubject) -> MeshModelConfig:
    """The model that a run trains, with its mesh stored beside the weights.

    Raises:
        ValueError: The parts do not go together.
    """
    encoder = trunk_config(config.trunk)
    with torch.device("meta"):
        built = encoder.build()
    height, width = (side // built.strides[-1] for side in encoder.image_size)
    levels = mesh_operators(subject.hierarchy).config()
    joints, narrow = len(subject.regressor) - 1, config.width // 2
    channels = built.channels[-1]
    if config.head == "metro":
        head = MetroHeadConfig(
            context_dim=channels,
            cells=height * width,
            joints=joints,
            mesh=levels,
            widths=(config.width, narrow),
            hidden=(2 * config.width, config.width, narrow),
            layers=config.layers,
            heads=config.heads,
            mlp_dim=4 * config.width,
            positions=joints + levels.vertices[0],
            dropout=config.dropout,
            unused_words=0,
        )
    else:
        head = FastMetroHeadConfig(
            context_dim=channels,
            grid=(height, width),
            joints=joints,
            mesh=levels,
            layers=config.layers,
            dims=(config.width, narrow),
            mlp_dims=(4 * config.width, 4 * narrow),
            heads=config.heads,
            dropout=config.dropout,
            learned_levels=int(config.regressor == "none" and config.kind == "body"),
        )
    transformer = {"mlp_dim": 4 * narrow, "layers": config.layers, "heads": config.heads}
    regressor = {
        "none": None,
        "nsr": NSRConfig(dim=narrow, dropout=config.dropout, **transformer),
        "mlp": MLPRegressorConfig(dim=narrow),
        "gcn": GCNRegressorConfig(dim=narrow),
    }[config.regressor]
    tokens = {
        "none": None,
        "itp": ITPConfig(keep_ratio=config.keep_ratio),
        "token_learner": TokenLearnerConfig(keep_ratio=config.keep_ratio),
    }[config.tokens]
    return MeshModelConfig(encoder=encoder, head=head, tokens=tokens, regressor=regressor)


def trunk_config(name: str) -> EncoderConfig:
    """An encoder by the name that the recipe takes.

    Raises:
        UsageError: There is none of that name.
    """
    if name in OWN_TRUNKS:
        return create_model(name).config.encoder  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]
    return NARROW if name == "narrow" else encoder_config(name)


def set_rest_mesh(model: MeshModel, subject: MeshSubject) -> None:
    """Give a model the mesh of the subject, and METRO its joints and coarse vertices at rest."""
    rest = subject.body(subject.body.rest_params(1)).vertices
    points, root = subject.joints(fitted=False)(rest)
    coarse = subject.hierarchy.downsample(rest)[0]
    coarse = coarse if model.config.regressor is None else coarse[:0]
    about_x = torch.tensor([1.0, -1.0, -1.0])  # as the camera sees a body that stands upright
    template = rest_template(points[0], coarse, root[0, 0]) * about_x
    operators = mesh_operators(subject.hierarchy)
    model.set_mesh(MeshOperators(adjacency=operators.adjacency, up=operators.up), template)


def loss_config(config: ToreConfig) -> MeshLossConfig:
    """The loss of the family as released, for three mesh levels."""
    gtr = config.regressor != "none"
    if config.kind == "hand":
        chosen = METRO_HAND_LOSS if config.head == "metro" else FASTMETRO_HAND_LOSS
        clusters = TORE_FASTMETRO_LOSS.clusters if config.tokens == "itp" else 0.0
        chosen = replace(chosen, levels=(0.25, 0.25, 0.5), clusters=clusters)
    elif config.head == "metro":
        chosen = TORE_METRO_LOSS if gtr else METRO_LOSS
    else:
        chosen = TORE_FASTMETRO_LOSS if gtr else FASTMETRO_LOSS
    if config.tokens != "itp":
        chosen = replace(chosen, clusters=0.0)
    return chosen if config.surface_terms else replace(chosen, edges=0.0, edges_self=0.0, normals=0.0)


class ToreTraining:
    """Model, samples and loss of one run."""

    def __init__(self, config: ToreConfig) -> None:
        self.config = config
        self.subject = mesh_subject(config.kind)
        torch.manual_seed(config.seed)
        self.model = model_config(config, self.subject).build()
        set_rest_mesh(self.model, self.subject)
        self.frozen = config.trunk in OWN_TRUNKS
        if self.frozen:
            trained = create_model(config.trunk, pretrained=True)
            self.model.encoder.load_state_dict(cast(nn.Module, trained.encoder).state_dict())
            self.model.encoder.eval().requires_grad_(False)
        chosen = loss_config(config)
        faces = self.subject.hierarchy.faces[range(-1, -4, -1)[chosen.surface]]
        assert faces is not None
        height, width = self.model.config.encoder.image_size
        head = self.model.config.head
        grid = head.grid if isinstance(head, FastMetroHeadConfig) else (7, 7)
        self.losses = MeshLosses(
            chosen, self.subject.joints(fitted=True), faces, grid, seen_width=width / height
        )
        self.samples = self.source(config.data, config.samples, "train")

    def source(self, data: Path, count: int, name: Literal["train", "val", "test"]) -> MeshSource:
        """Samples of a folder; `name` says which part of the drawn hands, or of the stored maps, they are."""
        config = self.config
        if config.kind == "hand":
            size = self.model.config.encoder.image_size[0]
            write_hands(SyntheticHands(name, seed=config.seed, size=size), data, count)
            return HandCrops(self.subject, data)
        store = RecordStore(load_shards(data))
        crops = BodyCrops(self.subject, store, self.model.config.encoder.image_size)
        if not self.frozen:
            return crops
        folder = (config.maps or config.out / "maps") / name
        augmented = name == "train"
        cache_maps(crops, self.model.encoder, folder, count, augmented=augmented, seed=config.seed)
        return CachedMaps(crops, folder)

    @property
    def learner(self) -> nn.Module:
        """What is trained."""
        return self.model.head if self.frozen else self.model

    def output(self, learner: nn.Module, batch: MeshBatch, *, all_levels: bool = False) -> MeshOutput:
        """What the model says of a batch, at the levels that losses compare or at all of them."""
        model = learner if isinstance(learner, MeshModel) else None
        head = learner if model is None else model.head
        maps = batch.seen if model is None else model.encoder(batch.seen)[-1]
        if not isinstance(head, MetroHead):
            return head(maps, None if all_levels else FITTED_LEVELS)
        mask = head.draw_mask(len(maps)) if head.training else None
        output = head(maps, True, mask)
        if all_levels:
            return output
        return replace(output, vertices=output.vertices[:FITTED_LEVELS])

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a step, and its terms."""
        config = self.config
        draw = config.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(draw)
        torch.manual_seed(draw)
        indices = torch.randint(len(self.samples), (config.batch_size,), generator=generator)
        batch = self.samples.batch(indices, generator)
        epoch = step * config.batch_size / len(self.samples)
        return self.losses(self.output(self.learner, batch), batch.labels, epoch)


@torch.no_grad()
def measure(training: ToreTraining, learner: nn.Module, source: MeshSource, count: int) -> dict[str, Tensor]:
    """Errors of each sample in mm, as the families' scripts count them, on the finest mesh.

    Bodies: MPJPE of the regressed joints about the middle of the hips, PA-MPJPE, and MPVE about the pelvis.
    Hands: FreiHAND's errors, whose alignment may mirror and is made for joints and vertices apart.
    """
    subject = training.subject
    joints_of = subject.joints(fitted=False)
    hand = subject.kind == "hand"
    rows: dict[str, list[Tensor]] = {}
    for indices in torch.arange(min(count, len(source))).split(64):
        batch = source.batch(indices, None)
        found = training.output(learner, batch, all_levels=True).vertices[-1]
        true = subject.body(batch.params).vertices
        (points, root), (true_points, true_root) = joints_of(found), joints_of(true)
        errors = {
            "MPJPE": mpjpe_mm(points, true_points, root=0 if hand else (2, 3)),
            "PA-MPJPE": pa_mpjpe_mm(points, true_points, reflection=hand),
            "MPVE": pve_mm(found - root, true - true_root),
        }
        if hand:
            errors |= _aligned_hands(found, true)
        for name, values in errors.items():
            rows.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in rows.items()}


def _aligned_hands(
    found: Float[Tensor, "batch vertices 3"], true: Float[Tensor, "batch vertices 3"]
) -> dict[str, Tensor]:
    aligned = similarity_align(found, true, reflection=True)
    scores = f_scores(aligned, true)
    return {"PA-MPVE": pve_mm(aligned, true), "F@5": scores[:, 0], "F@15": scores[:, 1]}


def train(config: ToreConfig) -> Path:
    """Run or continue the recipe.

    Returns:
        The file with the averaged weights and the mesh.

    Raises:
        UsageError: The folder holds a run with other settings.
    """
    training = ToreTraining(config)
    validation = training.source(config.validation, config.validated, "val")
    config.out.mkdir(parents=True, exist_ok=True)

    hours = config.out / HOURS
    before = json.loads(hours.read_text())["hours"] if hours.is_file() else 0.0

    def judge(learner: nn.Module) -> str:
        found = measure(training, learner, validation, config.validated)
        spent = before + time.process_time() / 3600
        write_bytes(hours, json.dumps({"hours": spent}).encode())
        return ", ".join(f"{name} {values.mean():.3f}" for name, values in found.items())

    loop = LoopConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        clip=config.clip,
        bf16=False,
        checkpoint_every=config.checkpoint_every,
        report_every=config.report_every,
    )
    settings = str(sorted((key, str(value)) for key, value in asdict(config).items() if key not in _PLACES))
    averaged = run_loop(
        training.learner, training.loss, loop, config.out / "last.ckpt", settings=settings, judge=judge
    )
    model = training.model
    finished = model.head if training.frozen else model
    finished.load_state_dict(averaged.state_dict())
    note = {"config": config_to_json(model.config), "recipe": "tore", "trained_body": "free"}
    target = config.out / "model.safetensors"
    save_weights(model.eval(), target, metadata=note)
    _LOG.info("%s after %d steps", target, config.steps)
    return target


_PLACES = ("out", "data", "validation", "maps", "checkpoint_every", "report_every")
"""Settings that another run of the same training may change."""
