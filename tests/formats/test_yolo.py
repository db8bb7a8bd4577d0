"""YOLO folders, written here: no file of a foreign tool is at hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sonodetr.files import InputError
from sonodetr.formats.yolo import read_yolo

HEIGHT, WIDTH = 20, 40


def write_pictures(root: Path, *names: str) -> None:
    for name in names:
        file = root / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.zeros((HEIGHT, WIDTH), np.uint8))


def write_labels(root: Path, name: str, text: str) -> Path:
    file = root / "labels" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_pictures(tmp_path, "train/a.png", "train/b.png", "val/c.png")
    (tmp_path / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [nerve, vessel]\n"
    )
    return tmp_path


def test_boxes_become_corners_in_pixels(root: Path) -> None:
    write_labels(root, "train/a.txt", "1 0.5 0.5 0.25 0.5\n\n0 0.125 0.25 0.25 0.5\n")
    write_labels(root, "train/b.txt", "")
    first, empty, without_file = read_yolo(root)
    assert [video.key for video in (first, empty, without_file)] == [
        "images/train/a.png",
        "images/train/b.png",
        "images/val/c.png",
    ]
    assert first.classes == ("nerve", "vessel")
    assert first.labels[0].boxes_xyxy_px.tolist() == [[15, 5, 25, 15], [0, 0, 10, 10]]
    assert first.labels[0].classes.tolist() == [1, 0]
    assert len(empty.labels[0]) == len(without_file.labels[0]) == 0
    assert first.frames.size == (HEIGHT, WIDTH)


def test_a_relative_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labels(root, "train/a.txt", "1 0.5 0.5 0.25 0.5")
    monkeypatch.chdir(root.parent)
    videos = read_yolo(root.name)
    assert videos[0].key == "images/train/a.png"
    assert len(videos[0].labels[0]) == 1


def test_a_polygon_becomes_the_box_round_it(root: Path) -> None:
    write_labels(root, "train/a.txt", "0 0.25 0.5 0.5 0.75 0.375 0.1\n")
    labels = read_yolo(root)[0].labels[0]
    np.testing.assert_allclose(labels.boxes_xyxy_px, [[10, 2, 20, 15]], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "columns", "expected"),
    [
        ("[3, 3]", "0.25 0.5 2 0.75 0.25 0 0.1 0.1 2", [[10, 10], [np.nan, np.nan]]),
        ("[2, 2]", "0.25 0.5 0.75 0.25", [[10, 10], [30, 5]]),
        ("[2, 2]", "0.25 0.5 0 0", [[10, 10], [np.nan, np.nan]]),
        ("[1, 3]", "0.25 0.5 1", [[10, 10], [np.nan, np.nan]]),
    ],
)
def test_keypoints(root: Path, shape: str, columns: str, expected: list[list[float]]) -> None:
    with (root / "data.yaml").open("a") as file:
        file.write(f"kpt_shape: {shape}\n")
    write_labels(root, "train/a.txt", f"0 0.5 0.5 0.25 0.5 {columns}\n")
    labels = read_yolo(root)[0].labels[0]
    np.testing.assert_array_equal(labels.points_px, [expected])
    assert labels.boxes_xyxy_px.tolist() == [[15, 5, 25, 15]]


def test_names_as_a_mapping_and_a_path_of_another_machine(root: Path) -> None:
    (root / "data.yaml").unlink()
    (root / "nerves.yaml").write_text(
        "path: /content/nerves\ntrain: ../images/train\nval: images/train\ntest:\n"
        "names: {1: vessel, 0: nerve}\n"
    )
    write_labels(root, "train/a.txt", "1 0.5 0.5 0.25 0.5\n")
    videos = read_yolo(root)
    assert [video.key for video in videos] == ["images/train/a.png", "images/train/b.png"]
    assert videos[0].classes == ("nerve", "vessel")


def test_a_list_of_pictures_and_no_parts_at_all(root: Path) -> None:
    write_labels(root, "train/a.txt", "0 0.5 0.5 0.25 0.5\n")
    (root / "data.yaml").write_text("train: train.txt\nnames: [nerve]\n")
    (root / "train.txt").write_text("./images/train/a.png\nimages/val/c.png\n")
    assert [video.key for video in read_yolo(root)] == ["images/train/a.png", "images/val/c.png"]
    write_labels(root, "train/b.txt", "")  # of a picture that is there, but not listed
    assert len(read_yolo(root)) == 2
    (root / "data.yaml").write_text("names: [nerve]\n")
    assert len(read_yolo(root / "data.yaml")) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.25 0.5", "class 2 is not among the classes 0 to 1"),
        ("-1 0.5 0.5 0.25 0.5", "class -1 is not among the classes 0 to 1"),
        ("0.5 0.5 0.5 0.25 0.5", "class 0.5 is not among"),
        ("nerve 0.5 0.5 0.25 0.5", "value 'nerve' is not a finite number"),
        ("0 0.5 nan 0.25 0.5", "value 'nan' is not a finite number"),
        ("0 0.5 0.5 0.25", "has 4 values, allowed: 5 (box) or 7, 9, ... (polygon)"),
        ("0 0.5 0.5 0.25 0.5 0.9", "has 6 values, allowed: 5 (box) or"),
        ("0 0.5 0.5 0 0.5", "box is empty (0 x 10 px)"),
        ("0 0.5 0.5 0.25 1.25", "sticks 2.5 px out of the 40 x 20 picture"),
        ("0 20 10 10 10", "sticks 960 px out of the 40 x 20 picture"),
    ],
)
def test_a_bad_label_is_named_or_skipped(root: Path, line: str, message: str) -> None:
    file = write_labels(root, "train/a.txt", f"0 0.5 0.5 0.25 0.5\n{line}\n")
    with pytest.raises(InputError) as caught:
        read_yolo(root)
    assert str(caught.value).startswith(f"{file}: line 2: ")
    assert message in str(caught.value)
    assert "(1 of 2 labels are bad)" in str(caught.value)
    videos = read_yolo(root, on_bad_label="skip")
    assert [len(video.labels) for video in videos] == [0, 1, 1]


def test_a_label_file_without_a_picture(root: Path) -> None:
    write_labels(root, "train/a.txt", "0 0.5 0.5 0.25 0.5\n")
    write_labels(root, "train/classes.txt", "nerve\nvessel\n")
    stray = write_labels(root, "train/gone.txt", "0 0.5 0.5 0.25 0.5\n")
    with pytest.raises(InputError, match=rf"{stray}: there is no picture of that name \(1 of 2"):
        read_yolo(root)
    assert [len(video.labels) for video in read_yolo(root, on_bad_label="skip")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\n", "data.yaml: names is missing"),
        ("names: nerve\n", "data.yaml: names is 'nerve', but input should be a valid list"),
        ("names: {0: nerve, 2: vessel}\n", "names must be numbered 0, 1, 2, ... without a gap"),
        ("names: [nerve, nerve]\n", "names: 'nerve' is given twice"),
        ("names: [nerve]\nnc: 2\n", "nc is 2, but there are 1 names"),
        ("names: [nerve]\ntrain: pictures\n", "/pictures does not exist; correct path, train"),
        ("names: [nerve]\ntrain: labels\n", "its folders hold no picture (.png"),
        ("names: [nerve]\nkpt_shape: [2, 4]\n", "data.yaml: kpt_shape[1] is 4, but"),
        ("names: [nerve\n", "data.yaml: not valid YAML at line 2"),
        ("- nerve\n", "data.yaml: the file is ['nerve'], but input should be a valid dictionary"),
        ("", "the file is empty (0 bytes)"),
    ],
)
def test_faults_of_the_description_are_named(root: Path, text: str, message: str) -> None:
    write_labels(root, "train/a.txt", "0 0.5 0.5 0.25 0.5\n")
    (root / "data.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_yolo(root)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_description_or_any_labels(root: Path) -> None:
    with pytest.raises(InputError, match=r"none of its 3 pictures has labels; expected .*a\.txt"):
        read_yolo(root)
    (root / "data.yaml").unlink()
    with pytest.raises(InputError, match=r"has no data\.yaml; add one with 'names: \["):
        read_yolo(root)


def test_a_label_file_that_is_no_text(root: Path) -> None:
    write_labels(root, "train/a.txt", "").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"a\.txt: cannot be read as text"):
        read_yolo(root)
