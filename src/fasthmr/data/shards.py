"""A store of rendered records: memory-mapped pictures and label arrays, written by several processes.

`DIR/00000.rgbm.npy` is uint8 (n, height, width, 4), colour and mask; `DIR/00000.labels.npz` holds the
labels of the same records; the labels are written last, so a shard with labels is complete.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fasthmr.errors import InputError

_LOG = logging.getLogger(__name__)
RECORDS_PER_SHARD = 4096
PEOPLE_ARGUMENTS = ("split", "seed", "wardrobe", "environments", "motion", "share_alike")
_FLOAT_LABELS = (
    "rotations", "betas", "joints_3d", "points_2d", "coco17", "K", "box_xyxy", "inside_xyxy",
)  # fmt: skip
_FLAG_LABELS = ("points_inside", "coco17_inside")
_NAME_LABELS = ("part", "action")


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """One shard: pictures stay on disk until they are indexed.

    Attributes:
        rgbm: Colour and mask of each record.
        labels: Arrays with a row per record, named as in `SyntheticRecord`.
    """

    rgbm: UInt8[np.ndarray, "records height width 4"]
    labels: dict[str, np.ndarray]


def load_shards(directory: str | Path) -> list[Shard]:
    """Open all complete shards of a folder, in order.

    Raises:
        InputError: There is none, or pictures and labels disagree.
    """
    shards = []
    for path in sorted(Path(directory).glob("*.labels.npz")):
        with np.load(path, allow_pickle=False) as data:
            labels = {key: data[key] for key in data.files}
        pictures = np.load(path.with_name(path.name.replace(".labels.npz", ".rgbm.npy")), mmap_mode="r")
        if len(pictures) != len(labels["index"]):
            raise InputError(f"{path}: {len(labels['index'])} labels for {len(pictures)} pictures")
        shards.append(Shard(rgbm=pictures, labels=labels))
    if not shards:
        raise InputError(f"{directory}: no complete shard")
    return shards


def write_shards(
    people: Mapping[str, Any],
    directory: str | Path,
    count: int,
    workers: int = 1,
    start: int = 0,
    records_per_shard: int = RECORDS_PER_SHARD,
) -> int:
    """Render records start .. start + count into a folder, leaving complete shards as they are.

    Args:
        people: Arguments of `SyntheticPeople`; each worker makes its own.
        workers: Processes; 1 renders in this one.

    Returns:
        Number of shards rendered now.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    jobs = [
        (number, first, min(records_per_shard, start + count - first))
        for number, first in enumerate(range(start, start + count, records_per_shard))
        if not (directory / f"{number:05d}.labels.npz").is_file()
    ]
    note = {"people": {key: str(value) for key, value in people.items()}, "start": start, "count": count}
    (directory / "shards.json").write_text(json.dumps(note, indent=1), encoding="utf-8")
    spread(partial(_render_jobs, dict(people), directory), jobs, workers)
    return len(jobs)


def spread(work: Callable[[Iterator[Any]], None], jobs: Sequence[Any], workers: int) -> None:
    """Let several processes take jobs from one queue; one worker works in this process.

    Args:
        work: Does all jobs of an iterator; it must be importable by name, with what it is bound to.

    Raises:
        RuntimeError: A process failed; the others have ended by then.
    """
    if workers <= 1 or len(jobs) <= 1:
        work(iter(jobs))
        return
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for job in [*jobs, *[None] * workers]:
        queue.put(job)
    processes = [context.Process(target=_work, args=(work, queue), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise RuntimeError(f"{len(failed)} of {workers} rendering processes ended with codes {failed}")


def _work(work: Callable[[Iterator[Any]], None], queue: Any) -> None:
    import cv2
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    os.environ["LP_NUM_THREADS"] = "0"
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    work(iter(queue.get, None))


def _render_jobs(people: dict[str, Any], directory: Path, jobs: Iterator[tuple[int, int, int]]) -> None:
    from fasthmr.data.synthetic import SyntheticPeople

    source: SyntheticPeople | None = None
    for number, first, count in jobs:
        source = source or SyntheticPeople(**people)
        _render_shard(source, directory, number, first, count)
        _LOG.info("shard %05d: records %d..%d", number, first, first + count - 1)


def _render_shard(source: Any, directory: Path, number: int, first: int, count: int) -> None:
    height, width = source.size
    path = directory / f"{number:05d}.rgbm.npy"
    temporary = path.with_suffix(".part")
    pictures = np.lib.format.open_memmap(
        temporary, mode="w+", dtype=np.uint8, shape=(count, height, width, 4)
    )
    labels: dict[str, list[Any]] = {
        key: [] for key in ("index", *_FLOAT_LABELS, *_FLAG_LABELS, *_NAME_LABELS)
    }
    for row in range(count):
        record = source.record(first + row)
        pictures[row, ..., :3], pictures[row, ..., 3] = record.rgb, record.mask
        for key, values in labels.items():
            values.append(getattr(record, key))
    pictures.flush()
    del pictures
    arrays = {key: np.array(values) for key, values in labels.items()}
    arrays |= {key: arrays[key].astype(np.float32) for key in _FLOAT_LABELS}
    temporary.replace(path)
    label_path = directory / f"{number:05d}.labels.npz"
    part = label_path.with_suffix(".part.npz")
    np.savez(part, **arrays)  # pyright: ignore[reportArgumentType]
    part.replace(label_path)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Render synthetic people into a folder of shards.")
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    add_people_arguments(parser)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    people = {key: getattr(args, key) for key in PEOPLE_ARGUMENTS}
    write_shards(people, args.out, args.count, args.workers, args.start)


def add_people_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say which `SyntheticPeople` to render, named as in `PEOPLE_ARGUMENTS`."""
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("wardrobe", "environments", "motion"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--share-alike", action="store_true", help="use share-alike sources in train and val")


if __name__ == "__main__":
    _main()
