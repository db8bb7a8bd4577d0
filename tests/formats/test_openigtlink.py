"""OpenIGTLink messages against pyigtl's where it is right, and against bytes made by hand."""

import struct
from contextlib import suppress

import numpy as np
import pyigtl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sonodetr.formats.openigtlink import (
    MAX_BODY_BYTES,
    Image,
    MessageError,
    Pictures,
    Point,
    UnsupportedImage,
    flat_matrix,
    image_content,
    outline_content,
    pack,
    point_content,
    points_ras_mm,
    read_content,
    read_header,
    read_image,
    spacing_of,
    status_content,
    string_content,
)
from sonodetr.types import Spacing

# A plane turned in space: columns go up, rows to the right; a different prime everywhere.
TURNED = np.array([[0, 0.5, 0, 3], [0, 0, 1, 5], [0.25, 0, 0, 7], [0, 0, 0, 1.0]])
TIME_S = 1234.75  # as a binary fraction, which pyigtl writes exactly


def read(message: bytes) -> Image:
    header = read_header(message[:58])
    return read_image(read_content(header, message[58:]))


def by_hand(
    *,
    size: tuple[int, int, int] = (7, 5, 1),
    part: tuple[int, ...] = (0, 0, 0, 7, 5, 1),
    scalar: int = 3,
    channels: int = 1,
    endian: int = 2,
    system: int = 1,
    matrix: tuple[float, ...] = (0.5, 0, 0, 0, 0.25, 0, 0, 0, 1, 0, 0, 0),
    data: bytes = bytes(35),
) -> bytes:
    """Content of an IMAGE in the order of the protocol's document."""
    return b"".join(
        [
            struct.pack(">HBBBB", 1, channels, scalar, endian, system),
            struct.pack(">3H", *size),
            struct.pack(">12f", *matrix),
            struct.pack(">6H", *part),
            data,
        ]
    )


