from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import torch

from fasthmr.runtime.box_motion import correct, follow, from_xyxy, predict, start, to_xyxy
from fasthmr.runtime.track import TrackedBox, Tracker, TrackerConfig
from fasthmr.types import Detections

Way = Callable[[float], tuple[float, float]]
"""Centre of a person at a time."""

WIDTH, HEIGHT = 40.0, 100.0


def seen(boxes: Iterable[Sequence[float]], scores: Sequence[float] | None = None) -> Detections:
    table = torch.tensor(np.array(list(boxes), dtype=np.float32)).reshape(-1, 4)
    return Detections(
        boxes_xyxy=table, scores=torch.ones(len(table)) if scores is None else torch.tensor(scores)
    )


def box(center: tuple[float, float], scale: float = 1.0) -> list[float]:
    (x, y), w, h = center, WIDTH * scale / 2, HEIGHT * scale / 2
    return [x - w, y - h, x + w, y + h]


def owners(
    ways: Sequence[Way],
    times: Sequence[float],
    *,
    hidden: Callable[[int, float], bool] = lambda person, time: False,
    every: int = 1,
    jitter: float = 0.0,
    tracker: Tracker | None = None,
) -> tuple[list[set[int]], list[list[TrackedBox]]]:
    """The track ids that were given near each person's true place, and all that was given."""
    random = np.random.default_rng(0)
    tracker = tracker or Tracker()
    ids: list[set[int]] = [set() for _ in ways]
    given = []
    for index, time in enumerate(times):
        people = [i for i in range(len(ways)) if not hidden(i, time)]
        boxes = [np.add(box(ways[i](time)), jitter * random.standard_normal(4)) for i in people]
        order = random.permutation(len(boxes))
        detections = seen([boxes[i] for i in order]) if index % every == 0 else None
        given.append(tracker.update(detections, time))
        for person, way in enumerate(ways):
            if person in people:
                near = [t for t in given[-1] if np.hypot(*np.subtract(center(t), way(time))) < 0.2 * WIDTH]
                ids[person] |= {t.track_id for t in near} if len(near) == 1 else set()
    return ids, given


def center(tracked: TrackedBox) -> tuple[float, float]:
    x1, y1, x2, y2 = tracked.box_xyxy
    return (x1 + x2) / 2, (y1 + y2) / 2


def line(x: float, y: float, dx: float, dy: float) -> Way:
    return lambda time: (x + dx * time, y + dy * time)


def times(seconds: float, fps: float = 30.0) -> list[float]:
    return [i / fps for i in range(round(seconds * fps))]


def test_one_person_is_one_track_and_the_boxes_get_calmer() -> None:
    way = line(50, 60, 80, 5)
    ids, given = owners([way], times(3), jitter=3.0)
    assert ids == [{0}]
    assert all(len(people) == 1 and people[0].detected for people in given)
    errors = [np.subtract(center(people[0]), way(t)) for people, t in zip(given, times(3), strict=True)]
    assert np.std(errors[30:]) < 0.8 * 3.0 / np.sqrt(2)


@pytest.mark.parametrize("every", [1, 3, 5])
@pytest.mark.parametrize("fps", [30.0, 12.0])
def test_people_who_cross_keep_their_ids(every: int, fps: float) -> None:
    """They pass through each other; in the middle one is hidden behind the other."""
    ways = [line(0, 100, 60, 0), line(180, 104, -60, 0)]
    ids, _ = owners(
        ways, times(3, fps), hidden=lambda person, t: person == 1 and 1.3 < t < 1.7, every=every, jitter=1.0
    )
    assert [len(found) for found in ids] == [1, 1]
    assert ids[0] != ids[1]


def test_people_who_meet_and_turn_back_keep_their_ids() -> None:
    def meet(x: float, side: int) -> Way:
        return lambda t: (x + side * 60 * (t if t < 1.2 else 2.4 - t), 100.0)

    ids, _ = owners([meet(0, 1), meet(190, -1)], times(2.4), jitter=1.0)
    assert [len(found) for found in ids] == [1, 1]


def test_an_occlusion_shorter_than_the_memory_keeps_the_id_and_a_longer_one_does_not() -> None:
    way = line(0, 100, 50, 0)
    ids, given = owners([way], times(6), hidden=lambda person, t: 2 < t < 3.5, jitter=1.0)
    assert ids == [{0}]
    gap = [len(people) for people, t in zip(given, times(6), strict=True) if 2 < t < 3.5]
    assert sum(gap) == pytest.approx(0.5 * 30, abs=1), "expected boxes end after half a second"
    assert not any(
        t.detected or t.score
        for people, time in zip(given, times(6), strict=True)
        if 2 < time < 3.5
        for t in people
    )
    ids, _ = owners([way], times(6), hidden=lambda person, t: 2 < t < 4.5, jitter=1.0)
    assert len(ids[0]) == 2


def test_between_detections_boxes_move_on() -> None:
    way = line(0, 100, 120, 0)
    _, given = owners([way], times(2), every=6)
    errors = [np.hypot(*np.subtract(center(g[0]), way(t))) for g, t in zip(given, times(2), strict=True)]
    assert max(errors[30:]) < 2
    assert [people[0].detected for people in given] == [i % 6 == 0 for i in range(60)]


def test_a_variable_frame_rate_changes_nothing() -> None:
    random = np.random.default_rng(1)
    clock = np.cumsum(random.choice([0.01, 0.03, 0.1, 0.2], 60)).tolist()
    ways = [line(0, 100, 60, 0), line(400, 103, -60, 0)]
    ids, given = owners(ways, clock, jitter=1.0)
    assert [len(found) for found in ids] == [1, 1]
    assert {len(people) for people in given} == {2}


