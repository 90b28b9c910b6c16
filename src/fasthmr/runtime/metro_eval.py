"""Report `metro`: METRO, FastMETRO and TORE on the data sets of their files, measured as their scripts do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.hand_points import hand_regressor
from fasthmr.body.lbs import BodyModel
from fasthmr.data.metro_batch import MetroBatch, cut_rows
from fasthmr.data.metro_example import MetroAugmentation
from fasthmr.data.metro_tsv import Kind, MetroRow, MetroTsv
from fasthmr.errors import InputError, UsageError
from fasthmr.evaluation.evaluate import Evaluator
from fasthmr.evaluation.freihand import write_freihand
from fasthmr.evaluation.samples import Bodies, Evaluation
from fasthmr.io.atomic import write_bytes
from fasthmr.io.body_files import load_body_file
from fasthmr.io.hierarchy_files import load_hierarchy_file
from fasthmr.models.inference import ready_for_inference
from fasthmr.models.mesh import MeshModel
from fasthmr.runtime.hand_views import averaged_views
from fasthmr.runtime.loading import choose_device, load_model
from fasthmr.runtime.vertices import is_hand_model, with_body

_LOG = logging.getLogger(__name__)

Predict = Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch vertices 3"]]


@dataclass(frozen=True, kw_only=True)
class MetroEvalConfig:
    """What to measure.

    Attributes:
        model: Preset or weight file of METRO, FastMETRO or TORE.
        data: Data set, by its .yaml or .img.tsv.
        protocol: Numbers of different protocols do not compare. "tore_3dpw" takes the truth of 3DPW from the
            neutral body as the scripts do, "tore_3dpw_gendered" from that of each person.
        body: SMPL or MANO file; the free body or hand if not given.
        mesh: Hierarchy of its mesh, for bodies imported with METRO's regressor of 17 joints.
        body_male, body_female: For "tore_3dpw_gendered".
        views: See hands in 95 ways and average, as METRO did at test time; 96 times the work.
        out: Folder for `metro.json`, and for hands `pred.zip` for FreiHAND's official evaluation.
        samples: Take so many rows at most.
        seed: Of the bootstrap.
    """

    model: str
    data: Path
    protocol: Literal["tore_h36m_p2", "tore_3dpw", "tore_3dpw_gendered", "freihand"]
    body: Path | None = None
    mesh: Path | None = None
    body_male: Path | None = None
    body_female: Path | None = None
    views: bool = False
    out: Path = Path("metro")
    samples: int | None = None
    batch_size: int = 32
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        gendered = self.protocol == "tore_3dpw_gendered"
        if gendered != (self.body_male is not None and self.body_female is not None):
            raise UsageError(
                "body_male and body_female belong to the protocol tore_3dpw_gendered, both of them"
            )
        if self.views and self.protocol != "freihand":
            raise UsageError("views are for hands (protocol freihand)")
        if self.batch_size < 1 or (self.samples is not None and self.samples < 1):
            raise UsageError("batch_size and samples are at least 1")


@torch.inference_mode()
def report(config: MetroEvalConfig) -> Path:
    """Measure a model and write the numbers.

    Raises:
        UsageError: Model, body, mesh and protocol do not go together; names both sides.
        InputError: A file is missing, or the data set cannot be read.
        UnsafeFileError: A file is damaged or unsafe.
    """
    kind: Kind = "hand" if config.protocol == "freihand" else "body"
    data = MetroTsv(config.data, kind)
    model, body = _open(config, kind)
    regressor = _regressor(config, body)
    truths: dict[str, BodyModel] = dict.fromkeys(("", "male", "female"), body)
    if config.body_male is not None and config.body_female is not None:
        truths |= {"male": load_body_file(config.body_male), "female": load_body_file(config.body_female)}
    size, device = model.config.encoder.image_size, next(model.parameters()).device

    def predict(seen: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch vertices 3"]:
        margin = (model.crop_size - size[1]) // 2
        whole = torch.nn.functional.pad(seen.to(device), (margin, margin))
        return model(whole).vertices[-1].float().cpu()

    evaluator = Evaluator(config.protocol, regressor)
    joints: list[Tensor] = []
    meshes: list[Tensor] = []
    without = 0
    for rows in _rows(data, config):
        batch = cut_rows(rows, [MetroAugmentation()] * len(rows), size)
        found = averaged_views(predict, rows, size) if config.views else predict(batch.seen)
        without += _add(evaluator, found, batch, rows, truths, kind)
        if kind == "hand":
            joints.append(regressor @ found)
            meshes.append(found)
    if without:
        _LOG.warning("%s: %d rows without 3D joints are left out", config.data, without)
    numbers = _numbers(evaluator, config)
    if kind == "hand":
        write_freihand(config.out / "pred.zip", torch.cat(joints), torch.cat(meshes))
    path = config.out / "metro.json"
    write_bytes(path, json.dumps(numbers, indent=1).encode())
    return path


def _open(config: MetroEvalConfig, kind: Kind) -> tuple[MeshModel, BodyModel]:
    loaded = load_model(config.model, "mesh")
    if not isinstance(loaded, MeshModel):
        raise UsageError(f"'{config.model}' is none of METRO, FastMETRO and TORE, whose files these are")
    reads: Kind = "hand" if is_hand_model(loaded) else "body"
    if reads != kind:
        raise UsageError(f"'{config.model}' reads a {reads}; the protocol {config.protocol} is of a {kind}")
    ready_for_inference(loaded)
    mesh = None if loaded.has_mesh else config.mesh
    device = choose_device(config.device)
    ready = with_body(loaded, config.model, body=config.body, mesh=mesh, device=device)
    return ready.model.model, ready.params_body.cpu()


def _regressor(config: MetroEvalConfig, body: BodyModel) -> Float[Tensor, "points vertices"]:
    """The protocol's points of the finest mesh."""
    if config.protocol == "freihand":
        return hand_regressor(body)
    file = None if config.mesh is None else load_hierarchy_file(config.mesh)
    if file is None or file.regressor is None:
        raise UsageError(
            f"{config.protocol} measures 17 regressed joints, which {config.mesh or 'the free body'} lacks: "
            "fasthmr import mesh_downsampling.npz --regressor J_regressor_h36m_correct.npy, and --mesh that"
        )
    return file.regressor.float()


