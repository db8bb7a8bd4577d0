"""What the annotation readers share: checks of a file's structure, of boxes, and of picture names.

A fault in the structure of a file stops the reader. A fault in one label is a `BadLabel`: all of
them are gathered in `LabelTable`, which then stops with the first and their number, or leaves them
out.
"""

import logging
import math
import os
import re
import reprlib
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, parse
from pydantic import BaseModel, ValidationError

from sonodetr.files import InputError, existing_file
from sonodetr.types import Labels

_log = logging.getLogger(__name__)

OnBadLabel = Literal["error", "skip"]

# How pydantic names the alternatives of a union in the place of an error.
_ALTERNATIVE = re.compile(r"(str|int|bool|float)$|(list|dict|literal|function-\w+)\[")

_TOLERANCE_PX = 1.0  # what rounding of corners can push over the border
_SMALLEST_PX = 0.01  # thinner boxes may have no area left in float32
_LARGEST = 1e7  # no picture is that large; also keeps integers beyond float out


Frame = TypeVar("Frame", bound=Hashable)


class BadLabel(ValueError):
    """One label cannot be used; says why."""


class Row(NamedTuple):
    """One object in one frame, as `Labels` wants it."""

    box_xyxy_px: Sequence[float | int]
    class_index: int
    track_id: int = -1
    points_px: Any = ((math.nan, math.nan), (math.nan, math.nan))
    crowd: bool = False


class LabelTable(Generic[Frame]):
    """Rows by frame. A frame with a bad label is left unlabelled: what it shows is not known."""

    def __init__(self, on_bad_label: OnBadLabel) -> None:
        self._on_bad_label = on_bad_label
        self._rows: dict[Frame, list[Row]] = {}
        self._spoilt: set[Frame] = set()
        self._first_problem = ""
        self._num_bad = 0
        self._num_labels = 0

    def add_frame(self, frame: Frame) -> None:
        """Note that the file labels this frame, be it with nothing."""
        self._rows.setdefault(frame, [])

    def add(self, frame: Frame, row: Row) -> None:
        """Add one object to a frame."""
        self._rows.setdefault(frame, []).append(row)
        self._num_labels += 1

    def add_bad(self, frame: Frame | None, problem: str) -> None:
        """Note a label that cannot be used; `problem` names file, label and reason.

        `frame` is None for a label that belongs to no frame.
        """
        self._first_problem = self._first_problem or problem
        self._num_bad += 1
        self._num_labels += 1
        if frame is not None:
            self.spoil(frame)

    def spoil(self, frame: Frame) -> None:
        """Note that a frame is not known completely, because of a bad label elsewhere."""
        self._spoilt.add(frame)

    def finish(self) -> dict[Frame, Labels]:
        """Labels by frame.

        Raises:
            InputError: a label was bad and bad labels are not to be skipped.
        """
        if self._num_bad and self._on_bad_label == "error":
            raise InputError(
                f"{self._first_problem} ({self._num_bad} of {self._num_labels} labels are bad); "
                "correct the file, or leave bad labels out: --on-bad-label skip, in a config "
                "data.on_bad_label=skip"
            )
        if self._num_bad:
            _log.warning(
                "%d of %d labels left out, frames left unlabelled: %d; the first: %s",
                self._num_bad,
                self._num_labels,
                len(self._spoilt & self._rows.keys()),
                self._first_problem,
            )
        return {
            frame: labels_from(rows)
            for frame, rows in self._rows.items()
            if frame not in self._spoilt
        }


def labels_from(rows: Sequence[Row]) -> Labels:
    """Rows of one frame as arrays."""
    if not rows:
        return Labels.of(np.zeros((0, 4)), [])
    return Labels.of(*zip(*rows, strict=True))


def clip_box(box_xyxy_px: Sequence[float | int], size: tuple[int, int]) -> list[float]:
    """The box inside a picture of `size` (height, width); up to 1 px outside counts as rounding.

    Raises:
        BadLabel: the box is empty, not finite, or sticks out further.

    >>> clip_box([-0.5, 2, 10, 8], (8, 9))
    [0.0, 2.0, 9.0, 8.0]
    """
    left, top, right, bottom = box_xyxy_px
    if not all(abs(value) < _LARGEST for value in box_xyxy_px):  # also true for NaN
        raise BadLabel(f"box {_text(box_xyxy_px)} is not finite")
    if right <= left or bottom <= top:
        raise BadLabel(f"box is empty ({right - left:g} x {bottom - top:g} px)")
    height, width = size
    over_px = max(-left, -top, right - width, bottom - height)
    if over_px > _TOLERANCE_PX:
        raise BadLabel(
            f"box {_text(box_xyxy_px)} sticks {over_px:g} px out of the {width} x {height} picture"
        )
    clipped = [max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)]
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < _SMALLEST_PX:
        raise BadLabel(f"box {_text(box_xyxy_px)} has no area in the picture")
    return [float(value) for value in clipped]


