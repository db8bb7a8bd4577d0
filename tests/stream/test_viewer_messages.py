import json
import struct

import cv2
import numpy as np
import pytest
from live_parts import CLASSES
from viewing import result

from sonodetr.stream.viewer_messages import (
    Attended,
    Command,
    Malformed,
    detection_rows,
    frame_message,
    jpeg,
    parse_command,
    shaft_angles_deg,
    unpack,
)
from sonodetr.types import Detections, Frame, Region, Spacing

SPACING = Spacing(y_mm=0.2, x_mm=0.1)
REGION = Region(20, 10, 70, 50)


def test_the_message_of_a_frame():
    message = frame_message(result(7), {"model": "nano"}, show_outside=False)
    (length,) = struct.unpack("<I", message[:4])
    header = json.loads(message[4 : 4 + length])
    assert header == {
        "frame": 7,
        "time_s": 0.7,
        "width": 83,
        "height": 61,
        "view_px": [0, 0, 83, 61],
        "classes": ["needle", "nerve"],
        "latency_ms": pytest.approx(2, abs=0.01),
        "model": "nano",
        "detections": [
            {
                "class": "needle",
                "score": 0.9,
                "box_xyxy_px": [10, 20, 30, 50],
                "points_px": [[10, 50], [30, 20]],
                "track_id": 3,
                "angle_deg": 56.3,  # atan2(30, 20)
            },
            {"class": "nerve", "score": 0.4, "box_xyxy_px": [40, 5, 60, 25], "track_id": -1},
        ],
    }
    picture = cv2.imdecode(np.frombuffer(message[4 + length :], np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (61, 83)
    np.testing.assert_allclose(picture, 47, atol=1)


def test_the_message_of_attention():
    weights = np.float32([[0.1, 0.2, 0.0], [0.4, 0.05, 0.1]])
    attended = Attended(weights, (-5.0, 0.0, 88.0, 61.0), (31.5, 7.0))
    message = frame_message(result(), {}, show_outside=False, attended=attended)
    assert unpack(message)[0]["attended"] == {
        "levels": [[64, 128, 0], [255, 32, 64]],
        "box_xyxy_px": [-5, 0, 88, 61],
        "point_px": [31.5, 7],
    }
    nothing = attended._replace(weights=np.zeros((2, 3), np.float32))
    message = frame_message(result(), {}, show_outside=False, attended=nothing)
    assert unpack(message)[0]["attended"]["levels"] == [[0, 0, 0], [0, 0, 0]]


def test_what_lies_outside_the_region_is_black():
    pixels = np.full((61, 83, 3), (200, 100, 30), np.uint8)
    frame = Frame(pixels, region_px=REGION)
    shown = cv2.imdecode(np.frombuffer(jpeg(frame, show_outside=False), np.uint8), -1)[..., ::-1]
    inside = shown[18:42, 28:62]  # but for the blocks at the edges
    np.testing.assert_allclose(inside, np.broadcast_to((200, 100, 30), inside.shape), atol=4)
    outside = np.ones((61, 83), bool)
    outside[:, 16:80] = False  # all blocks of 16 x 16 that the region touches
    assert shown[outside].max() <= 4
    header, _ = unpack(frame_message(result(region_px=REGION), {}, show_outside=False))
    assert header["view_px"] == [20, 10, 70, 50]
    whole = cv2.imdecode(np.frombuffer(jpeg(frame, show_outside=True), np.uint8), -1)[..., ::-1]
    np.testing.assert_allclose(whole, pixels, atol=4)
    header, _ = unpack(frame_message(result(region_px=REGION), {}, show_outside=True))
    assert header["view_px"] == [0, 0, 83, 61]


def test_what_is_not_finite_is_left_out():
    boxes = np.float32([[0, 0, 1, 1], [0, 0, np.nan, 1], [0, 0, 2, 2]])
    points = np.float32([[[1, 1], [np.nan, 1]], [[1, 1], [2, 2]], [[4, 4], [4, 4]]])
    scores, classes = np.float32([0.9, 0.8, 0.7]), np.int64([0, 0, 1])
    rows = detection_rows(Detections(boxes, scores, classes, CLASSES, points))
    assert [row["class"] for row in rows] == ["needle", "nerve"]
    assert "points_px" not in rows[0]
    assert rows[1]["points_px"] == [[4, 4], [4, 4]]  # of no length, so of no angle
    assert not any("angle_deg" in row for row in rows)
    assert detection_rows(Detections(boxes[:1], scores[:1], classes[:1], CLASSES)) == [
        {"class": "needle", "score": 0.9, "box_xyxy_px": [0, 0, 1, 1]}
    ]


def test_angles():
    lines = np.float32(
        [[[0, 0], [5, 0]], [[5, 7], [0, 7]], [[3, 0], [3, 9]], [[10, 0], [0, 10]], [[1, 1], [1, 1]]]
    )
    np.testing.assert_allclose(shaft_angles_deg(lines, None), [0, 0, 90, 45, np.nan])
    # Pixels twice as high as wide: 10 across and 10 down are 1 mm across and 2 mm down.
    steep = np.degrees(np.arctan(2))
    np.testing.assert_allclose(shaft_angles_deg(lines, SPACING), [0, 0, 90, steep, np.nan])
    np.testing.assert_allclose(
        shaft_angles_deg(lines, Spacing(0.3, 0.3)), shaft_angles_deg(lines, None)
    )
    assert shaft_angles_deg(np.zeros((0, 2, 2), np.float32), None).shape == (0,)
    assert np.isnan(shaft_angles_deg(np.float32([[[np.nan, 0], [1, 1]]]), None)).all()


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('{"pause": true}', Command("pause")),
        ('{"play": true}', Command("play")),
        ('{"step": -3}', Command("step", -3)),
        ('{"seek": 120}', Command("seek", 120)),
        ('{"attend": [3, 4.5]}', Command("attend", point_px=(3.0, 4.5))),
    ],
)
def test_commands(text, command):
    assert parse_command(text) == command


MALFORMED = [
    "",
    "{",
    "[]",
    "null",
    "{}",
    "[" * 4000,
    '{"pause": 1}',
    '{"pause": false}',
    '{"stop": true}',
    '{"pause": true, "play": true}',
    '{"step": 1.5}',
    '{"step": true}',
    '{"step": 99999999999}',
    '{"seek": "1"}',
    '{"seek": [1]}',
    '{"attend": [1]}',
    '{"attend": [1, null]}',
    '{"attend": [NaN, 1]}',
    '{"attend": [1e999, 1]}',
    '{"attend": [true, 1]}',
    '{"step": ' + "9" * 4000 + "}",
    b'{"pause": true}',
]


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: str(text)[:30])
def test_malformed_commands(text):
    with pytest.raises(Malformed):
        parse_command(text)
