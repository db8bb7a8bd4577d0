"""What `read` and `open_source` take a path for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sonodetr import formats
from sonodetr.files import InputError
from sonodetr.formats import open_source, read

METAIMAGE = (
    b"ObjectType = Image\nNDims = 2\nDimSize = 3 2\nElementType = MET_UCHAR\n"
    b"ElementDataFile = LOCAL\nabcdef"
)


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.zeros((11, 17), np.uint8))


def kind(path: Path) -> str:
    return formats._kind(path)


def test_files_are_known_by_their_ending_or_mark(tmp_path: Path) -> None:
    for name, expected in {
        "a.PNG": "images",
        "a.Mp4": "video",
        "a.mpeg": "video",
        "a.dcm": "dicom",
        "a.mha": "metaimage",
        "a.json": "coco",
        "a.xml": "cvat",
    }.items():
        (tmp_path / name).write_bytes(b"x")
        assert kind(tmp_path / name) == expected
    for name in ("IM0001", "1.2.840.10008"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
        assert kind(tmp_path / name) == "dicom"


def test_folders_are_known_by_what_they_hold(tmp_path: Path) -> None:
    for folder, names, expected in [
        ("a", ["data.yaml"], "yolo"),
        ("b", ["images/a.png", "labels/a.txt"], "yolo"),
        ("c", ["Annotations/a.xml", "JPEGImages/a.jpg"], "voc"),
        ("d", ["coco.json", ".old.json", "images/a.png"], "coco"),
        ("e", ["x/a.png", "README.md"], "images"),
        ("f", ["a.mp4"], "video"),
        ("g", ["a.igs.mha"], "metaimage"),
        ("h", ["train/a.json", "validation/a.json", "test/a.json", "test/a.png"], "parts"),
        ("i", ["train/a.png", "validation/a.png", "test/a.json"], "images"),
    ]:
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(b"x")
        assert kind(tmp_path / folder) == expected, folder


def test_a_folder_of_images_is_stills_to_read_and_a_recording_to_open(tmp_path: Path) -> None:
    for index in range(3):
        picture(tmp_path / f"{index}.png")
    assert [len(video) for video in read(tmp_path)] == [1, 1, 1]
    assert len(open_source(tmp_path)) == 3
    assert len(open_source(str(tmp_path / "1.png"))) == 1


def test_metaimage(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(METAIMAGE)
    stored = np.frombuffer(b"abcdef", np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(open_source(tmp_path / "a.mha").frames[0], stored)
    assert open_source(tmp_path).key == "a.mha"
    (tmp_path / "b.mha").write_bytes(METAIMAGE)
    with pytest.raises(InputError, match=r"holds 2 recordings \(a\.mha, b\.mha"):
        open_source(tmp_path)
    assert len(read(tmp_path)) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "holds no picture, recording or labels; allowed: .png"),
        (["README.md"], "holds no picture"),
        (["a.png", "b.mha"], r"several kinds of recordings \(images, metaimage\)"),
        (["a.json", "b.json"], "several label files; name one of: a.json, b.json"),
    ],
)
def test_folders_that_say_too_little_or_too_much(
    tmp_path: Path, names: list[str], said: str
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    for function in (read, open_source):
        with pytest.raises(InputError, match=said):
            function(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.mp4", None, "no such file"),
        ("absent", None, "no such file"),
        ("clip.docx", b"x", r"unknown kind of file '\.docx'; allowed: \.png .* \.mp4 .* \.dcm"),
        ("clip", b"x", "unknown kind of file ''"),
        ("zero.dcm", b"", "0 bytes"),
        ("data.yaml", b"x", "give the folder that holds this file"),
    ],
)
def test_files_of_no_use(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for function in (read, open_source):
        with pytest.raises(InputError, match=said) as caught:
            function(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_labels_are_no_source_and_pictures_take_no_image_folder(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match="labels in COCO format, not one recording"):
        open_source(tmp_path / "a.json")
    picture(tmp_path / "b" / "a.png")
    with pytest.raises(InputError, match="is for COCO and CVAT files"):
        read(tmp_path / "b", images="elsewhere")


def test_finding_out_imports_nothing_heavy() -> None:
    program = (
        "import sys, sonodetr.formats; "
        "print([m for m in ('torch', 'av', 'pydicom', 'cv2', 'PIL') if m in sys.modules])"
    )
    done: Any = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_dicom_without_its_packages_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.delitem(sys.modules, "sonodetr.formats.dicom", raising=False)
    with pytest.raises(InputError, match=r"pip install 'sonodetr\[dicom\]'"):
        read(tmp_path / "a.dcm")


def part(folder: Path, name: str, category: str = "nerve") -> None:
    """A COCO file of one picture; its key names the part already in `validation` only."""
    file_name = "validation/a.png" if name == "validation" else "a.png"
    picture(folder / name / file_name)
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": file_name}],
        "annotations": [],
        "categories": [{"id": 1, "name": category}],
    }
    (folder / name / "coco.json").write_text(json.dumps(content))


def test_parts_in_folders_of_their_own(tmp_path: Path) -> None:
    for name in ("test", "train", "validation", "shifted"):
        part(tmp_path, name)
    assert [video.key for video in read(tmp_path)] == [
        "train/a.png",
        "validation/a.png",
        "test/a.png",
    ]
    assert [video.key for video in read(tmp_path / "shifted")] == ["a.png"]
    with pytest.raises(InputError, match="not one recording"):
        open_source(tmp_path)
    part(tmp_path, "test", "vessel")
    with pytest.raises(InputError, match="the parts have different categories"):
        read(tmp_path)