def _text(box_xyxy_px: Sequence[float | int]) -> str:
    return ", ".join(f"{value:g}" for value in box_xyxy_px) + " (left, top, right, bottom)"


def numbers(values: Any, count: int, what: str) -> list[float]:
    """`values` if it is a list of `count` finite numbers.

    Raises:
        BadLabel: it is something else.
    """
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(type(value) in (int, float) and abs(value) < _LARGEST for value in values)
    ):
        raise BadLabel(f"{what} {shown(values)} is not a list of {count} finite numbers")
    return [float(value) for value in values]


def number(text: str | None, what: str) -> float:
    """`text` as a finite number.

    Raises:
        BadLabel: it is missing or something else.
    """
    try:
        value = float(text)  # type: ignore[arg-type]  # None is answered below
    except (TypeError, ValueError):
        value = math.nan
    if not abs(value) < _LARGEST:
        raise BadLabel(f"{what} {shown(text)} is not a finite number")
    return value


def shown(value: Any) -> str:
    """A value in one short line, for a message."""
    return reprlib.repr(value)


Record = TypeVar("Record", bound=BaseModel)


def checked(model: type[Record], values: Any, source: Path) -> Record:
    """Plain JSON values as a typed record.

    Raises:
        InputError: a value has the wrong type; the message names its place in the file.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = [part for part in first["loc"] if not _ALTERNATIVE.match(str(part))]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        place = place.lstrip(".") or "the file"
        if first["type"] == "missing":
            raise InputError(f"{source}: {place} is missing") from None
        expected = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(f"{source}: {place} is {shown(first['input'])}, but {expected}") from None


def unique(values: Iterable[Hashable], what: str, source: Path) -> None:
    """Check that no value comes twice.

    Raises:
        InputError: one does.
    """
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            raise InputError(f"{source}: {what} {value!r} is given twice; each must be unique")
        seen.add(value)


def read_xml(source: Path) -> Any:
    """Root element of an XML file; entities and external references are refused.

    Raises:
        InputError: the file is missing, empty, not XML, or uses entities.
    """
    try:
        return parse(existing_file(source)).getroot()
    except ParseError as error:
        raise InputError(f"{source}: not valid XML ({error}); the file may be truncated") from None
    except (DefusedXmlException, ValueError, LookupError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{source}: not plain XML ({type(error).__name__}); save it as UTF-8 without entities"
        ) from None


class Pictures:
    """Which picture files exist, from one listing a folder; no picture is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, set[str]] = {}

    def has(self, name: str) -> bool:
        """Whether the file `name`, relative to the folder, exists."""
        parent, last = os.path.split(self.folder / name)
        if parent not in self._names:
            try:
                with os.scandir(parent) as entries:
                    self._names[parent] = {entry.name for entry in entries}
            except (OSError, ValueError):  # ValueError: a null byte in the name
                self._names[parent] = set()
        return last in self._names[parent]

    def require(self, names: Sequence[str], source: Path) -> None:
        """Check that all files exist.

        Raises:
            InputError: one does not.
        """
        missing = [name for name in names if not self.has(name)]
        if missing:
            raise InputError(
                f"{source}: picture {missing[0]!r} is not in {self.folder} "
                f"({len(missing)} of {len(names)} are missing); name their folder with images="
            )


def find_pictures(source: Path, images: str, names: Sequence[str]) -> Pictures:
    """The folder of the pictures: `images`, or else beside `source` or in `images/` beside it.

    Raises:
        InputError: `images` is not a folder.
    """
    if images:
        if not Path(images).is_dir():
            raise InputError(f"images={images}: no such folder; it holds the pictures of {source}")
        return Pictures(Path(images))
    beside = Pictures(source.parent)
    inside = Pictures(source.parent / "images")
    return inside if names and not beside.has(names[0]) and inside.folder.is_dir() else beside
