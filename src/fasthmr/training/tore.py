"""Recipe `tore`: METRO and FastMETRO, with and without the reductions of TORE, on the free body or hand.

Bodies come from rendered shards (recipe `first_light` writes them), hands are drawn here; or both from data
sets in METRO's files, with SMPL or MANO of the user's. The trunk learns
with the rest, or is that of one of the project's own models and stays as it is; what it sees is then stored
once, and only heads are trained. Steps depend on (seed, step) alone: a resumed run continues as if it had not
stopped. See docs/design/028.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.data.augment import RecordStore
from fasthmr.data.hands import SyntheticHands, write_hands
from fasthmr.data.metro_tsv import MetroTsv
from fasthmr.data.shards import load_shards
from fasthmr.heads.fastmetro import FastMetroHead, FastMetroHeadConfig
from fasthmr.heads.metro import MetroHead
from fasthmr.training.hours import HourCounter
from fasthmr.training.loop import LoopConfig, run_loop
from fasthmr.training.mesh_subject import FITTED_LEVELS, MeshSubject, mesh_subject, subject_of_files
from fasthmr.training.metro_crops import MetroCrops
from fasthmr.training.tore_data import (
    BodyCrops,
    CachedMaps,
    HandCrops,
    MeshBatch,
    MeshSource,
    cache_maps,
)
from fasthmr.training.tore_errors import measure
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
from fasthmr.training.tore_model import (
    OWN_TRUNKS,
    ToreConfig,
    continue_from,
    model_config,
    set_rest_mesh,
    start_from,
)
from fasthmr.training.tore_parameters import ParameterLosses
from fasthmr.training.trunk_guide import TrunkGuide
from fasthmr.types import MeshOutput

_LOG = logging.getLogger(__name__)


def loss_config(config: ToreConfig, levels: int = FITTED_LEVELS) -> MeshLossConfig:
    """The loss of the family as released, for so many mesh levels; hands have two of MANO, three here."""
    gtr = config.regressor != "none"
    if config.kind == "hand":
        chosen = METRO_HAND_LOSS if config.head == "metro" else FASTMETRO_HAND_LOSS
        clusters = TORE_FASTMETRO_LOSS.clusters if config.tokens == "itp" else 0.0
        shares = (0.25, 0.25, 0.5) if levels == FITTED_LEVELS else chosen.levels
        chosen = replace(chosen, levels=shares, clusters=clusters)
    elif config.head == "metro":
        chosen = TORE_METRO_LOSS if gtr else METRO_LOSS
    else:
        chosen = TORE_FASTMETRO_LOSS if gtr else FASTMETRO_LOSS
    if config.tokens != "itp":
        chosen = replace(chosen, clusters=0.0)
    chosen = replace(chosen, aligned=config.aligned)
    return chosen if config.surface_terms else replace(chosen, edges=0.0, edges_self=0.0, normals=0.0)


def find_subject(config: ToreConfig) -> MeshSubject:
    """The body or hand that a run learns: the user's, else the free one."""
    if config.body is None or config.mesh is None:
        return mesh_subject(config.kind)
    return subject_of_files(config.kind, config.body, config.mesh)


class Learner(nn.Module):
    """What is trained: the head, the trunk unless it stays as it is, and what guides a trunk.

    Behind a trunk that stays as it is the head reads its maps, which are stored.
    """

    def __init__(
        self, trunk: nn.Module | None, head: MetroHead | FastMetroHead, guide: TrunkGuide | None
    ) -> None:
        super().__init__()
        self.trunk, self.head, self.guide = trunk, head, guide

    def maps(self, seen: Tensor) -> Float[Tensor, "batch channels rows columns"]:
        """What the head reads."""
        return seen if self.trunk is None else self.trunk(seen)[-1]

    def output(self, maps: Float[Tensor, "batch channels rows columns"], *, all_levels: bool) -> MeshOutput:
        """What the head says, at the levels that losses compare or at all of them."""
        if not isinstance(self.head, MetroHead):
            return self.head(maps, None if all_levels else FITTED_LEVELS)
        mask = self.head.draw_mask(len(maps)) if self.head.training else None
        output = self.head(maps, True, mask)
        return output if all_levels else replace(output, vertices=output.vertices[:FITTED_LEVELS])


