"""COCO and COCO-video: values of real and of hand-written files, and one line for every fault."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from sonodetr.files import InputError
from sonodetr.formats.coco import read_coco
from sonodetr.types import Region, Spacing, Video

DataFolder = Callable[[str], Path]
HEIGHT, WIDTH = 11, 17


def class_counts(videos: list[Video]) -> Counter[str]:
    return Counter(
        video.classes[index]
        for video in videos
        for labels in video.labels.values()
        for index in labels.classes
    )


# Real files


def test_nerves_and_vessels(data_folder: DataFolder) -> None:
    videos = read_coco(data_folder("usgra-seg") / "dataset" / "coco.json")
    assert len(videos) == 204
    assert class_counts(videos) == {"nerve": 275, "vessel": 236}
    assert videos[0].key == "0000.png"
    assert videos[0].frames.size == (512, 512)
    assert videos[0].labels[0].boxes_xyxy_px[0].tolist() == [270, 176, 363, 224]
    assert all(video.frames[0].shape[:2] == video.frames.size for video in videos[::41])


def test_boxes_are_those_of_pycocotools(data_folder: DataFolder) -> None:
    file = data_folder("usgra-seg") / "dataset" / "coco.json"
    reference = COCO(str(file))
    videos = {video.key: video for video in read_coco(file)}
    names = {
        category["id"]: category["name"] for category in reference.loadCats(reference.getCatIds())
    }
    for image in reference.loadImgs(reference.getImgIds()):
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=image["id"]))
        video = videos[image["file_name"]]
        labels = video.labels[0]
        expected = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        np.testing.assert_array_equal(labels.boxes_xyxy_px, expected)
        assert [video.classes[c] for c in labels.classes] == [
            names[a["category_id"]] for a in annotations
        ]


def test_glove_frames_are_labelled_empty_or_unlabelled(data_folder: DataFolder) -> None:
    (video,) = read_coco(data_folder("snappysonic-glove2") / "glove2_coco_vid.json")
    assert video.key == "glove2"
    assert len(video) == 342
    assert len(video.labels) == 244
    assert sum(len(labels) == 0 for labels in video.labels.values()) == 50
    assert sum(map(len, video.labels.values())) == 549
    assert 12 not in video.labels
    assert video.frame_rate_hz == pytest.approx(30)
    np.testing.assert_allclose(
        video.labels[13].boxes_xyxy_px[0], [170.1, 60.7, 417.8, 304.1], atol=1e-4
    )
    assert video.labels[13].track_ids[0] == 1


def test_wires_carry_one_point_each(data_folder: DataFolder) -> None:
    (video,) = read_coco(data_folder("plus") / "vlcus_wires_coco_vid.json")
    assert len(video) == 201
    assert len(video.labels) == 196
    assert sum(map(len, video.labels.values())) == 1176
    labels = video.labels[0]
    np.testing.assert_allclose(labels.points_px[0, 0], [356.7, 235.09], atol=1e-4)
    assert np.isnan(labels.points_px[:, 1]).all()
    assert labels.boxes_xyxy_px[0].tolist() == [348, 231, 367, 242]
    low, high = labels.boxes_xyxy_px[:, :2], labels.boxes_xyxy_px[:, 2:]
    assert ((low <= labels.points_px[:, 0]) & (labels.points_px[:, 0] <= high)).all()


def test_water_tank_line(data_folder: DataFolder) -> None:
    (video,) = read_coco(data_folder("plus") / "watertank_line_coco_vid.json")
    assert video.frames.size == (616, 820)
    assert class_counts([video]) == {"plane_line": 199}
    assert len(video.labels) == 201


# Hand-written files


def write_picture(file: Path, value: int = 0, height: int = HEIGHT, width: int = WIDTH) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((height, width), value, np.uint8))


def image(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT, **fields}


def box(number: int, image_id: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": 7, "bbox": [2, 3, 5, 7], **fields}


def stills() -> dict[str, Any]:
    """Two pictures; the second one is empty."""
    return {
        "images": [image(1), image(2)],
        "annotations": [box(31, 1), box(32, 1)],
        "categories": [{"id": 7, "name": "vessel"}, {"id": 3, "name": "nerve"}],
    }


def write(folder: Path, content: Any) -> Path:
    file = folder / "labels.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        write_picture(tmp_path / f"{number}.png", 20 * number)
    return tmp_path


def test_every_field_of_a_still(folder: Path) -> None:
    content = stills()
    content["images"][0] |= {"patient": 5, "spacing_mm": [0.25, 0.5]}
    content["images"][1] |= {"patient_id": "b"}
    content["annotations"][0] |= {"iscrowd": 1, "keypoints": [4, 5, 2, 6.5, 7, 0, 1, 1, 2]}
    content["annotations"][1] |= {"category_id": 3, "track_id": 13, "bbox": [-0.5, 0, 18, 11.5]}
    # What a simulator may say besides is not looked at.
    content["annotations"][0] |= {"tip_contrast_db": None, "shaft_contrast_db": 7.5, "visible": "x"}
    first, second = read_coco(write(folder, content))
    assert first.classes == second.classes == ("nerve", "vessel")
    assert (first.key, first.patient, first.spacing_mm) == ("1.png", "5", Spacing(0.25, 0.5))
    assert (second.key, second.patient, second.spacing_mm) == ("2.png", "b", None)
    labels = first.labels[0]
    assert labels.boxes_xyxy_px.tolist() == [[2, 3, 7, 10], [0, 0, 17, 11]]
    assert labels.classes.tolist() == [1, 0]
    assert labels.crowd.tolist() == [True, False]
    assert labels.track_ids.tolist() == [-1, 13]
    np.testing.assert_array_equal(labels.points_px[0], [[4, 5], [np.nan, np.nan]])
    assert len(second.labels[0]) == 0
    assert first.frames[0][0, 0] == 20
    assert first.times_s.tolist() == [0]


def test_the_region_of_a_recording(folder: Path) -> None:
    content = stills()
    content["images"][0]["region_px"] = [2, 0, 17, 11]
    first, second = read_coco(write(folder, content))
    assert first.region_px == Region(2, 0, 17, 11)
    assert second.region_px is None


@pytest.mark.parametrize("region", [[0, 0, 18, 11], [5, 0, 5, 11], [-1, 0, 5, 5], [3, 4, 9, 2]])
def test_a_region_outside_the_picture(folder: Path, region: list[int]) -> None:
    content = stills()
    content["images"][0]["region_px"] = region
    with pytest.raises(
        InputError, match=r"1\.png: region_px .* is no rectangle inside the 17 x 11"
    ):
        read_coco(write(folder, content))


def test_without_a_size_the_picture_is_asked(folder: Path) -> None:
    content = stills()
    del content["images"][0]["width"]
    assert read_coco(write(folder, content))[0].frames.size == (HEIGHT, WIDTH)


def test_a_wrong_size_is_found_when_the_picture_is_read(folder: Path) -> None:
    content = stills()
    content["images"][0]["width"] = 19
    (video, _) = read_coco(write(folder, content))
    with pytest.raises(InputError, match=r"1\.png"):
        video.frames[0]


def test_pictures_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = write(tmp_path_factory.mktemp("elsewhere"), stills())
    assert read_coco(file, images=str(folder))[1].frames[0][0, 0] == 40
    with pytest.raises(InputError, match=r"'1\.png' is not in .*\(2 of 2 are missing\); name"):
        read_coco(file)


def clip() -> dict[str, Any]:
    """Frames 5, 2 and 9 of a recording, listed out of order; 9 is empty."""
    return {
        "videos": [{"id": 4, "name": "sweep", "fps": 10, "width": WIDTH, "height": HEIGHT}],
        "images": [
            image(1, video_id=4, frame_id=5),
            image(2, video_id=4, frame_id=2),
            image(3, video_id=4, frame_id=9),
        ],
        "annotations": [box(31, 1, instance_id=23, track_id=1), box(32, 2, bbox=[1, 1, 2, 3])],
        "categories": [{"id": 7, "name": "needle"}],
    }


def test_frames_that_are_picture_files(folder: Path) -> None:
    (video,) = read_coco(write(folder, clip()))
    assert video.key == "sweep"
    assert [int(video.frames[index][0, 0]) for index in range(3)] == [40, 20, 60]
    assert video.times_s == pytest.approx([0, 0.3, 0.7])
    assert {index: len(labels) for index, labels in video.labels.items()} == {0: 1, 1: 1, 2: 0}
    assert video.labels[0].boxes_xyxy_px.tolist() == [[1, 1, 3, 4]]
    assert video.labels[1].track_ids.tolist() == [23]


def write_video(file: Path, num_frames: int, height: int = 48, width: int = 64) -> None:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (width, height))
    for index in range(num_frames):
        writer.write(np.full((height, width, 3), 10 * index, np.uint8))
    writer.release()


def recording() -> dict[str, Any]:
    """The same frames, but of one file."""
    content = clip()
    content["videos"][0] |= {"file_name": "sweep.avi", "length": 11, "width": 64, "height": 48}
    content["videos"][0] |= {"spacing_mm": [0.1, 0.2], "patient": "a"}
    for entry in content["images"]:
        entry["file_name"] = "frames/" + entry["file_name"]
        del entry["width"], entry["height"]
    return content


def test_frames_of_a_recording(tmp_path: Path) -> None:
    write_video(tmp_path / "sweep.avi", 11)
    (video,) = read_coco(write(tmp_path, recording()))
    assert len(video) == 11
    assert {index: len(labels) for index, labels in video.labels.items()} == {2: 1, 5: 1, 9: 0}
    assert (video.key, video.patient, video.spacing_mm) == ("sweep", "a", Spacing(0.1, 0.2))
    assert video.frame_rate_hz == pytest.approx(10)


def test_picture_files_go_before_a_recording(tmp_path: Path) -> None:
    write_video(tmp_path / "sweep.avi", 11)
    content = recording()
    for number in (1, 2, 3):
        write_picture(tmp_path / "frames" / f"{number}.png", number, 48, 64)
    (video,) = read_coco(write(tmp_path, content))
    assert len(video) == 3


# Faults: what to change in the stills, and what is said


def change(content: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Set `annotations.0.bbox` or the like; None deletes."""
    *path, last = [int(word) if word.isdigit() else word for word in place.split(".")]
    inner: Any = content
    for word in path:
        inner = inner[word]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return content


