"""What a DICOM header says of the pictures: grey scale, times, calibration, and whose they are."""

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.processing import apply_windowing

from sonodetr.types import Region, Spacing

_SHORTEST_S, _LONGEST_S = 1e-6, 86400.0  # between two frames; else the file does not mean it


def stored_to_shown(header: Any, options: dict[str, Any]) -> np.ndarray | None:
    """Table from every stored value, as unsigned, to what is shown; None where they are the same.

    Args:
        header: with the palette, or the rescale, window and value-of-interest tables.
        options: pydicom's decoding options: bits, sign and photometric interpretation.
    """
    depth, stored_bits = options["bits_allocated"], options["bits_stored"]
    signed = bool(options["pixel_representation"])
    values = np.arange(2**depth).astype(f"{'i' if signed else 'u'}{-(-depth // 8)}")
    low = -(2 ** (stored_bits - 1)) if signed else 0
    values = np.clip(values, low, low + 2**stored_bits - 1)
    colours = options["photometric_interpretation"]
    if colours == "PALETTE COLOR":
        table = apply_color_lut(values, header)[:, :3]
        return (table >> 8 if table.max() > 255 else table).astype(np.uint8)
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        return None if depth == 8 else _scaled(values, low, low + 2**stored_bits - 1)
    shown = apply_modality_lut(values, header)
    black, white = shown.min(), shown.max()
    if header.get("VOILUTSequence"):
        shown = apply_voi_lut(shown, header)
        black, white = 0, 2 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1
    elif header.get("WindowWidth") is not None and header.get("WindowCenter") is not None:
        shown = apply_windowing(shown, header)
        with np.errstate(over="ignore"):
            black, white = apply_windowing(np.array([-1e12, 1e12]), header)
    table = _scaled(shown, black, white)
    if colours == "MONOCHROME1":
        table = 255 - table
    return None if depth == 8 and np.array_equal(table, np.arange(256)) else table


def _scaled(values: np.ndarray, black: Any, white: Any) -> np.ndarray:
    share = (values.astype(np.float64) - float(black)) / (float(white) - float(black))
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def times_s(header: Any, count: int) -> np.ndarray:
    """Seconds from the first frame; all 0 where the file does not say."""
    steps_ms = header.get("FrameTimeVector")
    if steps_ms is not None and np.size(steps_ms) == count:
        steps_s = np.asarray(steps_ms, float).reshape(count) / 1000
        if (steps_s <= _LONGEST_S).all():
            steps_s = np.maximum(steps_s, 0)
            return np.cumsum(steps_s) - steps_s[0]
    rates = ("CineRate", "RecommendedDisplayFrameRate")
    rates_hz = [float(header.get(rate) or 0) for rate in rates]
    candidates_s = [float(header.get("FrameTime") or 0) / 1000]
    candidates_s += [1 / rate_hz for rate_hz in rates_hz if rate_hz > 0]
    step_s = next((each for each in candidates_s if _SHORTEST_S <= each <= _LONGEST_S), 0.0)
    return np.arange(count) * step_s


def region_and_spacing(header: Any, size: tuple[int, int]) -> tuple[Region | None, Spacing | None]:
    """The largest region that shows tissue in 2D, and the spacing of its pixels."""
    height, width = size
    best: Region | None = None
    spacing: Spacing | None = None
    for item in header.get("SequenceOfUltrasoundRegions") or []:
        if (item.get("RegionSpatialFormat"), item.get("RegionDataType")) != (1, 1):
            continue
        right, bottom = int(item.RegionLocationMaxX1), int(item.RegionLocationMaxY1)
        # Beyond the frame by more than the slip of counting from 1: the header is of another
        # picture. Out on both sides, that was reduced later and no place is right; out on one, it
        # was probably cropped. Its scale is not to be trusted either way.
        too_wide, too_high = right > width, bottom > height
        if too_wide and too_high:
            continue
        region = Region(
            max(int(item.RegionLocationMinX0), 0),
            max(int(item.RegionLocationMinY0), 0),
            min(right + 1, width),
            min(bottom + 1, height),
        )
        if region.x0 >= region.x1 or region.y0 >= region.y1 or _area(region) <= _area(best):
            continue
        best, spacing = region, None
        units = (item.get("PhysicalUnitsXDirection"), item.get("PhysicalUnitsYDirection"))
        if units == (3, 3) and not (too_wide or too_high):  # both in cm
            spacing = _spacing(item.get("PhysicalDeltaY"), item.get("PhysicalDeltaX"), 10)
    if spacing is None and header.get("PixelSpacing"):
        down, across = header.PixelSpacing
        spacing = _spacing(down, across, 1)
    return best, spacing


def _area(region: Region | None) -> int:
    return (region.x1 - region.x0) * (region.y1 - region.y0) if region else 0


def _spacing(down: Any, across: Any, mm: int) -> Spacing | None:
    spacing = Spacing(abs(float(down or 0)) * mm, abs(float(across or 0)) * mm)
    return spacing if all(0 < each < np.inf for each in spacing) else None


def patient_key(header: Any) -> str | None:
    """A key that is the same for all files of a patient and does not lead back to the id."""
    number = str(header.get("PatientID") or "").strip()
    issuer = str(header.get("IssuerOfPatientID") or "").strip()
    return _pseudonym(number, issuer) if number else None


@lru_cache(maxsize=4096)
def _pseudonym(number: str, issuer: str) -> str:
    # Slow on purpose: whoever tries all ids of a hospital pays for each one.
    secret = f"{number}\0{issuer}".encode()
    return hashlib.scrypt(secret, salt=b"sonodetr patient", n=2**14, r=8, p=1, dklen=6).hex()
