import json

import label_tool
import pytest
from label_tool import Recording, TrackBox, agreement, agreement_lines, coco_video

from sonodetr.files import InputError

RECORDING = Recording("clip", "clip.mp4", 7, (11, 13), fps=5)


def labels(*boxes: TrackBox):
    return coco_video(RECORDING, (3, 2, 5), list(boxes), ("ring", "line"))


def run_with(monkeypatch, build, *words) -> int:
    monkeypatch.setattr("sys.argv", ["label_x.py", *map(str, words)])
    return label_tool.run(build, "about")


def test_layout_is_ordered_by_frame_and_identity():
    found = labels(
        TrackBox(3, 2, "line", (1, 2, 3, 5)), TrackBox(2, 9, "ring", (0, 0, 2, 2), (1.234, 5.678))
    )
    assert [image["id"] for image in found["images"]] == [3, 4, 6]
    assert found["images"][0]["file_name"] == "clip/0002.png"
    first, second = found["annotations"]
    assert (first["id"], first["image_id"], first["category_id"]) == (1, 3, 1)
    assert first["keypoints"] == [1.23, 5.68, 2]
    assert (second["id"], second["image_id"], second["area"]) == (2, 4, 15)
    assert "keypoints" not in second
    assert found["videos"][0]["height"] == 11
    assert found["videos"][0]["fps"] == 5


def test_agreement_pairs_within_frame_and_class():
    reference = labels(
        TrackBox(2, 1, "ring", (0, 0, 2, 2)),
        TrackBox(2, 2, "ring", (4, 0, 2, 2)),
        TrackBox(3, 1, "line", (0, 0, 2, 2)),
    )
    ours = labels(
        TrackBox(2, 1, "ring", (4, 0, 2, 1)),
        TrackBox(2, 2, "ring", (1, 0, 2, 2)),
        TrackBox(3, 1, "ring", (0, 0, 2, 2)),  # another class
        TrackBox(5, 1, "line", (0, 0, 2, 2)),  # another frame
    )
    found = agreement(ours, reference)
    assert found["ring"].tolist() == pytest.approx([1 / 3, 1 / 2])
    assert found["line"].tolist() == [0]
    assert agreement_lines(reference, reference)[0] == "identical; 3 of 3 frames in both"
    assert agreement_lines(ours, reference)[1].startswith("ring: 3 boxes for 2, IoU mean 0.417")


def test_writes_and_compares(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    assert run_with(monkeypatch, lambda _: labels(), tmp_path, out) == 0
    assert json.loads(out.read_text()) == labels()
    assert run_with(monkeypatch, lambda _: labels(), tmp_path, "--compare", out) == 0
    assert capsys.readouterr().out == "identical; 3 of 3 frames in both\n"


def test_errors_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys):
    def fail(_):
        raise InputError("masks: none")

    out = tmp_path / "out.json"
    assert run_with(monkeypatch, fail, tmp_path, out) == 2
    assert capsys.readouterr().err == "masks: none\n"
    assert run_with(monkeypatch, fail, tmp_path / "absent", out) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(SystemExit, match="2"):
        run_with(monkeypatch, fail, tmp_path)