class ToreTraining:
    """Model, samples and loss of one run."""

    def __init__(self, config: ToreConfig) -> None:
        self.config = config
        self.subject = find_subject(config)
        torch.manual_seed(config.seed)
        self.model = model_config(config, self.subject).build()
        set_rest_mesh(self.model, self.subject)
        if config.start is not None:
            continue_from(self.model, config.start)
        self.frozen = config.trunk in OWN_TRUNKS and config.kind == "body"
        if config.trunk in OWN_TRUNKS and config.start is None:
            start_from(self.model.encoder, config.trunk)
        if self.frozen:
            self.model.encoder.eval().requires_grad_(False)
        chosen = loss_config(config, self.subject.compared)
        faces = self.subject.faces(chosen.surface, needed=config.surface_terms)
        height, width = self.model.config.encoder.image_size
        head = self.model.config.head
        grid = head.grid if isinstance(head, FastMetroHeadConfig) else (7, 7)
        self.losses = MeshLosses(
            chosen, self.subject.joints(fitted=True), faces, grid, seen_width=width / height
        )
        self.of_parameters = ParameterLosses(chosen, self.subject) if config.parameters else None
        trunk, guide = (None, None) if self.frozen else (self.model.encoder, None)
        if trunk is not None and config.guide:
            rest = self.subject.fitted.v_template
            guide = TrunkGuide(trunk.channels[-1], len(self.subject.regressor) - 1, rest)
        self.learner = Learner(trunk, self.model.head, guide)
        self.samples = self.source(config.data, config.samples, "train")

    def source(self, data: Path, count: int, name: Literal["train", "val", "test"]) -> MeshSource:
        """Samples of a folder; `name` says which part of the drawn hands, or of the stored maps, they are."""
        config = self.config
        if config.reads_files:
            return MetroCrops(self.subject, MetroTsv(data, config.kind), self.model.config.encoder.image_size)
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

    def vertices(self, learner: nn.Module, batch: MeshBatch) -> Float[Tensor, "batch vertices 3"]:
        """The mesh of each sample, about whatever the model puts at the origin."""
        learner = cast(Learner, learner)
        return learner.output(learner.maps(batch.seen), all_levels=True).vertices[-1]

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a step, and its terms."""
        config = self.config
        draw = config.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(draw)
        torch.manual_seed(draw)
        indices = torch.randint(len(self.samples), (config.batch_size,), generator=generator)
        batch = self.samples.batch(indices, generator)
        epoch = step * config.batch_size / len(self.samples)
        maps = self.learner.maps(batch.seen)
        output = self.learner.output(maps, all_levels=False)
        total, terms = self.losses(output, batch.labels, epoch)
        if self.of_parameters is not None and output.params is not None:
            more = self.of_parameters(output.params, output.camera, batch.params, batch.labels)
            terms |= more
            total = total + torch.stack(list(more.values())).sum()
        if self.learner.guide is not None:
            told = self.learner.guide(maps, batch.labels)
            terms |= told
            total = total + config.guide * torch.stack(list(told.values())).sum()
        return total, terms


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

    subject, hours = training.subject, HourCounter(config.out, config.start)

    def judge(learner: nn.Module) -> str:
        found = measure(
            subject, lambda batch: training.vertices(learner, batch), validation, config.validated
        )
        hours.note()
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
    training.learner.load_state_dict(averaged.state_dict())
    note = {
        "config": config_to_json(model.config),
        "recipe": "tore",
        "trained_body": "free" if config.body is None else {"body": "smpl", "hand": "mano"}[config.kind],
        "settings": json.dumps(asdict(config), default=str, sort_keys=True),
    }
    target = config.out / "model.safetensors"
    save_weights(model.eval(), target, dtype=torch.float32, metadata=note)  # operators lose 0.2 mm as halves
    _LOG.info("%s after %d steps", target, config.steps)
    return target


_PLACES = ("out", "data", "validation", "maps", "checkpoint_every", "report_every")
"""Settings that another run of the same training may change."""
