"""The tables that `sonodetr evaluate` prints."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_SHOWN = {
    "AP, IoU 0.50:0.95": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "precision at recall 0.8": "precision@0.8",
    "false positives a frame at recall 0.8": "false_positives_per_frame@0.8",
    "precision at recall 0.9": "precision@0.9",
    "false positives a frame at recall 0.9": "false_positives_per_frame@0.9",
    "recall at the model's threshold": "recall",
    "precision at the model's threshold": "precision",
    "false positives a frame at the model's threshold": "false_positives_per_frame",
}


_INSTRUMENTS = {
    "tip error, median ({unit})": "tip_error_median_{unit}",
    "tip error, 95th percentile ({unit})": "tip_error_p95_{unit}",
    "tip found within 3 mm": "tip_within_3_mm",
    "angle error, median (degrees)": "angle_error_median_deg",
    "angle error, 95th percentile (degrees)": "angle_error_p95_deg",
    "detected": "detected",
    "time to first detection, median (s)": "first_detection_median_s",
    "never detected": "never_detected",
    "flicker (changes a second)": "flicker_per_s",
    "false detections an empty frame": "false_detections_per_empty_frame",
}


def print_evaluation(result: dict[str, Any], console: Console) -> None:
    """Show what `evaluate` returns as tables."""
    values, bounds = result["figures"], result["intervals"]
    heading = f"value ({100 * bounds['confidence']:.0f}% interval by {bounds['unit']})"
    title = f"{Path(result['model']).name} on {Path(result['data']).name}, {result['split']}"
    table = Table("figure", heading, title=escape(title))
    for label, name in _SHOWN.items():
        table.add_row(label, _with_interval(bounds["figures"][name]))
    console.print(table)
    table = Table("class", "objects", "AP", "AP50")
    for name, own in values["classes"].items():
        ap, ap50 = (_with_interval(bounds["figures"][f"{f}/{name}"]) for f in ("ap", "ap50"))
        table.add_row(escape(name), str(own["objects"]), ap, ap50)
    console.print(table)
    lines = [
        f"{values['frames']} labelled frames with {values['objects']} objects; "
        f"{_drawn(bounds)}; the model's threshold is {result['threshold']:.3f}",
        *(f"note: {note}" for note in result["notes"]),
    ]
    if result["instruments"] is not None:
        console.print(_instrument_table(result["instruments"], bounds["figures"]))
        lines += _instrument_lines(result["instruments"])
    console.print(escape("\n".join(lines)), highlight=False)


def _instrument_table(instruments: dict[str, Any], intervals: dict[str, Any]) -> Table:
    """One column for all instruments, and one for each class if there are several."""
    unit, names = instruments["tip_unit"], list(instruments["classes"])
    columns = [("all", ""), *((name, f"/{name}") for name in names)]
    if len(names) == 1:
        columns = [(names[0], "")]
    table = Table("at the model's threshold", *(escape(heading) for heading, _ in columns))
    for label, name in _INSTRUMENTS.items():
        figure = name.format(unit=unit)
        cells = (_with_interval(intervals[figure + end]) for _, end in columns)
        table.add_row(label.format(unit=unit), *cells)
    return table


def _instrument_lines(instruments: dict[str, Any]) -> list[str]:
    counts, lacking = instruments["all"], instruments["recordings_without_spacing"]
    lines = [
        f"{counts['objects']} labelled instruments, {counts['tips']} with a tip to measure; "
        f"{counts['never_detected']} of {counts['instruments']} in recordings are never detected"
    ]
    if instruments["tip_unit"] == "px":
        lines.append("note: no recording has a pixel spacing: tip errors are in pixels, not mm")
    elif lacking:
        lines.append(f"note: tip errors leave out recordings without a pixel spacing ({lacking})")
    return lines


def _drawn(bounds: dict[str, Any]) -> str:
    if bounds["units"] < 2:
        return f"no interval, as there is only one {bounds['unit']}"
    return f"interval over {bounds['units']} {bounds['unit']}s"


def _with_interval(interval: dict[str, float | None]) -> str:
    if interval["value"] is None:
        return "undefined"
    if interval["low"] is None:
        return f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