@pytest.mark.parametrize("kind", ["u1", "i1", "<u2", "<i2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_of_pyigtl_is_read(kind: str, channels: int) -> None:
    shape = (1, 5, 7) if channels == 1 else (1, 5, 7, 3)
    values = (np.arange(np.prod(shape)).reshape(shape) - 17).astype(kind)
    message = pyigtl.ImageMessage(
        values, ijk_to_world_matrix=TURNED, world_coordinate_system="ras", timestamp=TIME_S
    )
    image = read(message.pack())
    assert np.array_equal(image.values, values[0])
    assert (image.size, image.offset) == ((5, 7), (0, 0))
    assert np.allclose(image.ijk_to_ras_mm, TURNED, atol=1e-6)
    assert spacing_of(image.ijk_to_ras_mm) == Spacing(y_mm=0.5, x_mm=0.25)


@pytest.mark.parametrize(
    ("kind", "scalar", "endian"), [(">u2", 5, 1), (">i2", 4, 1), ("<i2", 4, 2)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_order_of_bytes(kind: str, scalar: int, endian: int, channels: int) -> None:
    """By hand: pyigtl has an IndexError for big endian."""
    shape = (5, 7) if channels == 1 else (5, 7, 3)
    values = (1000 * np.arange(np.prod(shape)).reshape(shape) // 11).astype(kind)
    content = by_hand(scalar=scalar, endian=endian, channels=channels, data=values.tobytes())
    assert np.array_equal(read_image(content).values, values)


def test_lps_is_turned_into_ras() -> None:
    message = pyigtl.ImageMessage(
        np.zeros((1, 5, 7), np.uint8), ijk_to_world_matrix=TURNED, world_coordinate_system="lps"
    )
    turned = read(message.pack()).ijk_to_ras_mm
    assert np.allclose(turned, np.diag([-1, -1, 1, 1]) @ TURNED, atol=1e-6)


@pytest.mark.parametrize("version", [2, 3])
def test_extended_header_and_metadata_are_left_out(version: int) -> None:
    message = pyigtl.ImageMessage(np.full((1, 5, 7), 11, np.uint8))
    message.header_version = version
    message.metadata = {"Patient": "Doe^Jane", "depth": "41 mm"}
    message.message_id = 13
    packed = message.pack()
    assert len(packed) == 58 + 12 + 72 + 35 + (2 + 2 * 8) + len("PatientDoe^Janedepth41 mm")
    assert (read(packed).values == 11).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_image_is_written_as_pyigtl_writes_it(channels: int) -> None:
    pixels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    picture = pixels if channels == 1 else np.stack([pixels, pixels + 50, pixels + 100], -1)
    theirs = pyigtl.ImageMessage(
        picture[None],
        ijk_to_world_matrix=TURNED,
        world_coordinate_system="ras",
        timestamp=TIME_S,
        device_name="Image",
    )
    ours = pack("IMAGE", "Image", *image_content(picture, TURNED), time_s=TIME_S)
    assert ours == theirs.pack()
    assert np.allclose(read(ours).ijk_to_ras_mm, TURNED)


def test_a_picture_that_is_not_contiguous_is_written_in_order() -> None:
    picture = np.arange(70, dtype=np.uint8).reshape(5, 14)[:, ::2]
    assert np.array_equal(read(pack("IMAGE", "", *image_content(picture, TURNED))).values, picture)


def test_string_and_points_are_written_as_pyigtl_writes_them() -> None:
    theirs = pyigtl.StringMessage('{"a": 1}', timestamp=TIME_S, device_name="Text")
    assert pack("STRING", "Text", string_content('{"a": 1}'), time_s=TIME_S) == theirs.pack()
    points = pyigtl.PointMessage(
        positions=[[2, 3, 5], [7, 11, 13]],
        names=["needle tip", "needle entry"],
        groups=["tip", "entry"],
        rgba_colors=[[1, 2, 3, 4], [5, 6, 7, 8]],
        owners=["Image", "Image"],
        timestamp=TIME_S,
        device_name="Points",
    )
    content = point_content(
        [
            Point("needle tip", "tip", (1, 2, 3, 4), (2.0, 3.0, 5.0), "Image"),
            Point("needle entry", "entry", (5, 6, 7, 8), (7.0, 11.0, 13.0), "Image"),
        ]
    )
    assert pack("POINT", "Points", content, time_s=TIME_S) == points.pack()


def test_what_pyigtl_cannot_write() -> None:
    # It meets an exception for texts beyond ASCII, cuts characters in half, has no STATUS.
    assert string_content("Gefäß") == b"\x00\x6a\x00\x07Gef\xc3\xa4\xc3\x9f"
    name = point_content([Point("ä" * 40, "", (0, 0, 0, 0), (0.0, 0.0, 0.0), "")])[:64]
    assert name == "ä".encode() * 31 + b"\0\0"
    assert status_content() == b"\0\1" + bytes(8) + b"OK" + bytes(18) + b"\0"
    assert point_content([]) == b""
    with pytest.raises(ValueError, match="65536 bytes; 65535 are allowed"):
        string_content("a" * 65536)


def test_empty_points_with_metadata_are_read_by_pyigtl() -> None:
    packed = pack("POINT", "P", point_content([]), time_s=TIME_S, metadata={"points": "none"})
    message = pyigtl.PointMessage()
    message.unpack(pyigtl.MessageBase.parse_header(packed[:58]), packed[58:])
    assert message.positions == []
    assert message.metadata == {"points": "none"}
    header = read_header(packed[:58])
    assert (header.version, bytes(read_content(header, packed[58:]))) == (2, b"")


def test_outlines_by_hand() -> None:
    """Sizes of cells are in bytes, all numbers big endian; each line returns to its start."""
    outlines = np.arange(24, dtype=np.float64).reshape(2, 4, 3)
    content = outline_content(outlines)
    assert struct.unpack(">10I", content[:40]) == (8, 0, 0, 2, 48, 0, 0, 0, 0, 0)
    assert struct.unpack(">24f", content[40:136]) == tuple(range(24))
    assert struct.unpack(">12I", content[136:]) == (5, 0, 1, 2, 3, 0, 5, 4, 5, 6, 7, 4)
    # pyigtl gets the same from the same points and cells.
    lines = np.array([5, 0, 1, 2, 3, 0, 5, 4, 5, 6, 7, 4])
    theirs = pyigtl.PolyDataMessage(points=outlines.reshape(8, 3), lines=lines, timestamp=TIME_S)
    assert pack("POLYDATA", "", content, time_s=TIME_S) == theirs.pack()
    assert outline_content(np.zeros((0, 4, 3))) == bytes(40)


def test_part_of_a_picture() -> None:
    pictures = Pictures()
    part = read_image(by_hand(part=(3, 1, 0, 2, 3, 1), data=bytes([10, 11, 12, 13, 14, 15])))
    assert (part.values.tolist(), part.offset) == ([[10, 11], [12, 13], [14, 15]], (1, 3))
    assert pictures.take(part) is None  # there is no whole picture yet
    first = pictures.take(read_image(by_hand(data=bytes([200] * 35))))
    second = pictures.take(part)
    assert first is not None
    assert second is not None
    assert (first == 200).all()  # what was given out does not change
    expected = np.full((5, 7), 200)
    expected[1:4, 3:5] = [[10, 11], [12, 13], [14, 15]]
    assert np.array_equal(second, expected)
    # A part of a picture of another size or kind waits for the whole of that.
    other = by_hand(size=(11, 5, 1), part=(3, 1, 0, 2, 3, 1), data=bytes(6))
    assert pictures.take(read_image(other)) is None
    wide = by_hand(scalar=5, part=(3, 1, 0, 2, 3, 1), data=bytes(12))
    assert pictures.take(read_image(wide)) is None


@pytest.mark.parametrize(
    ("kind", "values", "grey"),
    [
        ("u1", [0, 1, 128, 255], [0, 1, 128, 255]),
        ("i1", [-128, -1, 0, 127], [0, 127, 128, 255]),
        ("<u2", [0, 1, 128, 255], [0, 1, 128, 255]),
        (">u2", [0, 16, 2048, 4095], [0, 1, 128, 255]),
        (">i2", [-7, 16, 2048, 4095], [0, 1, 128, 255]),
        ("<i2", [-32768, -1, 0, 0], [0, 0, 0, 0]),
        ("<u2", [0, 256, 32768, 65535], [0, 1, 128, 255]),
    ],
)
def test_grey_values(kind: str, values: list[int], grey: list[int]) -> None:
    image = Image(np.array([values], kind), (1, 4), (0, 0), None)
    pixels = Pictures().take(image)
    assert pixels is not None
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [grey]


def test_sixteen_bit_window_only_grows() -> None:
    pictures = Pictures()

    def brightest(value: int) -> int:
        image = Image(np.array([[value, 0]], "<u2"), (1, 2), (0, 0), None)
        return int(pictures.take(image)[0, 0])  # type: ignore[index]

    assert [brightest(value) for value in (100, 1000, 100, 3000, 1000, 100)] == [
        *(100, 250, 25, 187, 62, 6)
    ]


def test_where_the_picture_lies_if_it_is_told_in_part() -> None:
    flat = by_hand(matrix=(0.5, 0, 0, 0, 0.25, 0, 0, 0, 0, 3, 1, 7))  # no thickness
    matrix = read_image(flat).ijk_to_ras_mm
    assert matrix is not None
    assert matrix.tolist() == [
        *([0.5, 0, 0, 3 - 3 * 0.5], [0, 0.25, 0, 1 - 2 * 0.25], [0, 0, 1, 7], [0, 0, 0, 1])
    ]
    for nowhere in ((0,) * 12, (0.5, 0, 0, 0.5, 0, 0) + (0,) * 6, (float("nan"),) * 12):
        unknown = read_image(by_hand(matrix=nowhere)).ijk_to_ras_mm
        assert unknown is None
        assert spacing_of(unknown) is None
    # 1 by 1 mm is what senders write that do not know; no ultrasound pixel is so large.
    assert (
        spacing_of(read_image(by_hand(matrix=(1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0))).ijk_to_ras_mm)
        is None
    )


def test_pixels_to_mm() -> None:
    # The outer corner of the first pixel lies half a pixel before its centre, the origin.
    corners = np.array([[0, 0], [0.5, 0.5], [7, 5]], np.float32)
    assert points_ras_mm(corners, TURNED).tolist() == [
        *([2.75, 5, 6.875], [3, 5, 7], [3 + 0.5 * 4.5, 5, 7 + 0.25 * 6.5])
    ]
    flat = points_ras_mm(corners, flat_matrix(None))
    assert flat.tolist() == [[0.5, 0.5, 0], [0, 0, 0], [-6.5, -4.5, 0]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": (7, 5, 31), "part": (0, 0, 0, 7, 5, 31)}, "an IMAGE of 31 slices; .* one slice"),
        ({"scalar": 10}, "scalar type 10; 8 and 16 bit"),
        ({"scalar": 0}, "scalar type 0"),
        ({"channels": 4}, "4 components; 1 .* or 3"),
        ({"channels": 0}, "0 components"),
    ],
)
def test_pictures_that_are_not_read(changes: dict, words: str) -> None:
    with pytest.raises(UnsupportedImage, match=words):
        read_image(by_hand(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (0, 5, 1), "part": (0, 0, 0, 0, 5, 1), "data": b""},
        {"size": (7, 5, 0)},
        {"part": (0, 0, 0, 7, 5, 0)},
        {"part": (0, 0, 1, 7, 5, 1)},
        {"part": (1, 0, 0, 7, 5, 1)},
        {"part": (0, 1, 0, 7, 5, 1)},
        {"part": (65535, 65535, 0, 7, 5, 1)},
        {"size": (65535, 65535, 1), "part": (0, 0, 0, 65535, 65535, 1)},
        {"data": bytes(34)},
        {"data": bytes(36)},
        {"scalar": 5},
        {"channels": 3},
    ],
)
def test_contradicting_sizes(changes: dict) -> None:
    with pytest.raises(MessageError) as caught:
        read_image(by_hand(**changes))
    assert "\n" not in str(caught.value)


def test_headers_that_are_not_read() -> None:
    good = pack("IMAGE", "Doe^Jane", *image_content(np.zeros((5, 7), np.uint8), TURNED))
    header = read_header(good[:58])
    assert (header.kind, header.body_bytes) == ("IMAGE", 72 + 35)
    large = good[:42] + struct.pack(">Q", MAX_BODY_BYTES + 1) + good[50:58]
    with pytest.raises(MessageError, match="67108865 bytes; 67108864 are allowed"):
        read_header(large)
    with pytest.raises(MessageError, match="not OpenIGTLink"):
        read_header(b"GET / HTTP/1.1\r\nHost: localhost:18944\r\nUser-Agent: browsers"[:58])
    with pytest.raises(MessageError, match="57 bytes"):
        read_header(good[:57])
    for place in (58, 58 + 72, len(good) - 1):  # one bit anywhere
        broken = bytearray(good)
        broken[place] ^= 1
        with pytest.raises(MessageError, match="wrong checksum"):
            read_content(header, bytes(broken[58:]))


@pytest.mark.parametrize("sizes", [(11, 0, 0), (12, 5, 0), (12, 0, 2**32 - 1), (65535, 0, 0)])
def test_extended_headers_that_lie(sizes: tuple[int, int, int]) -> None:
    body = struct.pack(">HHII", *sizes, 0) + b"abcd"
    packed = pack("IMAGE", "", body)
    header = read_header(packed[:58])._replace(version=2)
    with pytest.raises(MessageError, match="shorter"):
        read_content(header, body)
    with pytest.raises(MessageError, match="shorter"):
        read_content(read_header(pack("IMAGE", "", b"abc")[:58])._replace(version=2), b"abc")


@given(st.binary(max_size=200))
@example(b"")
@example(by_hand())
def test_any_bytes_as_header_and_body(data: bytes) -> None:
    for read_it in (
        lambda: read_header(data[:58]),
        lambda: read_image(data),
        lambda: read(pack("IMAGE", "", data)),
        lambda: read_content(read_header(pack("IMAGE", "", data)[:58])._replace(version=2), data),
    ):
        with suppress(MessageError):
            read_it()


@given(
    st.tuples(*[st.integers(0, 3)] * 3),
    st.tuples(*[st.integers(0, 3)] * 6),
    st.sampled_from([2, 3, 4, 5, 6]),
    st.integers(1, 4),
    st.integers(0, 3),
    st.lists(st.floats(width=32), min_size=12, max_size=12),
    st.binary(max_size=20),
)
def test_any_sizes_in_an_image(
    size: tuple, part: tuple, scalar: int, channels: int, endian: int, matrix: list, data: bytes
) -> None:
    content = by_hand(
        **{"size": size, "part": part, "scalar": scalar, "channels": channels},
        **{"endian": endian, "system": endian, "matrix": tuple(matrix), "data": data},
    )
    pictures = Pictures()
    try:
        image = read_image(content)
    except MessageError:
        return
    spacing = spacing_of(image.ijk_to_ras_mm)
    assert spacing is None or min(spacing) >= 0
    pixels = pictures.take(image)
    if pixels is not None:
        assert pixels.shape[:2] == image.size
        assert pixels.dtype == np.uint8