BAD_LABELS = [
    ("annotations.1.bbox", [2, 3, 5], "annotation 32: bbox [2, 3, 5] is not a list of 4 finite"),
    ("annotations.1.bbox", "2 3 5 7", "annotation 32: bbox '2 3 5 7' is not a list"),
    ("annotations.1.bbox", [2, 3, "5", 7], "annotation 32: bbox [2, 3, '5', 7] is not a list"),
    ("annotations.1.bbox", [2, 3, float("nan"), 7], "annotation 32: bbox [2, 3, nan, 7] is not"),
    ("annotations.1.bbox", [2, 3, float("inf"), 7], "annotation 32: bbox [2, 3, inf, 7] is not"),
    ("annotations.1.bbox", None, "annotation 32: bbox None is not a list of 4"),
    ("annotations.1.bbox", [2, 3, 0, 7], "annotation 32: box is empty (0 x 7 px)"),
    ("annotations.1.bbox", [2, 3, 5, -1], "annotation 32: box is empty (5 x -1 px)"),
    ("annotations.1.bbox", [2, 3, 5, 10], "sticks 2 px out of the 17 x 11 picture"),
    ("annotations.1.bbox", [40, 3, 5, 5], "sticks 28 px out of the 17 x 11 picture"),
    ("annotations.1.category_id", 5, "annotation 32: category_id 5 is not among the categories"),
    ("annotations.1.image_id", 9, "annotation 32: image_id 9 is not among the images"),
    ("annotations.1.keypoints", [1, 2], "annotation 32: keypoints [1, 2] are not x, y, visibility"),
    ("annotations.1.keypoints", [1, "a", 2], "annotation 32: keypoint [1, 'a', 2] is not a list"),
]


