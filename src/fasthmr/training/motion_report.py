"""Report `motion`: what motion filters make of an image model's readings of unseen clips."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.default_body import load_default_body
from fasthmr.body.lbs import BodyModel
from fasthmr.data.motion import MotionLibrary
from fasthmr.data.synthetic import package_assets
from fasthmr.errors import UsageError
from fasthmr.evaluation.metrics import acceleration_error, bootstrap_interval, mpjpe_mm, pa_mpjpe_mm, pve_mm
from fasthmr.io.atomic import write_bytes
from fasthmr.io.plots import need_plots, plot_curves
from fasthmr.models.motion_decoder import MotionDecoder
from fasthmr.models.motion_filter import DecoderFilter
from fasthmr.temporal.smoothing import OneEuroFilter, SavitzkyGolay
from fasthmr.training.clip_features import PairedClip, cache_features, load_pairs
from fasthmr.training.motion_errors import motion_joints
from fasthmr.training.motion_vae import reconstruct
from fasthmr.training.motion_windows import MotionWindows
from fasthmr.types import BodyParams, MotionTrack
from fasthmr.zoo import create_model, load_model

_LOG = logging.getLogger(__name__)

_METRICS = ("MPJPE", "PA-MPJPE", "PVE", "acceleration")
_VERTEX_STEP = 3
_WRIST = 20

Filter = Callable[[MotionTrack], MotionTrack]


@dataclass(frozen=True, kw_only=True)
class MotionReportConfig:
    """What to measure.

    Attributes:
        clips: Folder of rendered clips of the split `test`.
        features: Folder for the image models' answers, one folder within for each model; missing ones are
            computed first.
        decoder: Weights of the motion decoder; None for the package's.
        ablations: Weights of other decoders, each named by its file.
        unmerged_ablations: Those for the unmerged image model.
        out: The report; its numbers go beside it.
        model, unmerged: Image models.
        windows: Of unseen subjects' recorded motion that the prior's reconstruction is measured on.
    """

    clips: Path
    features: Path
    decoder: Path | None = None
    ablations: tuple[Path, ...] = ()
    unmerged_ablations: tuple[Path, ...] = ()
    out: Path = Path("docs/reports/motion.md")
    model: str = "fasthmr_m_fast"
    unmerged: str = "fasthmr_m"
    motion: Path | None = None
    windows: int = 64
    seed: int = 0


def report(config: MotionReportConfig) -> Path:
    """Measure and write the report.

    Raises:
        MissingExtra: Plots cannot be drawn.
        UsageError: A file holds no motion decoder.
    """
    need_plots()
    torch.manual_seed(config.seed)
    body = load_default_body()
    pairs = {name: _pairs(config, name) for name in (config.model, config.unmerged)}
    decoder = _decoder(config.decoder)
    filters: list[tuple[str, str, Filter | None]] = [
        (f"{config.unmerged} (unmerged)", config.unmerged, None),
        (f"{config.model} (merged)", config.model, None),
        ("merged + One-Euro", config.model, OneEuroFilter()),
        ("merged + Savitzky-Golay", config.model, SavitzkyGolay()),
        ("merged + decoder", config.model, DecoderFilter(decoder=decoder)),
        ("unmerged + decoder", config.unmerged, DecoderFilter(decoder=decoder)),
    ]
    for kind, model, paths in (
        ("merged", config.model, config.ablations),
        ("unmerged", config.unmerged, config.unmerged_ablations),
    ):
        for path in paths:
            filters.append((f"{kind} + {path.stem}", model, DecoderFilter(decoder=_decoder(path))))
    rows: dict[str, Float[Tensor, "clips metrics"]] = {}
    speeds: dict[str, float] = {}
    for name, model, smooth in filters:
        rows[name], speeds[name] = _measure(pairs[model], smooth, body)
        _LOG.info("%s: %s", name, ", ".join(f"{value:.2f}" for value in rows[name].mean(0).tolist()))
    library = MotionLibrary.load(config.motion or package_assets("motion"), "test")
    unseen = MotionWindows(library, decoder.config.denoiser.frames).batch(config.windows, (config.seed, 3))
    rebuilt = reconstruct(decoder.prior, unseen)
    frames = sum(len(pair.true.times) for pair in pairs[config.model])
    merged, decoded = (rows[filters[number][0]] for number in (1, 4))
    shown = int((merged - decoded)[:, 0].argsort()[len(merged) // 2])
    picture = _draw_wrist(pairs[config.model][shown], decoder, config.out)
    lines = [
        "# Motion",
        "",
        f"`fasthmr report motion`: {len(pairs[config.model])} rendered clips of unseen subjects, {frames} "
        "frames at 30 a second. Joints (24) and vertices relative to the pelvis, mm; acceleration errors in "
        "mm a frame squared. In brackets 95 % intervals of the mean when clips are drawn again; changes are "
        "means of pairs, against the same image model without a filter. Speed: frames that a filter takes in "
        "a second of processor time.",
        "",
        "| | MPJPE | PA-MPJPE | PVE | acceleration error | change of MPJPE | of PA-MPJPE | frames/s |",
        "|---|---|---|---|---|---|---|---|",
        *(
            _row(name, rows[name], rows[filters[int(model == config.model)][0]], speeds[name])
            for name, model, _ in filters
        ),
        "",
        *_verdict(rows[filters[0][0]], decoded),
        "",
        f"The prior alone reconstructs {config.windows} windows of unseen subjects' motion to "
        f"{rebuilt.mpjpe_mm:.2f} mm MPJPE, with an acceleration error of {rebuilt.acceleration:.2f} of "
        f"{rebuilt.true_acceleration:.2f} mm a frame squared.",
        "",
        f"![Left wrist]({picture.name})",
        "",
        "Height of the left wrist over the pelvis, in the clip whose gain of MPJPE is the median.",
        "",
        "How the weights came about, and what did not work: `docs/design/022-motion-training.md`.",
        "",
    ]
    write_bytes(config.out, "\n".join(lines).encode())
    numbers = {
        name: dict(zip(_METRICS, values.mean(0).tolist(), strict=True)) for name, values in rows.items()
    }
    numbers["prior"] = {"MPJPE": rebuilt.mpjpe_mm, "acceleration": rebuilt.acceleration}
    write_bytes(config.out.with_suffix(".json"), json.dumps(numbers, indent=1).encode())
    return config.out


def _pairs(config: MotionReportConfig, name: str) -> list[PairedClip]:
    folder = config.features / name
    cache_features(create_model(name, pretrained=True), config.clips, folder)
    return load_pairs(config.clips, folder)


def _decoder(path: Path | None) -> MotionDecoder:
    model = create_model("fasthmr_motion", pretrained=True) if path is None else load_model(path)
    if not isinstance(model, MotionDecoder):
        raise UsageError(f"{path} holds no motion decoder")
    return model


@torch.no_grad()
def _measure(
    clips: Sequence[PairedClip], smooth: Filter | None, body: BodyModel
) -> tuple[Float[Tensor, "clips metrics"], float]:
    """Errors of each clip, and frames that the filter smooths in a second of processor time."""
    rows, seconds = [], 0.0
    if smooth is not None:
        smooth(clips[0].read)  # what is prepared once does not count
    for clip in clips:
        begin = time.process_time()
        found = clip.read if smooth is None else smooth(clip.read)
        seconds += time.process_time() - begin
        joints, vertices = _posed(found.params, body)
        true_joints, true_vertices = _posed(clip.true.params, body)
        rows.append(
            torch.stack(
                [
                    mpjpe_mm(joints, true_joints).mean().double(),
                    pa_mpjpe_mm(joints, true_joints).mean().double(),
                    pve_mm(vertices, true_vertices).mean().double(),
                    acceleration_error(joints, true_joints).mean().double(),
                ]
            )
        )
    frames = sum(len(clip.true.times) for clip in clips)
    return torch.stack(rows), 0.0 if smooth is None else frames / seconds


def _posed(
    params: BodyParams, body: BodyModel
) -> tuple[Float[Tensor, "frames joints 3"], Float[Tensor, "frames vertices 3"]]:
    """Joints, and some of the vertices, relative to the pelvis."""
    joints, vertices = [], []
    for start in range(0, len(params.betas), 81):
        part = slice(start, start + 81)
        mesh = body(
            BodyParams(
                global_orient=params.global_orient[part],
                body_pose=params.body_pose[part],
                betas=params.betas[part, : body.num_betas].contiguous(),
            )
        )
        root = mesh.joints[:, :1]
        joints.append(mesh.joints - root)
        vertices.append(mesh.vertices[:, ::_VERTEX_STEP] - root)
    return torch.cat(joints), torch.cat(vertices)


def _draw_wrist(clip: PairedClip, decoder: MotionDecoder, report: Path) -> Path:
    """Curves of a wrist beside the report."""
    path = report.with_name(f"{report.stem}_wrist.png")
    tracks = {
        "true": clip.true,
        "decoder": DecoderFilter(decoder=decoder)(clip.read),
        "Savitzky-Golay": SavitzkyGolay()(clip.read),
        "image model": clip.read,
    }
    with torch.no_grad():
        heights = {
            name: -1000 * motion_joints(decoder.prior, track)[:, _WRIST, 1] for name, track in tracks.items()
        }
    seconds = float(clip.true.times[-1] - clip.true.times[0])
    plot_curves({name: y.numpy() for name, y in heights.items()}, path, seconds=seconds, unit="mm")
    return path


def _row(
    name: str, values: Float[Tensor, "clips metrics"], alone: Float[Tensor, "clips metrics"], speed: float
) -> str:
    cells = [_with_interval(column, "") for column in values.T]
    changes = ["", ""] if values is alone else [_with_interval((values - alone)[:, k], "+") for k in (0, 1)]
    return f"| {name} | {' | '.join(cells + changes)} | {f'{speed:.0f}' if speed else ''} |"


def _with_interval(values: Float[Tensor, "clips"], sign: str) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():{sign}.2f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _verdict(unmerged: Float[Tensor, "clips metrics"], decoded: Float[Tensor, "clips metrics"]) -> list[str]:
    """The paper's claims at our scale, on the same clips."""
    gain = unmerged[:, 0] - decoded[:, 0]
    low, high = bootstrap_interval(gain)
    ratio = float(decoded[:, 3].mean() / unmerged[:, 3].mean())
    return [
        f"Merged + decoder against the unmerged image model: MPJPE lower by {gain.mean():.2f} mm "
        f"[{low:.2f}, {high:.2f}], acceleration error {ratio:.2f} times as large."
    ]
