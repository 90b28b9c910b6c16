"""Report `tore`: the reductions of TORE against each other, trained alike by the recipe `tore`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.checkpoints.files import open_weights
from fasthmr.data.augment import RecordStore
from fasthmr.data.hands import SyntheticHands, write_hands
from fasthmr.data.metro_tsv import Kind
from fasthmr.data.shards import load_shards
from fasthmr.errors import InputError
from fasthmr.evaluation.metrics import bootstrap_interval
from fasthmr.evaluation.products import ProductCounter
from fasthmr.io.atomic import write_bytes
from fasthmr.models.mesh import MeshModel
from fasthmr.reduction.gtr import NeuralShapeRegressor
from fasthmr.training.hours import noted_hours
from fasthmr.training.mesh_subject import mesh_subject
from fasthmr.training.tore_data import BodyCrops, HandCrops, MeshBatch, MeshSource
from fasthmr.training.tore_errors import measure
from fasthmr.training.tore_model import OWN_TRUNKS
from fasthmr.training.tore_pictures import cluster_maps, joint_attention
from fasthmr.zoo import load_model

_LOG = logging.getLogger(__name__)

Sources = dict[tuple[str, tuple[int, int]], MeshSource]
"""Unseen samples by kind and size of the picture."""

Errors = Mapping[str, Float[Tensor, " samples"]]
"""Of each sample, by name."""

_SIZE = "head, k parameters | head, MMACs"
_MM = ("PA-MPJPE", "MPVE", "MPJPE", "PA-MPVE")


@dataclass(frozen=True, kw_only=True)
class ToreReportConfig:
    """What to measure.

    Attributes:
        runs: Folder with a folder for each run of the recipe.
        people: Folder of rendered shards of the split `test`.
        hands: Folder for drawn hands of the split `test`; missing ones are drawn first.
        out: The report; pictures go into a folder beside it that is named like it.
        against: The run that others are compared with, sample by sample.
        samples, drawn: People and hands to measure on.
    """

    runs: Path
    people: Path
    hands: Path
    out: Path = Path("docs/reports/tore.md")
    against: str = "gtr"
    samples: int = 512
    drawn: int = 200
    seed: int = 88


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """A finished training and how well it did."""

    name: str
    model: MeshModel
    settings: Mapping[str, Any]
    hours: float
    errors: Errors

    @property
    def kind(self) -> Kind:
        return self.settings["kind"]


@torch.no_grad()
def report(config: ToreReportConfig) -> Path:
    """Measure all finished runs and write the report.

    Raises:
        InputError: No run of the folder is finished.
    """
    paths = sorted(config.runs.glob("*/model.safetensors"))
    if not paths:
        raise InputError(f"{config.runs}: no finished run of 'fasthmr train tore'")
    sources: Sources = {}
    runs = [_measured(config, path, sources) for path in paths]
    bodies = [run for run in runs if run.kind == "body"]
    hands = [run for run in runs if run.kind == "hand"]
    lines = ["# TORE at small scale", "", *_introduction(runs), ""]
    if bodies:
        lines += ["## Bodies", "", *_table(bodies, config), ""]
    if hands:
        floor = _mean_hand(sources["hand", hands[0].model.config.encoder.image_size], config.drawn)
        lines += ["## Hands", "", *_hand_table(hands, floor, config), ""]
    for run in runs:
        lines += _figures(run, sources[run.kind, run.model.config.encoder.image_size], config)
    write_bytes(config.out, "\n".join(lines).encode())
    numbers = {
        run.name: {**{name: float(values.mean()) for name, values in run.errors.items()}, "hours": run.hours}
        for run in runs
    }
    write_bytes(config.out.with_suffix(".json"), json.dumps(numbers, indent=1).encode())
    return config.out


_CLUSTERS = (
    "Clusters of image tokens (`{run}`; the paper's figure 6). Each row: the crop, the six tokens whose "
    "weights differ most from cell to cell, and the mean of all tokens, each from its least to its greatest "
    "weight."
)
_ATTENTION = (
    "What the vertices of the Neural Shape Regressor read from joint tokens (`{run}`; the paper's figure 8): "
    "for some joints, marked by a dot, the weight of the joint at each vertex in the last layer, mean over "
    "heads and samples, dark for the least and bright for the most."
)
_SETTINGS = ("seed", "trunk", "samples", "steps", "batch_size", "learning_rate", "width", "layers")
_PLURALS: dict[Kind, str] = {"body": "Bodies", "hand": "Hands"}
_TRUNK: dict[Kind, str] = {
    "body": " The trunk is not trained further, so that models differ in their heads alone.",
    "hand": " The trunk, trained on people, is a start and learns on.",
}


def _measured(config: ToreReportConfig, path: Path, sources: Sources) -> _Run:
    model = cast(MeshModel, load_model(path)).requires_grad_(False)
    settings = json.loads(open_weights(path).metadata["settings"])
    kind, size = settings["kind"], model.config.encoder.image_size
    subject = mesh_subject(kind)
    if (kind, size) not in sources:
        if kind == "hand":
            write_hands(SyntheticHands("test", seed=config.seed, size=size[0]), config.hands, config.drawn)
            sources[kind, size] = HandCrops(subject, config.hands)
        else:
            sources[kind, size] = BodyCrops(subject, RecordStore(load_shards(config.people)), size)

    def predict(batch: MeshBatch) -> Float[Tensor, "batch vertices 3"]:
        return model.head(model.encoder(batch.seen)[-1]).vertices[-1]

    samples = config.drawn if kind == "hand" else config.samples
    errors = measure(subject, predict, sources[kind, size], samples)
    hours = noted_hours(path.parent)
    _LOG.info("%s: %s", path.parent.name, {name: round(float(x.mean()), 2) for name, x in errors.items()})
    return _Run(name=path.parent.name, model=model, settings=settings, hours=hours, errors=errors)


def _introduction(runs: list[_Run]) -> list[str]:
    lines = [
        f"`fasthmr report tore`: {len(runs)} models trained by `fasthmr train tore` on synthetic pictures. "
        "Errors in mm, of people, places and motion, or hands and places, that no model has seen; in "
        "brackets 95 % intervals of the mean when samples are drawn again. Hours are of one processor core. "
        "The budget is small: numbers compare with each other and with nothing published.",
        "",
    ]
    for kind, plural in _PLURALS.items():
        own = [run.settings for run in runs if run.kind == kind]
        if own:
            values = {name: {str(settings.get(name, "")) for settings in own} for name in _SETTINGS}
            told = ", ".join(f"{name} {max(value)}" for name, value in values.items() if len(value) == 1)
            trunk = _TRUNK[kind] if own[0]["trunk"] in OWN_TRUNKS else ""
            later = [f"`{run.name}`" for run in runs if run.kind == kind and run.settings.get("start")]
            begun = f" Hours of {', '.join(later)} include those noted with the weights at the start."
            lines.append(f"- {plural}: all with {told}.{trunk}{begun if later else ''}")
    return lines


def _mean_hand(source: MeshSource, samples: int) -> Errors:
    """Errors of the mean of the very hands that are measured, each about its wrist and in its own frame."""
    subject = mesh_subject("hand")
    params = source.batch(torch.arange(min(samples, len(source))), None).params
    vertices = subject.body(params).vertices
    vertices = vertices - subject.joints(fitted=False)(vertices)[1]
    mean = (vertices @ params.global_orient[:, 0]).mean(0)
    return measure(subject, lambda batch: mean.expand(len(batch.seen), -1, -1), source, samples)


def _cells(errors: Errors, names: tuple[str, ...]) -> str:
    cells = []
    for name in names:
        values = errors[name]
        low, high = bootstrap_interval(values)
        digits = 2 if name in _MM else 3
        cells.append(f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    return " | ".join(cells)


def _macs(run: _Run) -> str:
    """Thousands of parameters of the head, and millions of products that it computes for a picture."""
    head, encoder = run.model.head, run.model.config.encoder
    maps = run.model.encoder(torch.zeros(1, 3, *encoder.image_size))[-1]
    head(maps)  # what weights alone decide is computed once
    with ProductCounter() as counter:
        head(maps)
    parameters = sum(parameter.numel() for parameter in head.parameters())
    return f"{parameters / 1e3:.0f} | {counter.macs.total() / 1e6:.1f}"


def _table(runs: list[_Run], config: ToreReportConfig) -> list[str]:
    names = ("PA-MPJPE", "MPVE", "MPJPE")
    reference = next((run for run in runs if run.name == config.against), None)
    lines = [
        f"| run | {' | '.join(names)} | PA-MPJPE minus `{config.against}` | {_SIZE} | hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        gap = ""
        if reference is not None and run is not reference:
            difference = run.errors["PA-MPJPE"] - reference.errors["PA-MPJPE"]
            low, high = bootstrap_interval(difference)
            gap = f"{difference.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append(
            f"| `{run.name}` | {_cells(run.errors, names)} | {gap} | {_macs(run)} | {run.hours:.2f} |"
        )
    return lines


def _hand_table(runs: list[_Run], floor: Errors, config: ToreReportConfig) -> list[str]:
    names = ("PA-MPJPE", "PA-MPVE", "F@5", "F@15", "MPJPE")
    lines = [
        f"FreiHAND's evaluation (alignment may mirror, joints and vertices apart) on {config.drawn} hands; "
        "MPJPE is about the wrist, not turned. The mean hand is that of the very hands measured, as it lies "
        "at rest.",
        "",
        f"| run | {' | '.join(names)} | {_SIZE} | hours |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{run.name}` | {_cells(run.errors, names)} | {_macs(run)} | {run.hours:.2f} |" for run in runs
    ]
    return [*lines, f"| mean of these hands (floor) | {_cells(floor, names)} | | | |"]


def _figures(run: _Run, source: MeshSource, config: ToreReportConfig) -> list[str]:
    """The pictures of a run, drawn, and the lines that show them."""
    folder, lines = config.out.with_suffix(""), []
    batch = source.batch(torch.arange(min(32, len(source))), None)
    if run.model.config.tokens is not None:
        name = f"clusters_{run.name}"
        cluster_maps(run.model, batch, folder / f"{name}.png")
        lines += [f"![{name}]({folder.name}/{name}.png)", "", _CLUSTERS.format(run=run.name), ""]
    if isinstance(run.model.head.regressor, NeuralShapeRegressor):
        name = f"attention_{run.name}"
        joint_attention(run.model, batch, mesh_subject(run.kind), folder / f"{name}.png")
        lines += [f"![{name}]({folder.name}/{name}.png)", "", _ATTENTION.format(run=run.name), ""]
    return lines