@pytest.mark.parametrize(("place", "value", "message"), BAD_LABELS)
def test_a_bad_label_is_named(folder: Path, place: str, value: Any, message: str) -> None:
    file = write(folder, change(stills(), place, value))
    with pytest.raises(InputError) as caught:
        read_coco(file)
    assert str(caught.value).startswith(f"{file}: annotation 32: ")
    assert message in str(caught.value)
    assert "(1 of 2 labels are bad)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("place", "value", "message"), BAD_LABELS)
def test_a_bad_label_can_be_skipped(
    folder: Path, place: str, value: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(folder, change(stills(), place, value))
    with caplog.at_level(logging.WARNING):
        first, second = read_coco(file, on_bad_label="skip")
    # The frame of the bad label is unlabelled; a label of an unknown frame spoils none.
    assert len(first.labels) == (1 if place.endswith("image_id") else 0)
    assert len(second.labels) == 1
    assert [message in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("images", None, ": images is missing"),
        ("images", [], ": lists no images; there is nothing to read"),
        ("images", {"1": {}}, ": images is {'1': {}}, but input should be a valid list"),
        ("images.0", [1], ": images[0] is [1], but input should be a valid dictionary"),
        ("images.0.id", "1", ": images[0].id is '1', but input should be a valid integer"),
        ("images.0.id", 2, ": images: id 2 is given twice"),
        ("images.0.width", 0, ": images[0].width is 0, but input should be greater than 0"),
        ("images.0.file_name", 1, ": images[0].file_name is 1, but input should be a valid string"),
        ("images.0.file_name", "2.png", ": recording '2.png' is given twice"),
        ("images.0.file_name", "a/9.png", ": picture 'a/9.png' is not in "),
        ("images.0.spacing_mm", [0.1], ": images[0].spacing_mm is [0.1], but list should have"),
        ("images.0.spacing_mm", [0.1, -1], ": images[0].spacing_mm[1] is -1, but input should be"),
        ("images.0.video_id", 4, ": image 1: video_id 4 is not among the videos"),
        ("annotations", None, ": annotations is missing"),
        ("annotations.1.id", 31, ": annotations: id 31 is given twice"),
        ("annotations.1.image_id", "a", ": annotations[1].image_id is 'a', but input should be"),
        ("annotations.1.category_id", None, ": annotations[1].category_id is missing"),
        ("annotations.1.iscrowd", 2, ": annotations[1].iscrowd is 2, but input should be 0 or 1"),
        ("annotations.1.track_id", 2**70, ": annotations[1].track_id is 118059"),
        ("categories.0.id", 3, ": categories: id 3 is given twice"),
        ("categories.0.name", "nerve", ": categories: name 'nerve' is given twice"),
        ("categories.0.name", "", ": categories[0].name is '', but string should have at least"),
    ],
)
def test_a_fault_in_the_structure_is_named(
    folder: Path, place: str, value: Any, message: str
) -> None:
    file = write(folder, change(stills(), place, value))
    with pytest.raises(InputError) as caught:
        read_coco(file, on_bad_label="skip")
    assert str(caught.value).startswith(f"{file}{message}")
    assert "\n" not in str(caught.value)


