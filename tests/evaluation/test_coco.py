from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from fasthmr.errors import InputError, MissingExtra
from fasthmr.evaluation.coco import (
    METRICS,
    PoseDetections,
    detections_by_image,
    keypoint_ap,
    keypoint_results,
    read_results,
    rescore,
    write_results,
)


def truth(people: dict[int, int]) -> dict[str, Any]:
    """Annotations of 50 x 100 px people, so many in each picture, 200 px apart."""
    annotations = []
    for image, count in people.items():
        for person in range(count):
            points = [[200 * person + 3 * k, 6 * k, 2] for k in range(17)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": 5000.0,
                    "bbox": [200 * person, 0, 50, 100],
                    "keypoints": [value for point in points for value in point],
                    "num_keypoints": 17,
                }
            )
    return {
        "images": [{"id": image} for image in people],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }


def found(image: int, persons: list[int], scores: list[float]) -> PoseDetections:
    points = torch.tensor([[[200.0 * p + 3 * k, 6.0 * k, 0.8] for k in range(17)] for p in persons])
    return PoseDetections(
        image_id=image,
        keypoints=points.reshape(-1, 17, 3),
        area=torch.full((len(persons),), 5000.0),
        box_scores=torch.tensor(scores),
    )


def test_rescoring_by_hand():
    scores = torch.tensor([[0.9, 0.3, 0.2, 0.1], [0.2, 0.0, 0.1, 0.2]])
    torch.testing.assert_close(rescore(scores, torch.tensor([0.5, 1.0])), torch.tensor([0.3, 0.0]))


def test_perfect_poses_reach_one():
    results = keypoint_results([found(7, [0, 1], [0.9, 0.8]), found(9, [0], [0.7])])
    assert [(row["image_id"], round(row["score"], 5)) for row in results] == [(7, 0.72), (7, 0.64), (9, 0.56)]
    ap = keypoint_ap(truth({7: 2, 9: 1}), results)
    assert tuple(ap) == METRICS
    assert (ap["AP"], ap["AR"], ap["AP (M)"], ap["AP (L)"]) == pytest.approx((1.0, 1.0, 1.0, -1.0))


def test_misses_false_poses_and_doubles():
    wrong = found(9, [40], [0.95])
    doubled = found(7, [0, 0], [0.9, 0.8])
    assert len(keypoint_results([doubled])) == 1
    ap = keypoint_ap(truth({7: 1, 9: 1}), keypoint_results([doubled, wrong]))
    # One of two people found, after one false pose: precision 1/2 up to recall 1/2 (51 of 101 points).
    assert ap["AR"] == pytest.approx(0.5)
    assert ap["AP"] == pytest.approx(0.5 * 51 / 101)


def test_no_poses_and_poses_of_strange_pictures():
    assert keypoint_ap(truth({7: 1}), [])["AP"] == pytest.approx(0.0)
    with pytest.raises(InputError, match=r"1 pictures .* first 8"):
        keypoint_ap(truth({7: 1}), keypoint_results([found(8, [0], [0.9])]))


def test_ground_truth_and_results_are_left_alone():
    annotations, results = truth({7: 1}), keypoint_results([found(7, [0], [0.9])])
    before = (repr(annotations), repr(results))
    keypoint_ap(annotations, results)
    assert (repr(annotations), repr(results)) == before


def test_persons_are_gathered_by_picture():
    groups = detections_by_image(
        [5, 3, 5], torch.arange(3.0)[:, None, None].expand(3, 2, 3), *[torch.ones(3)] * 2
    )
    assert [group.image_id for group in groups] == [5, 3]
    assert groups[0].keypoints[:, 0, 0].tolist() == [0.0, 2.0]


def test_results_survive_the_file(tmp_path):
    results = keypoint_results([found(7, [0, 1], [0.9, 0.8])])
    assert read_results(write_results(results, tmp_path / "results.json")) == results


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a json file"),
        ("[" * 10**6, "not a json file"),
        ("{}", "holds dict"),
        ("[1]", "result 0 is int"),
        ('[{"image_id": 1, "category_id": 1, "score": 1}]', "result 0 has no keypoints"),
        ('[{"image_id": 1, "category_id": 1, "score": 1, "keypoints": [1, 2]}]', "flat list"),
        ('[{"image_id": 1, "category_id": 1, "score": NaN, "keypoints": [1, 2, 3]}]', "number as score"),
    ],
)
def test_other_files_are_refused(tmp_path, text: str, words: str):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read_results(path)
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        read_results(tmp_path / "none.json")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("faster_coco_eval"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"fasthmr\[eval\]"):
        keypoint_ap(truth({7: 1}), [])
