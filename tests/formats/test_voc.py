"""Pascal VOC: real counts, the corner convention, defects of real writers."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sonodetr.files import InputError
from sonodetr.formats.voc import read_voc

HEIGHT, WIDTH = 11, 17


def item(
    name: str = "nerve", corners: tuple[object, ...] = (3, 4, 7, 9), difficult: str = "0"
) -> str:
    box = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{box}</bndbox></object>"
    )


def annotation(
    *items: str, filename: str = "a.png", size: tuple[int, int] = (WIDTH, HEIGHT)
) -> str:
    return (
        f"<annotation><filename>{filename}</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>1</depth></size>"
        f"{''.join(items)}</annotation>"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "JPEGImages" / name), np.zeros((HEIGHT, WIDTH), np.uint8))
    return tmp_path


def write(folder: Path, text: str, name: str = "a.xml") -> Path:
    file = folder / "Annotations" / name
    file.write_text(text)
    return file


def test_blood_cells(data_folder: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = data_folder("bccd") / "BCCD"
    with pytest.raises(InputError) as caught:
        read_voc(folder)
    assert str(caught.value).startswith(
        f"{folder}/Annotations/BloodImage_00338.xml: object 13 (RBC): box is empty "
        "(xmin 504, xmax 504, ymin 337, ymax 337) (2 of 4888 labels are bad)"
    )
    with caplog.at_level(logging.WARNING):
        videos = read_voc(folder, on_bad_label="skip")
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "2 of 4888 labels left out, frames left unlabelled: 2; the first: "
    )
    assert len(videos) == 364
    assert videos[0].classes == ("Platelets", "RBC", "WBC")
    assert {video.key for video in videos if not video.labels} == {
        "BloodImage_00338.jpg",
        "BloodImage_00343.jpg",
    }
    counts = Counter(
        index for v in videos for labels in v.labels.values() for index in labels.classes
    )
    # 361 platelets, 4155 red and 372 white cells, less all 26 in the two pictures left out.
    assert sum(counts.values()) == 4862
    first = next(video for video in videos if video.key == "BloodImage_00002.jpg")
    assert first.labels[0].boxes_xyxy_px[0].tolist() == [384, 97, 523, 198]
    assert first.frames[0].shape == (480, 640, 3)


def test_corners_count_from_one_and_belong_to_the_box(folder: Path) -> None:
    write(folder, annotation(item("vessel"), item("nerve", (1, 1, WIDTH, HEIGHT), "1")))
    write(folder, annotation(filename="b.png"), "b.xml")
    first, second = read_voc(folder)
    assert first.classes == second.classes == ("nerve", "vessel")
    assert (first.key, second.key) == ("a.png", "b.png")
    labels = first.labels[0]
    assert labels.boxes_xyxy_px.tolist() == [[2, 3, 7, 9], [0, 0, WIDTH, HEIGHT]]
    assert labels.classes.tolist() == [1, 0]
    assert labels.crowd.tolist() == [False, True]
    assert len(second.labels[0]) == 0


def test_corners_from_zero_are_put_down_to_rounding(folder: Path) -> None:
    write(folder, annotation(item(corners=(0, 0, 16, 10))))
    assert read_voc(folder)[0].labels[0].boxes_xyxy_px.tolist() == [[0, 0, 16, 10]]


def test_a_wrong_name_and_a_missing_size_are_mended_by_the_picture(folder: Path) -> None:
    write(folder, annotation(item(), filename=r"C:\export\a", size=(0, 0)))
    (video,) = read_voc(folder)
    assert video.key == "a.png"
    assert video.frames.size == (HEIGHT, WIDTH)


def test_files_side_by_side(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((HEIGHT, WIDTH), np.uint8))
    (tmp_path / "a.xml").write_text(annotation(item(), filename="a.jpg"))
    assert len(read_voc(tmp_path)[0].labels[0]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            item(corners=(3, 4, 3, 9)),
            "object 2 (nerve): box is empty (xmin 3, xmax 3, ymin 4, ymax 9)",
        ),
        (item(corners=(3, 4, 7, 14)), "sticks 3 px out of the 17 x 11 picture"),
        (item(corners=(3, "four", 7, 9)), "object 2 (nerve): ymin 'four' is not a finite number"),
        (item(corners=(3, "nan", 7, 9)), "object 2 (nerve): ymin 'nan' is not a finite number"),
        (item(name=""), "object 2 (no name): has no name"),
        ("<object><name>nerve</name></object>", "object 2 (nerve): has no bndbox"),
        ("<object><name>nerve</name><bndbox/></object>", "xmin None is not a finite number"),
    ],
)
def test_a_bad_label_is_named_or_skipped(folder: Path, text: str, message: str) -> None:
    file = write(folder, annotation(item(), text))
    with pytest.raises(InputError) as caught:
        read_voc(folder)
    assert str(caught.value).startswith(f"{file}: object 2 (")
    assert message in str(caught.value)
    assert "(1 of 2 labels are bad)" in str(caught.value)
    assert read_voc(folder, on_bad_label="skip")[0].labels == {}


def test_faults_of_files_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"holds no Annotations/\*\.xml"):
        read_voc(folder)
    file = write(folder, annotation(filename="c.png"), "c.xml")
    with pytest.raises(InputError, match=r"c\.xml: its picture \(c\.png\) is not in .*JPEGImages"):
        read_voc(folder)
    file.unlink()
    write(folder, annotation())
    write(folder, annotation(), "b2.xml")
    with pytest.raises(InputError, match=r"b2\.xml: labels .*a\.png, as .*a\.xml does"):
        read_voc(folder)
    write(folder, "<html/>", "b2.xml")
    with pytest.raises(InputError, match=r"b2\.xml: is a <'html'>, but <annotation> was expected"):
        read_voc(folder)
    write(folder, annotation()[:40], "b2.xml")
    with pytest.raises(InputError, match=r"b2\.xml: not valid XML .*truncated"):
        read_voc(folder)
