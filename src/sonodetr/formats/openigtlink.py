"""OpenIGTLink messages: bytes to values and back, without sockets.

IMAGE is read as 3D Slicer and PLUS send it (headers of version 1 to 3); IMAGE, POINT, POLYDATA,
STRING and STATUS are written. Whatever bytes are given, nothing but `MessageError` is raised.
Layouts: the protocol documents of version 3 in github.com/openigtlink/OpenIGTLink;
docs/openigtlink.md tells what is understood and why.
"""

import struct
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from fastcrc.crc64 import ecma_182

from sonodetr.shapes import Float32, Float64
from sonodetr.types import Pixels, Spacing

HEADER_BYTES = 58
MAX_BODY_BYTES = 64 << 20
MAX_STRING_BYTES = 0xFFFF

Matrix = Float64[np.ndarray, "4 4"]
Buffer = bytes | bytearray | memoryview

_HEADER = struct.Struct(">H 12s 20s II Q Q")
_EXTENDED = struct.Struct(">HHII")
_IMAGE = struct.Struct(">H BBBB 3H 12f 3H 3H")
_POINT = struct.Struct(">64s 32s 4B 3f f 20s")
_SCALARS = {2: "i1", 3: "u1", 4: "i2", 5: "u2"}
_RAS, _LPS = 1, 2
_LITTLE = 2


class MessageError(ValueError):
    """A message that breaks the protocol; its connection cannot be read any further.

    The text is one line without anything the peer could have put a name into.
    """


class UnsupportedImage(MessageError):
    """A sound IMAGE message of a kind that is not read; sending it again will not help."""


class Header(NamedTuple):
    """What stands before every message.

    Attributes:
        version: of the header: 1, or 2 and 3 with an extended header in the body.
        kind: "IMAGE", "TRANSFORM", ...
        device: name of what sends; may hold a patient's name, so it is compared, never shown.
        body_bytes: at most `MAX_BODY_BYTES`.
        crc: checksum of the body.
    """

    version: int
    kind: str
    device: bytes
    body_bytes: int
    crc: int


def read_header(data: Buffer) -> Header:
    """The header in the first 58 bytes of a message.

    Raises:
        MessageError: not an OpenIGTLink header, or a body of more than 64 MiB.
    """
    if len(data) != HEADER_BYTES:
        raise MessageError(f"a header of {len(data)} bytes; it has {HEADER_BYTES}")
    version, kind, device, _, _, body_bytes, crc = _HEADER.unpack(data)
    kind = kind.rstrip(b"\0 ")
    if not 1 <= version <= 3 or not kind.isascii() or not kind.decode("ascii").isprintable():
        raise MessageError("this is not OpenIGTLink (no header of version 1 to 3)")
    if body_bytes > MAX_BODY_BYTES:
        raise MessageError(f"a message of {body_bytes} bytes; {MAX_BODY_BYTES} are allowed")
    return Header(version, kind.decode("ascii"), device.rstrip(b"\0"), body_bytes, crc)


def read_content(header: Header, body: Buffer) -> memoryview:
    """The content of a body whose checksum is right, without extended header and metadata.

    Raises:
        MessageError: the checksum is wrong, or the parts are longer than the body.
    """
    view = memoryview(body)
    if ecma_182(view) != header.crc:
        raise MessageError("a message with a wrong checksum")
    if header.version == 1:
        return view
    if len(view) < _EXTENDED.size:
        raise MessageError("a message that is shorter than its extended header")
    extended_bytes, index_bytes, metadata_bytes, _ = _EXTENDED.unpack_from(view)
    end = len(view) - index_bytes - metadata_bytes
    if not _EXTENDED.size <= extended_bytes <= end:
        raise MessageError("a message that is shorter than its extended header and metadata")
    return view[extended_bytes:end]


class Image(NamedTuple):
    """An IMAGE message: a picture, or a part of one.

    Attributes:
        values: `[rows, columns]` or `[rows, columns, 3]`, 8 or 16 bit, as they were sent.
        size: rows and columns of the whole picture.
        offset: row and column where `values` begins in it.
        ijk_to_ras_mm: `[4, 4]`, see `Frame.ijk_to_ras_mm`; None where the message tells none.
    """

    values: np.ndarray
    size: tuple[int, int]
    offset: tuple[int, int]
    ijk_to_ras_mm: Matrix | None


