from __future__ import annotations

from pathlib import Path

import pytest

from fasthmr.errors import InputError, UsageError
from fasthmr.runtime.sources import Live, as_live, find_pictures, find_sources, is_video, output_stems


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_a_folder_gives_its_pictures_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "notes.md", "clip.mp4", ".hidden.jpg", "sub/c.jpg", "a.overlay.png")
    found = find_pictures([str(tmp_path)])
    assert [path.name for path in found.pictures] == ["a.png", "b.JPG"]
    assert [path.name for path in found.skipped_videos] == ["clip.mp4"]
    assert not found.single


def test_globs_lists_and_files_join_without_repeats(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "sub/c.jpg")
    (tmp_path / "list.txt").write_text("# comment\n\na.jpg\nsub\n")
    found = find_pictures(
        [str(tmp_path / "list.txt"), str(tmp_path / "**" / "*.jpg"), str(tmp_path / "none.jpg")]
    )
    assert [path.name for path in found.pictures] == ["a.jpg", "c.jpg", "b.jpg", "none.jpg"]


def test_one_named_file_is_single_even_when_missing(tmp_path: Path) -> None:
    assert find_pictures([str(tmp_path / "none.jpg")]).single
    assert find_pictures([str(tmp_path / "strange.xyz")]).single


def test_a_name_with_glob_characters_is_a_file_first(tmp_path: Path) -> None:
    touch(tmp_path, "photo[1].jpg")
    assert find_pictures([str(tmp_path / "photo[1].jpg")]).single


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("0", "camera 0: is no picture"),
        ("rtsp://example.org/live", "live: is no picture"),
        ("https://example.org/a.jpg", "a.jpg: is no picture"),
        ("clip.mp4", "clip.mp4: is no picture"),
        ("", "empty"),
        ("a\0b", "zero byte"),
    ],
)
def test_what_is_no_picture_is_a_usage_error(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_pictures([source])
    with pytest.raises(UsageError):
        find_pictures([])


def test_videos_cameras_and_streams_are_found_too(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "clip.MP4", "a.avi", "a.overlay.mp4", "notes.md")
    found = find_sources(
        [str(tmp_path), "0", "rtsp://user@example.org:554/live/Cam 1?x=1", str(tmp_path / "none.mov")]
    )
    assert [str(item) if isinstance(item, Live) else item.name for item in found.items] == [
        *("a.avi", "b.jpg", "clip.MP4", "camera 0", "rtsp://user@example.org:554/live/Cam 1?x=1", "none.mov")
    ]
    assert [is_video(item) for item in found.items] == [True, False, True, True, True, True]
    assert not found.single
    assert [item.name for item in found.items[3:5]] == ["camera0", "Cam_1"]
    for source in ("0", "rtsp://example.org/live", "none.mp4"):
        assert find_sources([source]).single


def test_names_of_streams_are_harmless() -> None:
    for address in ("http://host/../../etc/passwd", "http://host/", "udp://@239.0.0.1:1234", "http://h/.."):
        live = as_live(address)
        assert live is not None
        assert live.name and not live.name.startswith(".") and "/" not in live.name


def test_a_file_named_like_a_camera_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "7")
    assert find_sources(["7"]).items == (Path("7"),)


def test_lists_name_no_streams(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("rtsp://example.org/live\n")
    with pytest.raises(InputError, match="names a stream"):
        find_sources([str(tmp_path / "list.txt")])


def test_nothing_found_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder holds no pictures"):
        find_pictures([str(tmp_path)])
    with pytest.raises(InputError, match="glob holds no pictures"):
        find_pictures([str(tmp_path / "*.jpg")])
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="list is empty"):
        find_pictures([str(tmp_path / "empty.txt")])
    (tmp_path / "loop.txt").write_text("loop.txt\n")
    with pytest.raises(InputError, match="another list"):
        find_pictures([str(tmp_path / "loop.txt")])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x81")
    with pytest.raises(InputError, match="text list"):
        find_pictures([str(tmp_path / "binary.txt")])


def test_results_have_distinct_names() -> None:
    pictures = [Path(p) for p in ("x/a.jpg", "x/A.png", "y/a.jpg", "x/b.jpg", "x/" + "n" * 250 + ".jpg")]
    stems = output_stems(pictures)
    assert stems[pictures[1]] == "A.png"
    assert stems[pictures[3]] == "b"
    assert len({stem.casefold() for stem in stems.values()}) == len(pictures)
    assert all(len(stem) < 200 for stem in stems.values())
    assert stems[pictures[0]].startswith("a.jpg.")
    assert output_stems(pictures[:1]) == {pictures[0]: "a"}


def test_an_overlong_name_is_a_missing_file() -> None:
    assert find_pictures(["n" * 5000 + ".jpg"]).single
