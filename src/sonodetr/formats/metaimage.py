"""MetaImage: `.mha`, `.mhd` with its data file, and tracked sequences of the PLUS toolkit."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sonodetr.files import InputError, existing_file
from sonodetr.formats.inflate import ZLIB, inflated
from sonodetr.formats.listing import METAIMAGE_SUFFIXES, checked_index, checked_size, keyed_files
from sonodetr.types import Pixels, Spacing, Video

# Sizes as MetaIO writes them, on every machine: a LONG has 4 bytes.
_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_ORIENTATIONS = ("MF", "UF", "MN", "UN", "FM", "FU", "NM", "NU")
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class MetaImageFrames:
    """The pictures of a MetaImage; the third axis is time (or the slice of a volume).

    Compressed data are inflated once into a temporary file (see `inflate`). Anything but 8 bits
    without sign is scaled linearly from the least and greatest value of the recording to 0..255.
    Frames are turned so that depth goes down and the marked side of the probe is on the right, as
    PLUS itself keeps them (orientation MF); without the field they stay as stored.

    Attributes:
        data: the file that holds the pixels.
        offset: where in it they begin.
        compressed: whether they are one zlib stream.
        shape: frames, rows, columns and channels as stored.
        kind: type of a stored value, as numpy writes it.
        orientation: directions of the stored x and y axis (PLUS), or empty.
        scale: least and greatest value; None where the value is the grey.
    """

    data: str
    offset: int
    compressed: bool
    shape: tuple[int, int, int, int]
    kind: str
    orientation: str
    scale: tuple[float, float] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as shown."""
        _, rows, columns, _ = self.shape
        return (columns, rows) if self.orientation[:1] in ("F", "N") else (rows, columns)

    def __getitem__(self, index: int) -> Pixels:
        values = self.stored(checked_index(index, len(self)))
        if self.scale is not None:
            low, high = self.scale
            share = (values.astype(np.float64) - low) / ((high - low) or 1)
            values = np.rint(np.nan_to_num(share, posinf=1, neginf=0).clip(0, 1) * 255)
        if self.shape[3] == 1:
            values = values[..., 0]
        return np.array(_as_shown(values, self.orientation), np.uint8, order="C")

    def stored(self, index: int) -> np.ndarray:
        """`[rows, columns, channels]` values of one frame as the file has them."""
        count = math.prod(self.shape[1:]) * np.dtype(self.kind).itemsize
        if self.compressed:
            file = inflated(self.data, self.offset, ZLIB, count * len(self))
            file.seek(index * count)
            raw = file.read(count)
        else:
            with existing_file(self.data).open("rb") as file:
                file.seek(self.offset + index * count)
                raw = file.read(count)
        if len(raw) != count:
            raise InputError(f"{self.data}: frame {index} is cut short; copy the file again")
        return np.frombuffer(raw, self.kind).reshape(self.shape[1:])


def _as_shown(values: np.ndarray, orientation: str) -> np.ndarray:
    if orientation[:1] in ("F", "N"):
        values, orientation = values.swapaxes(0, 1), orientation[::-1]
    if orientation[:1] == "U":
        values = values[:, ::-1]
    return values[::-1] if orientation[1:] == "N" else values


def read_metaimage(path: str | os.PathLike[str]) -> list[Video]:
    """One `.mha` or `.mhd` file, or every one below a folder, each as a recording.

    Times come from the `Seq_Frame....._Timestamp` fields of PLUS, otherwise they are all 0, which
    means unknown. A spacing of exactly 1 1 is what programs write that know none, and is taken as
    unknown.

    Raises:
        InputError: there is no MetaImage, or one of them is damaged or of a kind not read.

    >>> len(read_metaimage("wires.igs.mha")[0])  # doctest: +SKIP
    201
    """
    files = keyed_files(path, METAIMAGE_SUFFIXES, "MetaImage")
    return [_recording(key, file) for key, file in files]


def _recording(key: str, file: Path) -> Video:
    fields, stamps, end = _header(file)
    frames = _frames(file, fields, end)
    if frames.kind != "|u1":
        frames = _with_scale(frames)
    times_s = np.zeros(len(frames))
    if stamps.keys() >= set(range(len(frames))):
        given = np.array([stamps[index] for index in range(len(frames))])
        if np.isfinite(given).all():
            times_s = np.maximum.accumulate(given) - given[0]
    return Video(key, frames, times_s, spacing_mm=_spacing(fields, frames))


def _header(file: Path) -> tuple[dict[str, str], dict[int, float], int]:
    """The fields, the time stamps of the frames, and where the header ends."""
    fields: dict[str, str] = {}
    stamps: dict[int, float] = {}
    with file.open("rb") as source:
        while "ElementDataFile" not in fields:
            line = source.readline(_LONGEST_LINE)
            name, equals, value = line.decode("latin-1").partition("=")
            if not equals or not line.endswith(b"\n"):
                raise InputError(
                    f"{file}: is not a MetaImage, or its header is cut short (the last line of a "
                    "header is ElementDataFile = ...); copy it again"
                )
            name, value = name.strip(), value.strip()
            if frame := re.fullmatch(r"Seq_Frame(\d{1,9})_Timestamp", name):
                stamps[int(frame[1])] = _number(file, name, value, float)
            elif not name.startswith("Seq_Frame"):
                fields[name] = value
        return fields, stamps, source.tell()