def read_image(content: Buffer) -> Image:
    """An IMAGE message's content; `values` shares its memory.

    Raises:
        UnsupportedImage: more than one slice, 2 or more than 3 components, or 32 and 64 bit.
        MessageError: sizes are zero or contradict each other.
    """
    if len(content) < _IMAGE.size:
        raise MessageError(f"an IMAGE of {len(content)} bytes; its header alone has {_IMAGE.size}")
    _, channels, scalar, endian, coordinates, *numbers = _IMAGE.unpack_from(content)
    (width, height, slices), matrix = numbers[:3], numbers[3:15]
    (x, y, slice_index), (across, down, sub_slices) = numbers[15:18], numbers[18:]
    if slices > 1:
        raise UnsupportedImage(
            f"an IMAGE of {slices} slices; only single pictures are read: send one slice"
        )
    if scalar not in _SCALARS:
        raise UnsupportedImage(f"an IMAGE of scalar type {scalar}; 8 and 16 bit integers are read")
    if channels not in (1, 3):
        raise UnsupportedImage(f"an IMAGE of {channels} components; 1 (grey) or 3 (RGB) are read")
    kind = np.dtype(_SCALARS[scalar]).newbyteorder("<" if endian == _LITTLE else ">")
    expected = across * down * channels * kind.itemsize
    if (
        not (across > 0 and down > 0 and slices == sub_slices == 1 and slice_index == 0)
        or len(content) != _IMAGE.size + expected
    ):
        raise MessageError("an IMAGE whose sizes contradict the number of its bytes")
    if x + across > width or y + down > height:
        raise MessageError("an IMAGE part that lies outside its picture")
    shape = (down, across) if channels == 1 else (down, across, 3)
    values = np.frombuffer(content, kind, offset=_IMAGE.size).reshape(shape)
    turned = _ijk_to_ras_mm(matrix, (height, width), coordinates == _LPS)
    return Image(values, (height, width), (y, x), turned)


def _ijk_to_ras_mm(numbers: Sequence[float], size: tuple[int, int], lps: bool) -> Matrix | None:
    """The matrix of an IMAGE message: three axes, whose lengths are the spacing, and the centre."""
    matrix = np.eye(4)
    matrix[:3] = np.array(numbers).reshape(4, 3).T
    if not np.isfinite(matrix).all():
        return None
    if lps:
        matrix[:2] *= -1
    normal = np.cross(matrix[:3, 0], matrix[:3, 1])
    length = float(np.linalg.norm(normal))
    if length == 0.0:
        return None
    if not matrix[:3, 2].any():  # a flat picture need not say how thick it is
        matrix[:3, 2] = normal / length
    height, width = size
    matrix[:3, 3] -= matrix[:3, :2] @ ((width - 1) / 2, (height - 1) / 2)
    return matrix


def spacing_of(ijk_to_ras_mm: Matrix | None) -> Spacing | None:
    """Lengths of the matrix's axes; None for exactly 1 by 1 mm, which says "not calibrated".

    >>> spacing_of(np.diag([0.5, 0.25, 1.0, 1.0]))
    Spacing(y_mm=0.25, x_mm=0.5)
    """
    if ijk_to_ras_mm is None:
        return None
    x_mm, y_mm = np.linalg.norm(ijk_to_ras_mm[:3, :2], axis=0).tolist()
    return None if x_mm == y_mm == 1.0 else Spacing(y_mm, x_mm)


class Pictures:
    """Whole 8 bit pictures from the IMAGE messages of one device on one connection.

    Signed 8 bit values are shifted by 128. Of 16 bit values, the window is 0 to 2^b - 1 with b the
    bits of the greatest value since the connection began, at least 8: it can only grow, and in
    steps of two, so that a picture never flickers with its content; negative values are black.
    """

    def __init__(self) -> None:
        self._whole: np.ndarray | None = None
        self._bits = 8

    def take(self, image: Image) -> Pixels | None:
        """The picture after this message; None for a part of a picture that was never whole."""
        values, whole = image.values, self._whole
        if values.shape[:2] != image.size:
            if whole is None or whole.shape != image.size + values.shape[2:]:
                return None
            if whole.dtype != values.dtype:
                return None
            (y, x), (down, across) = image.offset, values.shape[:2]
            whole = whole.copy()  # the frame before this one is still being looked at
            whole[y : y + down, x : x + across] = values
            values = whole
        self._whole = values
        return self._grey(values)

    def _grey(self, values: np.ndarray) -> Pixels:
        if values.dtype == np.uint8:
            return values
        if values.dtype == np.int8:
            return values.view(np.uint8) ^ 0x80
        self._bits = max(self._bits, max(0, int(values.max())).bit_length())
        return (values.clip(min=0) >> (self._bits - 8)).astype(np.uint8)


def flat_matrix(spacing_mm: Spacing | None) -> Matrix:
    """Where a picture is put that does not say where it lies: upright in an axial slice view.

    Columns go to the patient's left, rows to the back, the first pixel is the origin; 1 mm where
    the spacing is not known.
    """
    y_mm, x_mm = spacing_mm or (1.0, 1.0)
    return np.diag([-x_mm, -y_mm, 1.0, 1.0])


