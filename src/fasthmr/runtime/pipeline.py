"""From a picture or video to the people in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from fasthmr.body.default_body import load_default_body
from fasthmr.body.lbs import BodyModel
from fasthmr.body.mirror import mirrored
from fasthmr.errors import UsageError
from fasthmr.models.inference import ready_for_inference
from fasthmr.models.mesh import MeshModel
from fasthmr.models.pose import PoseModel
from fasthmr.results import Clip, PoseClip, Side
from fasthmr.runtime.boxes_file import BoxesFile
from fasthmr.runtime.calibration import read_calibration
from fasthmr.runtime.detect import Detector, check_boxes, load_detector
from fasthmr.runtime.intrinsics import IntrinsicsEstimator, PictureCamera
from fasthmr.runtime.loading import (
    DEFAULT_MODEL,
    Task,
    as_boxes,
    as_picture,
    check_task,
    choose_device,
    describe_engine,
    load_body,
    load_model,
    load_network,
)
from fasthmr.runtime.look import of_side
from fasthmr.runtime.options import check_hand, is_network_file, name_of, refuse_unused
from fasthmr.runtime.picture_clip import mesh_clip, pose_clip
from fasthmr.runtime.recover import MeshRecovery, takes_camera
from fasthmr.runtime.sources import as_live, is_video
from fasthmr.runtime.stream import Stream
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.vertices import is_hand_model, with_body
from fasthmr.runtime.video import open_stream, recover_video
from fasthmr.runtime.video_options import VideoOptions
from fasthmr.types import Detections

if TYPE_CHECKING:
    from fasthmr.runtime.batch import ItemReport

_log = logging.getLogger(__name__)

Picture = UInt8[np.ndarray, "height width 3"]


class Pipeline:
    """Finds the people in a picture and recovers a body mesh, or COCO's 17 keypoints, for each.

    All people of a picture share one perspective camera, so that their meshes form one scene. Where it comes
    from is said in `runtime.intrinsics`, and in every result.

    Args:
        model: Name of a preset ("default" for the one that comes with the package), a weight file in a
            published layout or as fasthmr writes it, or a module that takes (batch, 3, crop_size, crop_size)
            normalised crops to an `HMROutput`. Its attribute `trained_body` says which body its parameters
            mean, "free" (if absent), "smpl" or "smplx"; `crop_aspect` and `crop_antialias` how it wants its
            crops; with `takes_camera` it is called with `geometry.cameras.bbox_info` as well. Or a file that
            `runtime.export.export_model` wrote, .onnx or .xml.
        task: "mesh", or "pose" for 2D keypoints: of a `PoseModel` such as ViTPose, or those of a model of
            meshes, from its heat maps if it has COCO's, else from the mesh.
        body: An SMPL, SMPL-H or SMPL-X file or body to show instead of the free body that comes along. For
            models that place vertices themselves (METRO, FastMETRO, TORE) that body or hand (MANO) whose
            mesh they give.
        mesh: Hierarchy of that mesh (METRO's `mesh_downsampling.npz`, as it is or imported), where the
            weights do not hold it; see `runtime.vertices`.
        detector: "auto", "full" (one person fills the picture), an .onnx file, or a `Detector`.
        boxes: JSON or CSV file with the boxes of each picture, or of frames of videos; then nothing is
            detected. See `runtime.boxes_file`.
        hand: "right" or "left": what hands are, for models of hands, where boxes do not say it.
        focal: Focal length in pixels. Without any word on the camera, a model that does not ask for it gets
            5000/256 of the longer side as in HMR 2.0, a long lens: the overlay fits, distances are too large.
        fov_deg: Horizontal field of view in degrees, instead of `focal`.
        calib: Camera file instead of these, see `runtime.calibration`.
        intrinsics: "auto", "exif", "model" (its own intrinsics network), "hmr2", or the weight file of an
            intrinsics network; see `runtime.intrinsics`.
        max_persons: Keep this many of the best detections in each picture.
        batch_size: Crops that pass the model at once; halved when memory runs out.
        device: "auto", "cpu", "cuda", or any torch device.
        engine: What runs the model: "torch", or on the CPU "onnxruntime" or "openvino", for which the model
            is exported (and compared) first unless it is an exported file. "auto" for what fits the file,
            else torch.
        video: How videos are read and smoothed.

    Attributes:
        engine: What runs the model, and the precision that it computes in.
        left: Of models of hands, whether hands are left ones where nothing else is said; else None.

    Raises:
        UsageError: An unknown task, preset, detector, engine or device, a model that does not fit the task,
            or options that exclude each other.
        InputError: A file is missing, or the camera file cannot be used.
        UnsafeFileError: A body or weight file is damaged or unsafe.
    """

    def __init__(
        self,
        model: str | Path | nn.Module = "default",
        *,
        task: str = "mesh",
        body: str | Path | BodyModel | None = None,
        mesh: str | Path | None = None,
        detector: str | Path | Detector = "auto",
        boxes: str | Path | None = None,
        hand: Side | None = None,
        focal: float | None = None,
        fov_deg: float | None = None,
        calib: str | Path | None = None,
        intrinsics: str | Path = "auto",
        max_persons: int | None = None,
        batch_size: int = 16,
        device: str = "auto",
        engine: str = "auto",
        video: VideoOptions | None = None,
    ) -> None:
        if batch_size < 1 or (max_persons is not None and max_persons < 1):
            raise UsageError("batch_size and max_persons are at least 1")
        self.task: Task = check_task(task)
        network_file = is_network_file(focal, fov_deg, calib, intrinsics)
        calibration = None if calib is None else read_calibration(calib)
        self.max_persons, self.batch_size = max_persons, batch_size
        self.device = choose_device(device)
        self.boxes_file = None if boxes is None else BoxesFile(boxes)
        model = DEFAULT_MODEL if model == "default" else model
        loaded = load_model(model, self.task, engine)
        if loaded is not model:
            ready_for_inference(loaded)
        self.model = loaded.to(self.device).eval()
        self.engine = describe_engine(self.model)
        self.model_name = name_of(model)
        self.video = (video or VideoOptions()).for_model(self.model_name)
        if isinstance(self.model, PoseModel):
            given = {"body": body, "mesh": mesh, "focal": focal, "fov": fov_deg, "calib": calib}
            given["intrinsics"] = None if intrinsics == "auto" else intrinsics
            refuse_unused(self.model_name, given)
        network = getattr(self.model, "intrinsics", None)
        if network_file:
            network = load_network(intrinsics)
            network = network if network is None else ready_for_inference(network)
        self.cameras = IntrinsicsEstimator(
            focal=focal,
            fov_deg=fov_deg,
            calib=calibration,
            choice="network" if network_file else str(intrinsics),
            network=None if network is None else network.to(self.device).eval(),
            takes_camera=takes_camera(self.model),
        )
        self.reads_hands = isinstance(self.model, MeshModel) and is_hand_model(self.model)
        tells_sides = self.boxes_file is not None and self.boxes_file.tells_sides
        self.left = check_hand(hand, self.reads_hands, tells_sides, self.model_name)
        if isinstance(self.model, MeshModel):
            ready = with_body(self.model, self.model_name, body=body, mesh=mesh, device=self.device)
            self.model, self.body, params_body = ready.model, ready.body, ready.params_body
        else:
            if mesh is not None:
                raise UsageError(
                    f"'{self.model_name}' gives pose and shape, for which mesh {mesh} means nothing"
                )
            free_body = load_default_body().to(self.device)
            self.body = load_body(body, free_body).to(self.device)
            params_body = self._body_of_params(free_body)
        self.meshes = MeshRecovery(
            model=self.model,
            params_body=params_body,
            body=self.body,
            batch_size=batch_size,
            device=self.device,
            left_body=mirrored(self.body) if self.reads_hands else None,
        )
        self.detector_name = str(detector) if isinstance(detector, str | Path) else type(detector).__name__
        self._detector_choice = detector
        self._detector: Detector | None = None

    def __call__(
        self,
        source: str | Path | int | np.ndarray,
        *,
        boxes: np.ndarray | Sequence | None = None,
        sides: Sequence[str] | None = None,
    ) -> Clip | PoseClip:
        """The people in a picture or video; nobody is a valid result.

        Args:
            source: A picture or video file, an 8-bit RGB array, the number of a camera, the URL of a stream.
            boxes: Rows (x1, y1, x2, y2) in pixels of a picture; then nothing is detected.
            sides: "left" or "right" for each box, for models of hands.

        Raises:
            InputError: The source cannot be used, a box lies outside it, or its camera is not known.
            ResourceError: Memory is used up even with one person at a time.
            UsageError: Boxes are given for a video, or sides for people.
        """
        watch = Stopwatch()
        if isinstance(source, int):
            source = str(source)
        if not isinstance(source, np.ndarray):
            found = as_live(str(source)) or Path(source)
            if is_video(found):
                if boxes is not None:
                    raise UsageError(
                        "boxes= is for pictures; those of a video come in a file, Pipeline(boxes=FILE)"
                    )
                return recover_video(self, found, self.video, watch)
        with watch("read"):
            rgb = as_picture(source)
        path = None if isinstance(source, np.ndarray) else Path(source)
        return self.recover(rgb, path=path, boxes=boxes, sides=sides, watch=watch)

    def predict_many(
        self,
        sources: Iterable[str | Path | int],
        out: str | Path,
        *,
        save: Sequence[str] | None = None,
        resume: bool = False,
    ) -> Iterator[ItemReport]:
        """Runs on many pictures and videos and writes files; yields an `ItemReport` for each, good or bad.

        Args:
            sources: Picture and video files, folders, globs, .txt lists, camera numbers or URLs of streams.
            out: Folder for the results.
            save: Any of "overlay", "glb", "npz", "bvh", "obj", "json" for meshes, of "overlay", "json" (COCO
                results), "npz" for keypoints; by default the first three. With "json", the keypoints of
                several pictures are written as one `keypoints.json`, too.
            resume: Skip what a former run with the same settings finished.
        """
        from fasthmr.runtime.batch import predict_many
        from fasthmr.runtime.sources import find_sources

        return predict_many(self, find_sources([str(s) for s in sources]).items, Path(out), save, resume)

    def stream(self, source: str | Path | int) -> Stream:
        """The people in the pictures of a camera or stream, frame by frame as they come.

        Every frame is answered at once, or `video.delay` seconds later; where frames come faster than they
        can be worked on, the newest goes first and others are left out. Files are taken too, with all their
        frames.

            for frame in pipeline.stream(0):
                frame.persons, frame.overlay(), frame.latency_s

        Args:
            source: The number of a camera, the URL of a stream, or a video file.

        Raises:
            InputError: It cannot be used at all.
            UsageError: The pipeline has a file of boxes.
        """
        return open_stream(self, as_live(str(source)) or Path(str(source)), self.video)

    @property
    def detector(self) -> Detector:
        """The detector, loaded when it is first needed.

        Raises:
            UsageError: The model reads hands, for which there is no detector.
        """
        if self.reads_hands and self._detector_choice == "auto":
            raise UsageError(
                f"'{self.model_name}' reads right hands, and no detector of hands comes along: give their "
                "boxes (boxes=FILE), detector 'full' where one hand fills the picture, or an .onnx detector"
            )
        self._detector = self._detector or load_detector(self._detector_choice)
        return self._detector

    def prepare(self) -> None:
        """Loads what would otherwise be loaded at the first picture, so that wrong options show early."""
        if self.boxes_file is None:
            _ = self.detector

    @torch.inference_mode()
    def recover(
        self,
        rgb: Picture,
        *,
        path: Path | None = None,
        boxes: np.ndarray | Sequence | None = None,
        sides: Sequence[str] | None = None,
        camera: PictureCamera | None = None,
        image_id: int | None = None,
        watch: Stopwatch | None = None,
    ) -> Clip | PoseClip:
        """As a call with an array, with the name of its file and a stopwatch that goes on.

        Args:
            camera: Of the picture, instead of what the pipeline finds out; for the frames of a track, see
                `cameras.estimate_for_track`.
            image_id: Number of the picture in COCO's sense; that in its file name, else 0, if not given.
        """
        watch = watch or Stopwatch()
        with watch("detect"):
            people = self._find(rgb, path, boxes, sides)
        if self.task == "pose":
            return pose_clip(self, rgb, people, path, camera, image_id, watch)
        return mesh_clip(self, rgb, people, path, camera, watch)

    def _body_of_params(self, free_body: BodyModel) -> BodyModel:
        """The body that the model's parameters mean."""
        trained_body = getattr(self.model, "trained_body", "free")
        if trained_body == "free":
            return free_body
        if self.body is free_body and not isinstance(self.model, PoseModel):
            family = {"smpl": "SMPL", "smplx": "SMPL-X"}[trained_body]
            _log.warning(
                "model '%s' was trained on %s; on the free body its shapes and places are approximate, "
                "give body=FILE with your %s file",
                self.model_name,
                family,
                family,
            )
        return self.body

    def _find(
        self, rgb: Picture, path: Path | None, boxes: object, sides: Sequence[str] | None
    ) -> Detections:
        height, width = rgb.shape[:2]
        name = str(path or "picture")
        if boxes is not None:
            people = check_boxes(as_boxes(boxes, sides, self.left), (width, height), name)
        elif self.boxes_file is not None:
            if path is None:
                raise UsageError("a boxes file needs pictures with a name; give boxes= with an array")
            people = check_boxes(self.boxes_file.boxes_for(path, self.left), (width, height), name)
        else:
            people = of_side(self.detector(rgb), self.left)
        kept = slice(self.max_persons)
        return Detections(
            boxes_xyxy=people.boxes_xyxy[kept].cpu(),
            scores=people.scores[kept].cpu(),
            left=None if people.left is None else people.left[kept].cpu(),
        )