def _number(file: Path, name: str, value: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise InputError(f"{file}: {name} = {value[:40]!r} is not a number") from None


def _frames(file: Path, fields: dict[str, str], end: int) -> MetaImageFrames:
    _refuse_what_is_no_picture(file, fields)
    sizes = [_number(file, "DimSize", word, int) for word in fields.get("DimSize", "").split()]
    name = "ElementNumberOfChannels"
    channels = _number(file, name, fields.get(name, "1"), int)
    if len(sizes) == 2:
        sizes.append(1)
    if len(sizes) == 4 and sizes[2] == 1:  # a sequence of flat volumes
        del sizes[2]
    if len(sizes) != 3 or channels not in (1, 3) or sizes[2] < 1:
        raise InputError(
            f"{file}: DimSize {fields.get('DimSize')!r} with {channels} channels; read are width, "
            "height and frames, with 1 or 3 channels"
        )
    width, height, count = sizes
    checked_size(height, width, str(file))
    order = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    kind = np.dtype(_TYPES[fields["ElementType"]]).newbyteorder(">" if _true(order) else "<")
    orientation = fields.get("UltrasoundImageOrientation", "")[:2]
    frames = MetaImageFrames(
        str(_data_file(file, fields)),
        end if fields["ElementDataFile"] == "LOCAL" else 0,
        _true(fields.get("CompressedData", "False")),
        (count, height, width, channels),
        kind.str,
        "" if orientation == "XX" else orientation,
    )
    return _with_offset(file, fields, frames)


def _refuse_what_is_no_picture(file: Path, fields: dict[str, str]) -> None:
    orientation = fields.get("UltrasoundImageOrientation", "")
    if fields.get("ElementType") not in _TYPES:
        raise InputError(
            f"{file}: ElementType {fields.get('ElementType')!r}; allowed are {' '.join(_TYPES)}"
        )
    if not _true(fields.get("BinaryData", "True")):
        raise InputError(f"{file}: holds its values as text; write it with BinaryData = True")
    if fields.get("UltrasoundImageType", "").startswith("RF"):
        raise InputError(f"{file}: holds radio-frequency lines, not pictures; give B-mode")
    if orientation and orientation[:2] not in (*_ORIENTATIONS, "XX"):
        raise InputError(
            f"{file}: UltrasoundImageOrientation {orientation[:9]!r}; allowed are "
            f"{' '.join(_ORIENTATIONS)}, each with A or D behind it"
        )


def _true(word: str) -> bool:
    return word.strip().lower() in ("true", "1", "t")


def _data_file(file: Path, fields: dict[str, str]) -> Path:
    name = fields["ElementDataFile"]
    if name == "LOCAL":
        return file
    if name.split()[0:1] == ["LIST"] or "%" in name:
        raise InputError(f"{file}: its frames lie in several files; write it as one .mha")
    return existing_file(file.parent / name)


def _with_offset(file: Path, fields: dict[str, str], frames: MetaImageFrames) -> MetaImageFrames:
    """Hold what the header claims against what the file has."""
    held = os.path.getsize(frames.data) - frames.offset
    needed = math.prod(frames.shape) * np.dtype(frames.kind).itemsize
    offset = frames.offset
    if frames.compressed:
        # zlib packs at most about 1032 to 1, so that a wild claim is seen before memory is taken.
        size = fields.get("CompressedDataSize", "0")
        needed = max(needed // 1033, _number(file, "CompressedDataSize", size, int))
    elif fields["ElementDataFile"] != "LOCAL":
        skipped = _number(file, "HeaderSize", fields.get("HeaderSize", "0"), int)
        offset = held - needed if skipped < 0 else skipped
        held -= offset
    if held < needed or offset < 0 or (held > needed and not frames.compressed):
        raise InputError(
            f"{file}: the header claims {needed} bytes of data, the file holds {held}; it is "
            "damaged or cut short, copy it again"
        )
    return replace(frames, offset=offset)


def _with_scale(frames: MetaImageFrames) -> MetaImageFrames:
    low, high = np.inf, -np.inf
    for index in range(len(frames)):
        values = frames.stored(index)
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        raise InputError(f"{frames.data}: not one value of it is a number")
    return replace(frames, scale=(low, high))


def _spacing(fields: dict[str, str], frames: MetaImageFrames) -> Spacing | None:
    words = fields.get("ElementSpacing", fields.get("ElementSize", "")).split()
    if len(words) < 2:
        return None
    try:
        x_mm, y_mm = float(words[0]), float(words[1])
    except ValueError:
        return None
    if (x_mm, y_mm) == (1, 1) or not (0 < x_mm < np.inf and 0 < y_mm < np.inf):
        return None
    return Spacing(x_mm, y_mm) if frames.orientation[:1] in ("F", "N") else Spacing(y_mm, x_mm)