def points_ras_mm(
    points_px: Float32[np.ndarray, "*n 2"], ijk_to_ras_mm: Matrix
) -> Float64[np.ndarray, "*n 3"]:
    """Pixel coordinates as points of the world.

    Pixel i covers i to i + 1 here, while the matrix takes i itself for its centre.

    >>> points_ras_mm(np.float32([[0.5, 2.5]]), flat_matrix(Spacing(0.25, 0.5)))
    array([[ 0. , -0.5,  0. ]])
    """
    ij = points_px.astype(np.float64) - 0.5
    return ij @ ijk_to_ras_mm[:3, :2].T + ijk_to_ras_mm[:3, 3] + 0.0  # no minus zeros


def pack(
    kind: str,
    device: str,
    *content: Buffer,
    time_s: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A whole message.

    Args:
        kind: "IMAGE", "POINT", ...
        device: name of what sends, ASCII, at most 20 characters.
        content: its parts in order; put together once, since a picture is large.
        time_s: seconds since 1970; now if None.
        metadata: ASCII texts; with it the header is of version 2.

    >>> len(pack("STRING", "SonoDETR", string_content("hello")))
    67
    """
    parts = list(content)
    if metadata is not None:
        index = b"".join(struct.pack(">HHI", len(k), 3, len(v)) for k, v in metadata.items())
        index = struct.pack(">H", len(metadata)) + index
        texts = "".join(key + value for key, value in metadata.items()).encode("ascii")
        parts = [_EXTENDED.pack(_EXTENDED.size, len(index), len(texts), 0), *parts, index, texts]
    crc = 0
    for part in parts:
        crc = ecma_182(part, crc)
    now = time.time() if time_s is None else time_s
    header = _HEADER.pack(
        1 if metadata is None else 2,
        kind.encode("ascii"),
        device.encode("ascii"),
        int(now),
        int((now - int(now)) * 2**32),
        sum(memoryview(part).nbytes for part in parts),
        crc,
    )
    return b"".join((header, *parts))


def image_content(pixels: Pixels, ijk_to_ras_mm: Matrix) -> tuple[bytes, memoryview]:
    """Content of an IMAGE: its header and the pixels."""
    height, width = pixels.shape[:2]
    centre = ijk_to_ras_mm @ ((width - 1) / 2, (height - 1) / 2, 0.0, 1.0)
    numbers = (*ijk_to_ras_mm[:3, :3].T.ravel().tolist(), *centre[:3].tolist())
    channels = 1 if pixels.ndim == 2 else 3
    size = (width, height, 1)
    header = _IMAGE.pack(1, channels, 3, _LITTLE, _RAS, *size, *numbers, 0, 0, 0, *size)
    return header, np.ascontiguousarray(pixels).data.cast("B")


def string_content(text: str) -> bytes:
    """Content of a STRING; at most `MAX_STRING_BYTES`.

    Raises:
        ValueError: it is longer.
    """
    data = text.encode("utf-8")
    if len(data) > MAX_STRING_BYTES:
        raise ValueError(f"a STRING of {len(data)} bytes; {MAX_STRING_BYTES} are allowed")
    ascii_or_utf8 = 3 if text.isascii() else 106  # IANA's numbers of character sets
    return struct.pack(">HH", ascii_or_utf8, len(data)) + data


class Point(NamedTuple):
    """One point of a POINT message; names are cut where their field ends."""

    name: str
    group: str
    rgba: tuple[int, int, int, int]
    position_mm: tuple[float, float, float]
    owner: str


def point_content(points: Sequence[Point]) -> bytes:
    """Content of a POINT message."""
    return b"".join(
        _POINT.pack(
            _field(point.name, 64),
            _field(point.group, 32),
            *point.rgba,
            *point.position_mm,
            0.0,
            _field(point.owner, 20),
        )
        for point in points
    )


def outline_content(outlines_mm: Float64[np.ndarray, "n corners 3"]) -> bytes:
    """Content of a POLYDATA message: each outline a closed line through its corners."""
    count, corners = outlines_mm.shape[:2]
    around = [*range(corners), 0]
    lines = np.array([[corners + 1, *(row * corners + i for i in around)] for row in range(count)])
    data = lines.astype(">u4").tobytes()
    sizes = (count * corners, 0, 0, count, len(data), 0, 0, 0, 0, 0)
    return struct.pack(">10I", *sizes) + outlines_mm.astype(">f4").tobytes() + data


def status_content() -> bytes:
    """Content of a STATUS that says all is well."""
    return struct.pack(">HQ20s", 1, 0, b"OK") + b"\0"


def _field(text: str, size: int) -> bytes:
    """UTF-8 that fits with an end mark, cut between characters."""
    return text.encode("utf-8")[: size - 1].decode("utf-8", "ignore").encode("utf-8")