def _rows(data: MetroTsv, config: MetroEvalConfig) -> Iterator[list[MetroRow]]:
    count = len(data) if config.samples is None else min(config.samples, len(data))
    for start in range(0, count, config.batch_size):
        yield [data[index] for index in range(start, min(start + config.batch_size, count))]
        _LOG.info("%d of %d", min(start + config.batch_size, count), count)


def _add(
    evaluator: Evaluator,
    found: Float[Tensor, "batch vertices 3"],
    batch: MetroBatch,
    rows: Sequence[MetroRow],
    truths: dict[str, BodyModel],
    kind: Kind,
) -> int:
    """Takes in a batch, rows with and without a mesh apart; how many have no joints to compare with."""
    true = torch.zeros_like(found)
    for gender in {row.gender for row in rows}:
        chosen = torch.tensor([row.gender == gender for row in rows])
        params = batch.params(truths[gender], kind)
        true[chosen] = truths[gender](params).vertices[chosen]
    points = batch.joints_3d[..., :3]
    for known in (True, False):
        some = (batch.has_mesh == known) & batch.has_3d
        if some.any():
            mesh = true[some] if known else None
            evaluator.add(Bodies(vertices=found[some]), Bodies(vertices=mesh, points=points[some]))
    return int((~batch.has_3d).sum())


def _numbers(evaluator: Evaluator, config: MetroEvalConfig) -> dict[str, Any]:
    try:
        result: Evaluation = evaluator.result(config.seed)
    except UsageError as error:
        raise InputError(f"{config.data}: nothing to compare with ({error})") from error
    return {"model": config.model, "data": str(config.data), "views": config.views, **result.as_dict()}