def test_doubtful_detections_continue_tracks_and_start_none() -> None:
    tracker = Tracker(TrackerConfig(new_score=0.7, high_score=0.5, low_score=0.1))
    first = tracker.update(seen([box((50, 60)), box((300, 60))], [0.9, 0.3]), 0.0)
    assert len(first) == 1
    for index in range(1, 60):
        people = tracker.update(seen([box((50 + index, 60)), box((300, 60))], [0.3, 0.3]), index / 30)
        assert [(t.track_id, t.detected, round(t.score, 2)) for t in people] == [(0, True, 0.3)]
    assert tracker.update(seen([box((110, 60))], [0.05]), 2.0)[0].detected is False


def test_what_only_looks_a_little_like_a_person_is_not_followed_for_ever() -> None:
    tracker = Tracker(TrackerConfig(new_score=0.7, high_score=0.5, low_score=0.1, doubt_s=1.0))
    tracker.update(seen([box((50, 60))], [0.9]), 0.0)
    given = [bool(tracker.update(seen([box((50, 60))], [0.3]), index / 30)) for index in range(1, 75)]
    assert given == [index / 30 <= 1.5 for index in range(1, 75)], "a second of doubt, half a second more"


def test_something_much_larger_in_the_same_place_is_somebody_else() -> None:
    tracker = Tracker()
    for index in range(10):
        tracker.update(seen([box((300, 300))]), index / 10)
    after = tracker.update(seen([box((300, 300), scale=1.8)]), 1.0)
    assert [(t.track_id, t.detected) for t in after] == [(0, False), (1, True)]
    with pytest.raises(ValueError, match="max_growth=0"):
        TrackerConfig(max_growth=0.5)


def test_somebody_who_comes_nearer_fast_is_the_same_person() -> None:
    tracker = Tracker()
    for index in range(21):
        people = tracker.update(seen([box((300, 300), scale=1.15**index)]), index / 10)
        assert [t.track_id for t in people] == [0]


def test_somebody_who_jumps_is_found_around_the_last_place() -> None:
    tracker = Tracker()
    for index in range(10):
        tracker.update(seen([box((50 + 4 * index, 60))]), index / 30)
    found = tracker.update(seen([box((50, 60))]), 10 / 30)  # against the expected way
    assert [t.track_id for t in found] == [0]


def test_a_track_is_given_once_it_is_confirmed() -> None:
    tracker = Tracker(TrackerConfig(confirm=3))
    counts = [len(tracker.update(seen([box((50, 60))]), index / 10)) for index in range(5)]
    assert counts == [0, 0, 1, 1, 1]


def test_somebody_seen_twice_by_mistake_is_soon_forgotten() -> None:
    tracker = Tracker()
    tracker.update(seen([box((50, 60))]), 0.0)
    tracker.update(seen([]), 0.6)
    assert tracker.update(seen([box((50, 60))]), 0.7)[0].track_id == 1


def test_nobody_and_empty_frames() -> None:
    tracker = Tracker()
    assert tracker.update(seen([]), 0.0) == []
    assert tracker.update(None, 0.1) == []
    with pytest.raises(ValueError, match="comes after"):
        tracker.update(seen([]), 0.1)
    with pytest.raises(ValueError, match="do not rise"):
        TrackerConfig(high_score=0.1, low_score=0.5)


def test_r10_hundreds_of_people_keep_their_ids() -> None:
    random = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(20) * 90, np.arange(15) * 140), -1).reshape(-1, 2)
    steps = random.normal(0, 40, places.shape)
    tracker = Tracker()
    for index in range(8):
        order = random.permutation(300)
        boxes = [box(tuple(places[i] + steps[i] * index / 30)) for i in order]
        people = tracker.update(seen(boxes), index / 30)
        assert [t.track_id for t in people] == list(range(300))
        if index == 0:
            person_of_track = [order.tolist()[t.track_id] for t in people]
        away = [
            np.subtract(center(t), places[p] + steps[p] * index / 30)
            for t, p in zip(people, person_of_track, strict=True)
        ]
        assert np.abs(away).max() < 8
    few = Tracker(TrackerConfig(max_boxes=100))
    assert len(few.update(seen(boxes), 0.0)) == 100


def test_box_motion_agrees_with_itself() -> None:
    random = np.random.default_rng(0)
    boxes = np.hstack([random.uniform(0, 50, (5, 2)), random.uniform(60, 200, (5, 2))])
    np.testing.assert_allclose(to_xyxy(from_xyxy(boxes)), boxes, atol=1e-9)
    states = correct(predict(start(from_xyxy(boxes)), np.full(5, 0.1)), from_xyxy(boxes + 3))
    half = predict(predict(states, np.full(5, 0.2)), np.full(5, 0.3))
    whole = predict(states, np.full(5, 0.5))
    np.testing.assert_allclose(half.position, whole.position, atol=1e-6)
    np.testing.assert_allclose(half.velocity, whole.velocity, atol=1e-6)
    at_once = follow(
        states, from_xyxy(boxes), from_xyxy(boxes + 9), np.full(5, 0.3), np.ones(5, dtype=np.int64)
    )
    by_hand = correct(predict(states, np.full(5, 0.3)), from_xyxy(boxes + 9))
    np.testing.assert_allclose(at_once.position, by_hand.position)


def test_after_a_gap_the_velocity_is_that_of_the_straight_way() -> None:
    tracker = Tracker()
    for index in range(30):  # to the right
        tracker.update(seen([box((50 + 2 * index, 60))]), index / 30)
    for index in range(30, 45):
        tracker.update(seen([]), index / 30)
    tracker.update(seen([box((90, 60))]), 1.5)  # turned back while hidden
    after = tracker.update(None, 1.6)[0]
    assert center(after)[0] < 90
