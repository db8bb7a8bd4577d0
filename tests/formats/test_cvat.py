"""CVAT XML 1.1, written here after its documentation: no file of CVAT itself is at hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonodetr.files import InputError
from sonodetr.formats.cvat import Knot, Shape, read_cvat, shapes_by_frame

HEIGHT, WIDTH, FRAMES = 48, 64, 11


def box(
    frame: int | str, left: float = 4, top: float = 3, outside: int = 0, **other: object
) -> str:
    """A box of 10 x 20 pixels, as CVAT writes it."""
    corners = {"xtl": left, "ytl": top, "xbr": left + 10, "ybr": top + 20} | other
    words = " ".join(f'{name}="{value}"' for name, value in corners.items())
    return (
        f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" {words} z_order="0">'
        "\n    </box>"
    )


def track(*shapes: str, label: str = "needle", number: int = 0) -> str:
    return f'<track id="{number}" label="{label}" source="manual">{"".join(shapes)}</track>'


def document(
    *tracks: str, frames: str = "<start_frame>0</start_frame><stop_frame>10</stop_frame>"
) -> str:
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>3</id>
      <name>sweep</name>
      <size>{FRAMES}</size>
      <mode>interpolation</mode>
      <overlap>0</overlap>
      {frames}
      <labels>
        <label><name>vessel</name><color>#33ddff</color><type>any</type></label>
        <label><name>needle</name><color>#fa3253</color><type>any</type></label>
        <label><name>joint</name><type>points</type><parent>needle</parent></label>
      </labels>
      <original_size>
        <width>{WIDTH}</width>
        <height>{HEIGHT}</height>
      </original_size>
      <source>sweep.avi</source>
    </task>
    <dumped>2026-01-01 00:00:00.000000+00:00</dumped>
  </meta>
  {"".join(tracks)}
</annotations>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = cv2.VideoWriter(
        str(tmp_path / "sweep.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT)
    )
    for index in range(FRAMES):
        writer.write(np.full((HEIGHT, WIDTH, 3), 10 * index, np.uint8))
    writer.release()
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "annotations.xml"
    file.write_text(text)
    return file


def test_shapes_move_between_keyframes_and_hold_to_the_end(folder: Path) -> None:
    moving = track(
        box(1, left=4),
        box(5, left=12, top=5),
        box(6, left=12, outside=1),
        box(9, left=20),
    )
    (video,) = read_cvat(write(folder, document(moving, track(box(8), label="vessel", number=7))))
    assert video.classes == ("vessel", "needle")
    assert len(video) == FRAMES
    assert {frame: len(labels) for frame, labels in video.labels.items()} == {
        0: 0, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 0, 7: 0, 8: 1, 9: 2, 10: 2,
    }  # fmt: skip
    assert video.labels[1].boxes_xyxy_px.tolist() == [[4, 3, 14, 23]]
    assert video.labels[2].boxes_xyxy_px.tolist() == [[6, 3.5, 16, 23.5]]
    assert video.labels[5].boxes_xyxy_px.tolist() == [[12, 5, 22, 25]]
    assert video.labels[10].boxes_xyxy_px.tolist() == [[20, 3, 30, 23], [4, 3, 14, 23]]
    assert video.labels[10].classes.tolist() == [1, 0]
    assert video.labels[10].track_ids.tolist() == [0, 7]
    assert video.frame_rate_hz == pytest.approx(10)


def test_every_frame_written_out_reads_like_keyframes_alone(folder: Path) -> None:
    shapes = [box(frame, left=4 + 2 * frame) for frame in range(5)]
    hidden = box(5, left=12, outside=1)
    (full,) = read_cvat(write(folder, document(track(*shapes, hidden))))
    (sparse,) = read_cvat(write(folder, document(track(shapes[0], shapes[4], hidden))))
    assert list(full.labels) == list(sparse.labels) == list(range(FRAMES))
    for frame in full.labels:
        np.testing.assert_array_equal(
            full.labels[frame].boxes_xyxy_px, sparse.labels[frame].boxes_xyxy_px
        )


def test_a_task_without_shapes_is_empty_everywhere(folder: Path) -> None:
    (video,) = read_cvat(write(folder, document()))
    assert [len(video.labels[frame]) for frame in range(FRAMES)] == [0] * FRAMES


@pytest.mark.parametrize("tag", ["points", "polyline"])
def test_two_points_are_a_line_with_its_box(folder: Path, tag: str) -> None:
    shapes = [
        f'<{tag} frame="0" keyframe="1" outside="0" occluded="0" points="10.00,20.00;30.00,8.00">'
        f"</{tag}>",
        f'<{tag} frame="2" outside="0" points="20,20;40,20"/>',
    ]
    (video,) = read_cvat(write(folder, document(track(*shapes))))
    assert video.labels[0].points_px.tolist() == [[[10, 20], [30, 8]]]
    assert video.labels[0].boxes_xyxy_px.tolist() == [[10, 8, 30, 20]]
    assert video.labels[1].points_px.tolist() == [[[15, 20], [35, 14]]]
    assert video.labels[1].boxes_xyxy_px.tolist() == [[15, 14, 35, 20]]
    # A level line has no height; its box is one pixel high.
    assert video.labels[2].boxes_xyxy_px.tolist() == [[20, 19.5, 40, 20.5]]


def test_frames_of_a_task_are_counted_in_the_original(folder: Path) -> None:
    meta = (
        "<start_frame>2</start_frame><stop_frame>8</stop_frame><frame_filter>step=3</frame_filter>"
    )
    file = write(folder, document(track(box(2), box(8, left=10), box(11, outside=1)), frames=meta))
    (video,) = read_cvat(file)
    assert list(video.labels) == [2, 5, 8]
    assert video.labels[5].boxes_xyxy_px.tolist() == [[7, 3, 17, 23]]
    # The task's own frames, as its export has them.
    for number in (2, 5, 8):
        picture = folder / "images" / f"frame_{number:06d}.png"
        picture.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(picture), np.full((HEIGHT, WIDTH), number, np.uint8))
    (video,) = read_cvat(file, images=str(folder / "images"))
    assert list(video.labels) == [0, 1, 2]
    assert video.frames[1][0, 0] == 5
    (folder / "sweep.avi").unlink()
    assert list(read_cvat(file)[0].labels) == [0, 1, 2]


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True),
    st.lists(st.tuples(st.booleans(), st.floats(0, 50)), min_size=6, max_size=6),
    st.integers(1, 4),
)
def test_interpolation_is_linear_while_visible(
    frames: list[int], states: list[tuple[bool, float]], step: int
) -> None:
    frames = sorted(frames)
    numbers = range(frames[0], 37, step)
    knots = [
        Knot(frame, outside, Shape(np.array([left, 0.0, left + 2, 3.0]), False))
        for frame, (outside, left) in zip(frames, states, strict=False)
    ]
    found = list(shapes_by_frame(knots, numbers))
    visible = [
        number
        for number in numbers
        if not states[max(i for i, frame in enumerate(frames) if frame <= number)][0]
    ]
    assert [frame for frame, _ in found] == visible
    lefts = [left for _, left in states[: len(frames)]]
    for frame, shape in found:
        assert shape is not None
        left = np.interp(frame, frames, lefts)
        np.testing.assert_allclose(shape.values, [left, 0, left + 2, 3], atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (box(4, xbr=4), "frame 4: box is empty (0 x 20 px)"),
        (box(4, left=60), "frame 4: box 60, 3, 70, 23 (left, top, right, bottom) sticks 6 px out"),
        (box(4, xtl="x"), "frame 4: xtl 'x' is not a finite number"),
        (box(4, rotation="12.50"), "frame 4: the box is rotated by '12.50' degrees"),
        ('<polygon frame="4" points="1,2;3,4;5,6"/>', "frame 4: polygon is not read; allowed are"),
        ('<points frame="4" points="1,2"/>', "frame 4: points is not read; allowed are box, and"),
        ('<points frame="4" points="1,2;3,y"/>', "frame 4: points 'y' is not a finite number"),
    ],
)
def test_a_bad_shape_leaves_the_frames_about_it_unlabelled(
    folder: Path, shape: str, message: str
) -> None:
    file = write(folder, document(track(box(2), shape, box(7)), track(box(0), number=1)))
    with pytest.raises(InputError) as caught:
        read_cvat(file)
    assert str(caught.value).startswith(f"{file}: track 0: {message}")
    (video,) = read_cvat(file, on_bad_label="skip")
    assert list(video.labels) == [0, 1, 2, 7, 8, 9, 10]
    assert [len(labels) for labels in video.labels.values()] == [1, 1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("tracks", "message"),
    [
        (track(box(11)), "track 0: frame 11 is outside the task's 0 to 10"),
        (track(box("x")), "track 0: frame x is outside the task's 0 to 10"),
        (track(box(3), box(3, left=8)), "track 0: frame 3 is given twice"),
        (track(box(3), label="nerve"), "track 0: frame 3: label 'nerve' is not among the task's"),
    ],
)
def test_a_bad_track_is_named(folder: Path, tracks: str, message: str) -> None:
    file = write(folder, document(tracks))
    with pytest.raises(InputError) as caught:
        read_cvat(file)
    assert message in str(caught.value)
    assert len(read_cvat(file, on_bad_label="skip")) == 1


def test_faults_of_the_file_are_named(folder: Path) -> None:
    for text, message in [
        ("<html/>", "not a CVAT file: no <annotations> with <meta> in it"),
        ("<annotations><meta><project/></meta></annotations>", "export its tasks one by one"),
        (document().replace("sweep.avi", "gone.avi"), "gone.avi not found; name the recording"),
        (document().replace(">64<", ">65<"), "labels a recording of 65 x 48 pixels, but"),
        (document(frames="<stop_frame>20</stop_frame>"), "labels 21 frames, up to frame 20, but"),
        (
            document().replace(">joint<", ">needle<").replace("parent", "x"),
            "'needle' is given twice",
        ),
        (
            document(frames="").replace(f"<size>{FRAMES}</size>", ""),
            "<meta> has neither stop_frame nor size",
        ),
    ]:
        with pytest.raises(InputError) as caught:
            read_cvat(write(folder, text))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


# CVAT for images


def image(number: int, name: str, *shapes: str) -> str:
    return (
        f'<image id="{number}" name="{name}" width="{WIDTH}" height="{HEIGHT}">'
        f"{''.join(shapes)}</image>"
    )


LABELLED_BOX = (
    '<box label="{}" source="manual" occluded="0" '
    'xtl="4.00" ytl="3.00" xbr="14.00" ybr="23.00" z_order="0"></box>'
)


def test_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((HEIGHT, WIDTH), np.uint8))
    line = '<points label="vessel" points="10,20;30,8"></points>'
    shapes = (LABELLED_BOX.format("needle"), line, '<tag label="vessel"></tag>')
    first, second = read_cvat(
        write(tmp_path, document(image(0, "a.png", *shapes), image(1, "b.png")))
    )
    assert (first.key, second.key) == ("a.png", "b.png")
    assert first.labels[0].boxes_xyxy_px.tolist() == [[4, 3, 14, 23], [10, 8, 30, 20]]
    assert first.labels[0].classes.tolist() == [1, 0]
    assert len(second.labels[0]) == 0
    file = write(tmp_path, document(image(0, "a.png", line, LABELLED_BOX.format("nerve"))))
    with pytest.raises(InputError, match=r"image 'a\.png': shape 2: label 'nerve' is not among"):
        read_cvat(file)
    assert read_cvat(file, on_bad_label="skip")[0].labels == {}
    with pytest.raises(InputError, match=r"'c\.png' is not in .* \(1 of 1 are missing\)"):
        read_cvat(write(tmp_path, document(image(0, "c.png"))))
    with pytest.raises(InputError, match=r"image 'a\.png' is given twice"):
        read_cvat(write(tmp_path, document(image(0, "a.png"), image(1, "a.png"))))
