"""Tracks of people as skinned meshes with animated skeletons, for glTF.

A person is a node with a static joint `root`, beneath it the body's joints, and a mesh that is bound to them
at rest (y up, facing +z). Rotations are keyed in every frame in which the person was seen and interpolated
between them; before and after, the pelvis is scaled to nothing.

The mesh ends with two vertices that no triangle uses: the corners of the box that the person moves in, bound
to `root`. Viewers that decide once what is in view (three.js keeps the sphere round the vertices from when it
first draws) see the whole motion then.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.chain import bone_vectors
from fasthmr.body.unpose import RestSkeleton, largest_weights
from fasthmr.errors import UsageError
from fasthmr.geometry.interpolation import continuous_quaternions
from fasthmr.geometry.rotations import rotmat_to_quat_wxyz
from fasthmr.io.clip_schema import person_name, to_viewer_axes
from fasthmr.io.glb_file import GlbFile
from fasthmr.io.glb_mesh import SurfaceWriter
from fasthmr.io.rest_track import rest_track
from fasthmr.results import Clip, Person

_log = logging.getLogger(__name__)

_INFLUENCES = 4  # joints that may move a vertex, as many as every program reads
_NOTABLE_MM = 5.0
_REACH = 1.0  # metres from a joint that the surface surely stays within
_FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))  # camera axes to viewer axes


class SkinnedScene:
    """The people of a clip of several frames, with one animation for all.

    Raises:
        UsageError: The clip has no skinning weights.
    """

    def __init__(self, file: GlbFile, clip: Clip, surfaces: SurfaceWriter, name: str) -> None:
        if clip.lbs_weights is None:
            raise UsageError(
                f"{name}: the clip has {clip.num_frames} frames but no skinning weights, which an animated "
                ".glb needs; save it as .obj (one file per frame) or .bvh (skeleton only)"
            )
        self._file, self._clip, self._surfaces, self._name = file, clip, surfaces, name
        self._times = clip.frame_times.astype(np.float32)
        self._samplers: list[dict[str, Any]] = []
        self._channels: list[dict[str, Any]] = []
        self._weights = self._skinning_attributes(torch.from_numpy(np.asarray(clip.lbs_weights)))

    def add(self, person: Person, color: int) -> tuple[int, int]:
        """Adds one person; returns the nodes of his or her skeleton and mesh."""
        file, name = self._file, person_name(person)
        track = rest_track(person, self._clip, _INFLUENCES)
        mean, worst = track.error_mm
        _log.log(
            logging.WARNING if mean > _NOTABLE_MM else logging.INFO,
            "%s: %s differs from its skinned mesh by %.2f mm in the mean, at most %.2f; it has one shape",
            *(self._name, name, mean, worst),
        )
        root, joints = self._add_skeleton(person, track.rotations, track.skeleton)
        inverse_bind = np.tile(np.eye(4, dtype=np.float32), (1 + len(joints), 1, 1))
        inverse_bind[1:, 3, :3] = -track.skeleton.rest.numpy()  # transposed, columns first
        skin = file.add(
            "skins", name=name, joints=[root, *joints], inverseBindMatrices=file.accessor(inverse_bind)
        )
        points = np.concatenate([track.vertices.numpy(), _corners(track.skeleton.joints.numpy())])
        mesh = file.add(
            "nodes",
            name=f"{name}_mesh",
            mesh=self._surfaces.add(name, color, points, self._clip.faces_of(person), self._weights),
            skin=skin,
            extras={"skinning_error_mm": {"mean": round(mean, 3), "max": round(worst, 3)}},
        )
        return file.add("nodes", name=name, children=[root], extras={"track_id": int(person.track_id)}), mesh

    def finish(self) -> None:
        """Writes the animation of all people."""
        self._file.add("animations", name="motion", samplers=self._samplers, channels=self._channels)

    def _add_skeleton(
        self, person: Person, rotations: Float[Tensor, "frames joints 3 3"], skeleton: RestSkeleton
    ) -> tuple[int, list[int]]:
        """Nodes of `root` and the joints, in the pose of the first frame, and their channels."""
        clip, file = self._clip, self._file
        turned = rotations.clone()
        turned[:, 0] = _FLIP @ rotations[:, 0]
        quat = continuous_quaternions(rotmat_to_quat_wxyz(turned)).roll(-1, dims=-1).float().numpy()
        places = to_viewer_axes(skeleton.joints[:, 0].float().numpy())
        bones = bone_vectors(skeleton.rest, clip.parents.tolist()).float().numpy()
        bones[0] = places[0]
        joints = [
            file.add("nodes", name=joint, translation=bones[index].tolist(), rotation=quat[0, index].tolist())
            for index, joint in enumerate(clip.joint_names)
        ]
        for index, joint in enumerate(joints):
            children = [joints[child] for child in np.flatnonzero(clip.parents == index)]
            if children:
                file.update("nodes", joint, children=children)
        times = file.accessor(self._times[person.frames], bounds=True)
        self._key(joints[0], "translation", times, places)
        for index, joint in enumerate(joints):
            self._key(joint, "rotation", times, quat[:, index])
        self._hide_outside(joints[0], person)
        return file.add("nodes", name="root", children=[joints[0]]), joints

    def _key(
        self, node: int, path: str, times: int, values: np.ndarray, interpolation: str = "LINEAR"
    ) -> None:
        sampler = {"input": times, "output": self._file.accessor(values), "interpolation": interpolation}
        self._channels.append({"sampler": len(self._samplers), "target": {"node": node, "path": path}})
        self._samplers.append(sampler)

    def _hide_outside(self, pelvis: int, person: Person) -> None:
        """Scales the person to nothing in the frames before the first and after the last."""
        seen = np.zeros(len(self._times), dtype=np.float32)
        seen[person.frames[0] : person.frames[-1] + 1] = 1
        if not seen.all():
            # A key in the last frame, too, makes the animation as long as the clip.
            keys = np.unique(np.concatenate([[0], np.flatnonzero(np.diff(seen)) + 1, [len(seen) - 1]]))
            times = self._file.accessor(self._times[keys], bounds=True)
            self._key(pelvis, "scale", times, np.repeat(seen[keys, None], 3, axis=1), "STEP")

    def _skinning_attributes(self, lbs_weights: Float[Tensor, "vertices joints"]) -> dict[str, int]:
        """Accessors of joints and weights, which all people share; joint 0 of a skin is `root`."""
        index, weight = largest_weights(lbs_weights.double(), _INFLUENCES)
        corners = torch.eye(_INFLUENCES)[:1].expand(2, -1)
        index = torch.cat([torch.where(weight > 0, index + 1, 0), torch.zeros(2, _INFLUENCES).long()])
        dtype = np.uint8 if int(index.max()) < 256 else np.uint16
        return {
            "JOINTS_0": self._file.accessor(index.numpy().astype(dtype), "vertices"),
            "WEIGHTS_0": self._file.accessor(torch.cat([weight.float(), corners]).numpy(), "vertices"),
        }


def _corners(joints: Float[np.ndarray, "frames joints 3"]) -> Float[np.ndarray, "2 3"]:
    """Two corners of a box, in viewer axes, that the surface stays in."""
    places = to_viewer_axes(joints.reshape(-1, 3))
    return np.stack([places.min(0) - _REACH, places.max(0) + _REACH])