def places(content: Any, path: str = "") -> list[str]:
    """Every place of a document, in the words of `change`."""
    if not isinstance(content, dict | list):
        return [path]
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    inner = [place for key, value in pairs for place in places(value, f"{path}.{key}".lstrip("."))]
    return [path, *inner] if path else inner


@pytest.mark.parametrize("value", [None, [], {}, "x\n\0", "x" * 999, -1, 1.5, 10**400, True, [[]]])
def test_whatever_stands_anywhere_is_read_or_answered_in_one_line(folder: Path, value: Any) -> None:
    write_video(folder / "sweep.avi", 11)
    for content in (stills, recording):
        for place in places(content()):
            file = write(folder, change(content(), place, value))
            message = ""
            try:
                read_coco(file, on_bad_label="skip")
            except InputError as error:
                message = str(error)
            assert "\n" not in message, place


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty (0 bytes)"),
        ("[]", "the file is [], but input should be a valid dictionary"),
        ("null", "the file is None, but"),
        ('{"images": [', "not valid JSON at line 1"),
        ("[" * 100_000, "not a JSON text file"),
        ('{"images": ' + "9" * 5000 + "}", "not a JSON text file"),
    ],
)
def test_a_file_that_is_no_coco_file(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_coco(write(folder, text))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("videos.0.file_name", "away.avi", "video 4: neither the pictures of its images nor its"),
        ("videos.0.file_name", None, "nor a file_name for it found in"),
        ("videos.0.length", 12, "video 4: length is 12, but {file} has 11 frames; name the"),
        ("videos.0.width", 65, "video 4: is listed as 65 x 48, but {file} has 64 x 48"),
        ("videos.0.fps", 0, "videos[0].fps is 0, but input should be greater than 0"),
        (
            "images.1.frame_id",
            11,
            "image 2: frame_id 11 is outside {file}, which has frames 0 to 10",
        ),
        ("images.1.frame_id", -1, "images[1].frame_id is -1, but input should be greater"),
        ("images.1.frame_id", None, "image 2: has a video_id but no frame_id"),
        ("images.1.frame_id", 5, "video 4: frame_id 5 is given twice"),
    ],
)
def test_a_fault_in_a_recording_is_named(
    tmp_path: Path, place: str, value: Any, message: str
) -> None:
    write_video(tmp_path / "sweep.avi", 11)
    with pytest.raises(InputError) as caught:
        read_coco(write(tmp_path, change(recording(), place, value)))
    assert message.format(file=tmp_path / "sweep.avi") in str(caught.value)


def test_pictures_of_one_recording_share_a_size(folder: Path) -> None:
    with pytest.raises(InputError, match=r"video 4: its images differ in size"):
        read_coco(write(folder, change(clip(), "images.2.width", 19)))


def test_a_frame_missing_among_picture_files(folder: Path) -> None:
    with pytest.raises(InputError, match=r"picture 'gone\.png' is not in .*\(1 of 3 are missing\)"):
        read_coco(write(folder, change(clip(), "images.2.file_name", "gone.png")))
