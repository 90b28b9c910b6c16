"""Report `hierarchical`: encoders cut after two, three and four stages against each other, trained alike."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.default_body import load_default_body
from fasthmr.body.lbs import BodyModel
from fasthmr.checkpoints.files import open_weights
from fasthmr.data.augment import RECORD_MARGIN, RecordStore
from fasthmr.data.shards import load_shards
from fasthmr.errors import InputError
from fasthmr.evaluation.coco import PERSON_CATEGORY, PoseDetections, keypoint_ap, keypoint_results
from fasthmr.evaluation.products import ProductCounter
from fasthmr.evaluation.timing import time_in_turns
from fasthmr.io.atomic import write_bytes
from fasthmr.io.plots import need_plots, plot_marks
from fasthmr.models.hmr import HMR
from fasthmr.training.hierarchical_data import StoredCrops, cut_crops, to_record
from fasthmr.training.hierarchical_errors import (
    find_keypoints,
    keypoint_errors,
    mean_layout,
    mean_pose_errors,
    mesh_errors,
    true_keypoints,
)
from fasthmr.training.hierarchical_model import Model, Task
from fasthmr.training.hierarchical_tables import (
    SHOWN,
    Run,
    Verdict,
    accuracy,
    called,
    conclusion,
    differences,
    introduction,
    mark,
    numbers,
    table,
    verdict,
)
from fasthmr.training.hours import noted_hours
from fasthmr.zoo import load_model

_LOG = logging.getLogger(__name__)

_TITLES: dict[Task, str] = {"pose": "2D pose (ViTPose head)", "mesh": "Meshes (HMR 2.0 head)"}


@dataclass(frozen=True, kw_only=True)
class HierarchicalReportConfig:
    """What to measure.

    Attributes:
        runs: Folder with a folder for each finished run of the recipe.
        people: Folder of rendered shards of the split `test`.
        crops: Folder for what is cut from them; a folder beside the runs if None.
        out: The report; numbers and the picture go beside it.
        count: People to measure on, the first; all if None.
        timed: Rounds in which all models take turns with one picture; the time told is the median.
    """

    runs: Path
    people: Path
    crops: Path | None = None
    out: Path = Path("docs/reports/hierarchical.md")
    count: int | None = None
    timed: int = 20


@torch.no_grad()
def report(config: HierarchicalReportConfig) -> Path:
    """Measure all finished models and write the report.

    Raises:
        MissingExtra: Plots cannot be drawn.
        InputError: No run of the folder is finished.
    """
    need_plots()
    paths = [path for task in _TITLES for path in sorted(config.runs.glob(f"*/{task}.safetensors"))]
    if not paths:
        raise InputError(f"{config.runs}: no finished run of 'fasthmr train hierarchical'")
    people = _People(config)
    models = [cast(Model, load_model(path)) for path in paths]
    times = _milliseconds(models, config.timed)
    runs = [
        _measured(path, model, people, milliseconds)
        for path, model, milliseconds in zip(paths, models, times, strict=True)
    ]
    runs.sort(key=lambda run: run.order)
    lines = ["# Encoders cut after two, three and four stages", "", *introduction(runs, people.count), ""]
    verdicts: dict[Task, dict[str, Verdict]] = {task: {} for task in _TITLES}
    sections: list[str] = []
    for task, title in _TITLES.items():
        own = [run for run in runs if run.task == task]
        if not own:
            continue
        sections += [f"## {title}", "", *table(own, people.floors), "", *differences(own)]
        for family in dict.fromkeys(run.family for run in own):
            if said := verdict([run for run in own if run.family == family]):
                verdicts[task][called(family)] = said
                sections += [f"- **{called(family)}**: {said.text}"]
        if verdicts[task]:
            sections += [""]
        picture = config.out.with_name(f"{config.out.stem}_{task}.png")
        plot_marks([mark(run) for run in own], picture, across="GMACs", upwards=SHOWN[task][0])
        sections += [f"![{title}]({picture.name})", ""]
    lines += [*conclusion(verdicts), "", *sections]
    write_bytes(config.out, "\n".join(lines).encode())
    found = {
        "runs": {f"{run.encoder} {run.task}": numbers(run) for run in runs},
        "accuracy": accuracy(runs),
        "floors": people.floors,
        "claim": {
            f"{family}, {task}": {"three": said.three, "two": said.two, "seen": said.text}
            for task, own in verdicts.items()
            for family, said in own.items()
        },
    }
    write_bytes(config.out.with_suffix(".json"), json.dumps(found, indent=1).encode())
    return config.out


class _People:
    """Those that are measured on, with crops for each size of picture."""

    def __init__(self, config: HierarchicalReportConfig) -> None:
        self._config = config
        store = RecordStore(load_shards(config.people))
        self.side = store.side
        self.count = len(store) if config.count is None else min(config.count, len(store))
        self.areas = torch.cat(
            [
                store.batch(rows).rgbm[..., 3].float().sum((1, 2)) / 255
                for rows in torch.arange(self.count).split(256)
            ]
        )
        self.body: BodyModel = load_default_body()
        self.floors: dict[str, float] = {}
        self._crops: dict[tuple[int, int], StoredCrops] = {}

    @property
    def crop_areas(self) -> Float[Tensor, " people"]:
        """Visible area of each in squares of the crop side."""
        return self.areas / (self.side / RECORD_MARGIN) ** 2

    def crops(self, size: tuple[int, int]) -> StoredCrops:
        """Cut for pictures of (height, width)."""
        if size not in self._crops:
            parent = self._config.crops or self._config.runs / "people"
            folder = parent / f"{size[0]}x{size[1]}"
            cut_crops(self._config.people, folder, self.count, size, augment=None)
            self._crops[size] = StoredCrops(folder, self.count)
        return self._crops[size]


def _measured(path: Path, model: Model, people: _People, milliseconds: float) -> Run:
    settings = json.loads(open_weights(path).metadata["settings"])
    rows, columns = model.config.encoder.image_size
    crops = people.crops((rows, columns))
    totals: dict[str, float] = {}
    if isinstance(model, HMR):
        task: Task = "mesh"
        values = mesh_errors(model, crops, people.body, people.count)
        floor = mean_pose_errors(model, crops, people.body, people.count)
        people.floors |= {name: float(value.mean()) for name, value in floor.items()}
    else:
        task = "pose"
        found = find_keypoints(model, crops, people.count)
        true, inside = true_keypoints(crops, people.count)
        seen = inside.any(1)
        values = keypoint_errors(found, true, inside, people.crop_areas)
        totals = _average_precision(found, true, inside, people)
        floor = keypoint_errors(mean_layout(true, inside), true, inside, people.crop_areas)
        people.floors |= {f"{name} 2D": float(value[seen].mean()) for name, value in floor.items()}
        values = {name: value[seen] for name, value in values.items()}
    hours = noted_hours(path.parent)
    _LOG.info("%s: %s", path, {name: round(float(x.mean()), 3) for name, x in values.items()} | totals)
    return Run(
        task=task,
        settings=settings,
        hours=hours,
        values=values,
        totals=totals,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        gmacs=_gmacs(model),
        milliseconds=milliseconds,
    )


def _average_precision(
    found: Float[Tensor, "people 17 3"],
    true: Float[Tensor, "people 17 2"],
    inside: Tensor,
    people: _People,
) -> dict[str, float]:
    """AP and AR as COCO counts them; every person stands in a picture of his own, whose box is given."""
    places, marks = to_record(true, people.side), inside[..., None].float() * 2
    truth: list[dict[str, Any]] = []
    detections = []
    for person, area in enumerate(people.areas.tolist()):
        points = torch.cat([places[person], marks[person]], dim=-1)
        truth.append(
            {
                "id": person + 1,
                "image_id": person + 1,
                "category_id": PERSON_CATEGORY,
                "keypoints": points.flatten().tolist(),
                "num_keypoints": int(inside[person].sum()),
                "area": area,
                "bbox": [0, 0, people.side, people.side],
                "iscrowd": 0,
            }
        )
        points = torch.cat([to_record(found[person, :, :2][None], people.side)[0], found[person, :, 2:]], -1)
        one = torch.ones(1)
        detections.append(
            PoseDetections(image_id=person + 1, keypoints=points[None], area=one * area, box_scores=one)
        )
    images = [{"id": row["id"], "width": people.side, "height": people.side} for row in truth]
    category = {"id": PERSON_CATEGORY, "name": "person"}
    annotations = {"images": images, "annotations": truth, "categories": [category]}
    # A weak model's scores are all low; none of its points is left out of a person's score.
    results = keypoint_results(detections, score_threshold=0.0)
    scores = keypoint_ap(annotations, results)
    return {name: scores[name] for name in ("AP", "AP .5", "AP .75")}


def _gmacs(model: Model) -> float:
    """Products for one picture, in thousands of millions; selective scans are not products."""
    pixels = _blank(model)
    _pass(model, pixels)  # what weights alone decide is computed once
    with ProductCounter() as counter:
        _pass(model, pixels)
    return counter.macs.total() / 1e9


def _milliseconds(models: list[Model], rounds: int) -> list[float]:
    """Time of one picture in each model."""
    passes = [partial(_pass, model, _blank(model)) for model in models]
    seconds = time_in_turns(passes, seconds=0.0, min_rounds=rounds)
    return (1000 * seconds.quantile(0.5, dim=0)).tolist()


def _pass(model: Model, pixels: Float[Tensor, "1 3 rows columns"]) -> None:
    model.head(model.encoder(pixels)[-1])


def _blank(model: Model) -> Float[Tensor, "1 3 rows columns"]:
    return torch.zeros(1, 3, *model.config.encoder.image_size)
