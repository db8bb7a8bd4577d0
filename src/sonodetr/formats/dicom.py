"""DICOM: single frames and cine loops, one frame read and decoded at a time."""

import logging
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sonodetr.files import InputError, existing_file
from sonodetr.formats.inflate import DEFLATE, inflated
from sonodetr.formats.listing import (
    DICOM_SUFFIXES,
    checked_index,
    checked_size,
    is_dicom,
    walk,
)
from sonodetr.types import Pixels, Video

try:
    import pydicom
    from pydicom import encaps, filereader, uid
    from pydicom.pixels import get_decoder
    from pydicom.pixels.utils import as_pixel_options

    from sonodetr.formats.dicom_header import (
        patient_key,
        region_and_spacing,
        stored_to_shown,
        times_s,
    )
except ImportError as error:
    raise InputError("reading DICOM needs more packages: pip install 'sonodetr[dicom]'") from error

# Tried in this order: fastest first. GDCM only where nothing else decodes the kind (JPEG Lossless):
# damaged data can make it end the whole process.
_PLUGINS = ("pylibjpeg", "pillow", "pyjpegls", "pydicom")
_LAST_PLUGIN = "gdcm"

_COLOURS = (
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
    *("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
)

_EMPTY_OFFSET_TABLE = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"


@dataclass(frozen=True)
class DicomFrames:
    """The frames of one DICOM file, each read from its place in the file when asked for.

    Colour comes as RGB, whatever it was stored as. Grey is `[H, W]`, black to white: through the
    file's window (its first) or VOI table if it has one, else linearly from all values that the
    stored bits can hold to 0..255, the same for every frame. Overlays are not drawn.

    Attributes:
        path: the file.
        size: height and width.
        spans: `[N + 1]` where each frame begins in the file; for data without compression only
            the beginning of all.
        options: how the pixels are stored, as pydicom's decoders want it.
        table: stored value -> grey `[V]` or RGB `[V, 3]`; None where the value is the grey.
    """

    path: str
    size: tuple[int, int]
    spans: np.ndarray
    options: dict[str, Any]
    table: np.ndarray | None

    def __len__(self) -> int:
        return int(self.options["number_of_frames"])

    def __getitem__(self, index: int) -> Pixels:
        index = checked_index(index, len(self))
        syntax = self.options["transfer_syntax_uid"]
        with quietly():
            stored = self._compressed(index) if syntax.is_encapsulated else self._plain(index)
        if self.table is not None:
            depth = self.options["bits_allocated"]
            kind = "i" if self.options["pixel_representation"] else "u"
            stored = self.table[stored.astype(f"{kind}{-(-depth // 8)}").view(f"u{-(-depth // 8)}")]
        if stored.shape[:2] != self.size:
            raise InputError(f"{self.path}: frame {index} has another size than its header claims")
        return np.ascontiguousarray(stored, np.uint8)

    def _plain(self, index: int) -> np.ndarray:
        decoder = get_decoder(self.options["transfer_syntax_uid"])
        with _data(self.path, self.options["transfer_syntax_uid"]) as file:
            file.seek(int(self.spans[0]))
            try:
                with _decoding():
                    return decoder.as_array(file, index=index, **self.options)[0]
            except _DamagedError as error:
                raise self._undecodable(index) from error

    def _compressed(self, index: int) -> np.ndarray:
        start, end = (int(place) for place in self.spans[index : index + 2])
        with existing_file(self.path).open("rb") as file:
            file.seek(start)
            encoded = _EMPTY_OFFSET_TABLE + file.read(end - start)
        decoder = get_decoder(self.options["transfer_syntax_uid"])
        failure: _DamagedError | None = None
        for plugin in _plugins(decoder):
            try:
                with _decoding():
                    return decoder.as_array(
                        encoded,
                        index=0,
                        decoding_plugin=plugin,
                        **{**self.options, "number_of_frames": 1},
                    )[0]
            except _DamagedError as error:  # the next one may manage
                failure = error
        raise self._undecodable(index) from failure

    def _undecodable(self, index: int) -> InputError:
        syntax = self.options["transfer_syntax_uid"].name
        return InputError(
            f"{self.path}: frame {index} of {len(self)} cannot be decoded ({syntax}); the file is "
            "damaged or the decoder is missing: pip install 'sonodetr[dicom]'"
        )


class _DamagedError(Exception):
    """A decoder cannot read what it was given."""


@contextmanager
def _decoding() -> Iterator[None]:
    """Makes one kind of whatever is raised at damaged data.

    pydicom raises anything; a decoder in Rust panics with what is not even an Exception.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise _DamagedError from error


def _plugins(decoder: Any) -> list[str]:
    # Pillow is the fastest for JPEG; pylibjpeg decodes it only with a package under the GPL.
    order = _PLUGINS[::-1] if decoder.UID in uid.JPEGTransferSyntaxes else _PLUGINS
    return [name for name in order if name in decoder.available_plugins] or [_LAST_PLUGIN]


@contextmanager
def quietly() -> Iterator[None]:
    """pydicom quotes header values, which may name a patient, in its warnings and log records."""
    logger = logging.getLogger("pydicom")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def _data(path: str, syntax: Any) -> Any:
    """The file, or its inflated copy, as a context manager."""
    if syntax != uid.DeflatedExplicitVRLittleEndian:
        return closing(existing_file(path).open("rb"))
    meta = filereader.read_file_meta_info(path)
    start = 144 + int(meta.FileMetaInformationGroupLength)
    return nullcontext(inflated(path, start, DEFLATE))


def read_dicom(path: str | os.PathLike[str]) -> list[Video]:
    """One DICOM file, or every one below a folder, each as a recording.

    In a folder, files that hold no pictures (reports, DICOMDIR) are passed over. Times come from
    the frame times or the cine rate; spacing and region from the largest 2D tissue region, spacing
    otherwise from Pixel Spacing. The patient key is derived from the patient's id (`dicom_header`).

    Raises:
        InputError: there is no DICOM file with pictures, or one of them cannot be read.

    >>> read_dicom("cine.dcm")[0].spacing_mm  # doctest: +SKIP
    Spacing(y_mm=0.25, x_mm=0.25)
    """
    source = Path(path)
    if not source.is_dir():
        video = _recording(source.name, existing_file(source))
        if video is None:
            raise InputError(f"{source}: this DICOM file holds no pictures; give one that does")
        return [video]
    files = [
        file for file in walk(source) if file.suffix.lower() in DICOM_SUFFIXES or is_dicom(file)
    ]
    keys = [file.relative_to(source).as_posix() for file in files]
    videos = [_recording(key, existing_file(file)) for key, file in zip(keys, files, strict=True)]
    found = [video for video in videos if video is not None]
    if not found:
        raise InputError(f"{source}: the folder holds no DICOM file with pictures")
    return found


def read_header(path: str | os.PathLike[str]) -> Any:
    """All of a DICOM file that `read_dicom` takes, but its pixels, as a pydicom dataset."""
    with quietly():
        return _header(os.fspath(path))[0]


def _recording(key: str, file: Path) -> Video | None:
    if not is_dicom(file):
        raise InputError(f"{file}: is not a DICOM file (DICM is missing after 128 bytes)")
    path = str(file)
    try:
        with quietly():
            header, options, offset, length = _header(path)
            if not length:
                return None
            count = options["number_of_frames"] = int(options["number_of_frames"])
            size = checked_size(int(header.Rows), int(header.Columns), path)
            _check_kind(path, options)
            spans = _spans(path, options, offset, length)
            frames = DicomFrames(path, size, spans, options, stored_to_shown(header, options))
            region, spacing = region_and_spacing(header, size)
            return Video(
                key,
                frames,
                times_s(header, count),
                patient=patient_key(header),
                spacing_mm=spacing,
                region_px=region,
            )
    except InputError:
        raise
    # At damaged data pydicom raises anything. Its message may quote the header, which names the
    # patient, and is not repeated.
    except Exception as error:
        raise InputError(
            f"{path}: the DICOM header is damaged, cut short or unusual ({type(error).__name__}); "
            "copy the file again"
        ) from error


def _check_kind(path: str, options: dict[str, Any]) -> None:
    depth, bits = options["bits_allocated"], options["bits_stored"]
    if depth not in (1, 8, 16) or not 1 <= bits <= depth:
        raise InputError(
            f"{path}: {bits} bits a value in {depth}; allowed are 1, 8 and 16 bits a value"
        )
    colours = str(options["photometric_interpretation"])
    if colours not in _COLOURS:
        raise InputError(
            f"{path}: Photometric Interpretation {colours[:16]!r}; allowed are "
            f"{', '.join(_COLOURS)}"
        )
    syntax = options["transfer_syntax_uid"]
    if syntax.is_encapsulated:
        try:
            get_decoder(syntax)
        except NotImplementedError:
            raise InputError(
                f"{path}: pixels compressed as {syntax.name} are not read; convert them"
            ) from None


def _header(path: str) -> tuple[Any, dict[str, Any], int, int]:
    """Header, pixel options, and where the pixel data begin and how long they are.

    A length of 0 means that there are none; without a length of their own (compressed data) it is
    what is left of the file.
    """
    syntax = uid.UID(filereader.read_file_meta_info(path).TransferSyntaxUID)
    with _data(path, syntax) as file:
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            file.seek(0)
            header = filereader.read_dataset(file, False, True, stop_when=_at_pixels)
        else:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        start = file.read(12)
        options = as_pixel_options(header, transfer_syntax_uid=syntax, pixel_keyword="PixelData")
        options.pop("extended_offsets", None)
        offset = file.tell()
        total = file.seek(0, os.SEEK_END)
    if len(start) < 8:
        return header, options, 0, 0
    order = "<" if syntax.is_little_endian else ">"
    group, element = struct.unpack(f"{order}HH", start[:4])
    if (group, element) != (0x7FE0, 0x0010):
        raise InputError(f"{path}: holds floating-point pixels; integer pixels are read")
    # Some files are written without value representations although their syntax promises them.
    if syntax.is_implicit_VR or start[4:6] not in (b"OB", b"OW"):
        offset -= 4
        length = struct.unpack(f"{order}L", start[4:8])[0]
    else:
        options["pixel_vr"] = start[4:6].decode()
        length = struct.unpack(f"{order}L", start[8:12])[0]
    if length == 0xFFFFFFFF:
        length = total - offset
    if offset + length > total:
        raise InputError(
            f"{path}: cut short, {offset + length - total} bytes of its pixels are missing; copy "
            "it again"
        )
    return header, options, offset, length


def _at_pixels(tag: Any, _vr: str | None, _length: int) -> bool:
    return tag in (0x7FE00008, 0x7FE00009, 0x7FE00010)


def _spans(path: str, options: dict[str, Any], offset: int, length: int) -> np.ndarray:
    count = options["number_of_frames"]
    if not options["transfer_syntax_uid"].is_encapsulated:
        samples = options["rows"] * options["columns"] * options["samples_per_pixel"]
        if options["photometric_interpretation"] == "YBR_FULL_422":
            samples = samples // 3 * 2
        needed = -(-samples * options["bits_allocated"] * count // 8)
        if length < needed:
            raise InputError(
                f"{path}: the header claims {count} frames, {needed} bytes, but the file holds "
                f"{length}; it is damaged or cut short"
            )
        return np.array([offset], np.int64)
    with open(path, "rb") as file:
        file.seek(offset)
        listed = encaps.parse_basic_offsets(file)
        base = file.tell()
        total, fragments = encaps.parse_fragments(file)
        starts = _frame_starts(file, fragments, [base + place for place in listed], count)
        end = base
        if fragments:
            file.seek(fragments[-1] + 4)
            end = fragments[-1] + 8 + struct.unpack("<L", file.read(4))[0]
    if len(starts) < count or end > offset + length:
        raise InputError(
            f"{path}: the header claims {count} frames, but {total} compressed pieces do not make "
            "as many; the file is damaged or cut short"
        )
    return np.array([*starts[:count], *(starts[count : count + 1] or [end])], np.int64)


def _frame_starts(file: BinaryIO, fragments: list[int], listed: list[int], count: int) -> list[int]:
    """Where each frame begins; a frame is one piece or several."""
    if len(listed) == count and set(listed) <= set(fragments):
        return listed
    if len(fragments) <= count or count == 1:
        return fragments[:1] if count == 1 else fragments
    # Several pieces a frame and no list of frames: a JPEG picture ends with its end mark.
    starts, fresh = [], True
    for start, following in zip(fragments, [*fragments[1:], None], strict=True):
        if fresh:
            starts.append(start)
        file.seek((following or start + 8) - 4)
        fresh = following is not None and b"\xff\xd9" in file.read(4)
    return starts
