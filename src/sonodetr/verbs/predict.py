"""`sonodetr predict`."""

import sys
import time
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonodetr.files import InputError, check_apart
from sonodetr.verbs.answers import (
    Json,
    Model,
    RegionText,
    ShowOutside,
    Threshold,
    answer,
    check_json,
    check_threshold,
    region_choice,
)

REPORT = "report.dcm"

if TYPE_CHECKING:
    from sonodetr.predictor import Predictor
    from sonodetr.sinks import Write
    from sonodetr.types import Detections, Video


def predict(
    model: Model,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="video, DICOM, MetaImage, picture, folder of pictures"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for the results")],
    threshold: Threshold = None,
    region: RegionText = "",
    show_outside: ShowOutside = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="write no overlay")] = False,
    dicom_sr: Annotated[
        bool, typer.Option("--dicom-sr", help="of a DICOM file: write a structured report too")
    ] = False,
    json_out: Json = "",
) -> None:
    """Find objects in a recording or picture.

    Writes OUT/detections.jsonl, one line a frame, and OUT/overlay.mp4 (overlay.png for one
    picture). What lies outside the ultrasound picture, where names are shown, is blacked out. With
    --dicom-sr also OUT/report.dcm, a Measurement Report (TID 1500) of the patient and study that
    the source names.

    \b
    Examples:
      sonodetr predict runs/nerves needle.mp4 --out predictions
      sonodetr predict runs/nerves cine.dcm --out predictions --threshold 0.3 --no-video
      sonodetr predict runs/nerves cine.dcm --out predictions --dicom-sr
      sonodetr predict runs/nerves screen.mp4 --out predictions --region 120,80,900,700
    """
    choice = region_choice(region)
    check_threshold(threshold)
    from sonodetr.formats import open_source
    from sonodetr.predictor import load
    from sonodetr.sinks import LINES, PICTURE, VIDEO, prediction_files

    predictor = load(model)
    video = predictor.with_region(open_source(source), choice)
    header = _report_source(source, video) if dicom_sr else None
    if video.region_px is None:
        print(
            f"sonodetr: warning: no ultrasound region found in {source}: whole frames are shown, "
            "names may be visible; give --region x0,y0,x1,y1",
            file=sys.stderr,
        )
    names = [LINES, *([] if no_video else [PICTURE if len(video) == 1 else VIDEO])]
    results = [out / name for name in (*names, REPORT)]
    check_apart(source, *results, json_out or out / LINES)
    check_json(json_out, *results)
    least = predictor.threshold if threshold is None else threshold
    found: list[Detections] | None = [] if dicom_sr else None
    with prediction_files(out, video, overlay=not no_video, show_outside=show_outside) as files:
        write, paths = files
        count, seconds = _predict(predictor, video, least, write, found)
        if found is not None:
            from sonodetr.formats.dicom_sr import write_report

            seen = ",".join(map(str, video.region_px)) if video.region_px else "full"
            paths.append(out / REPORT)
            name = Path(model).resolve().name
            write_report(paths[-1], header, found, name, [f"threshold {least:g}", f"region {seen}"])
    result = {
        "model": model,
        "source": str(source),
        "threshold": least,
        "frames": len(video),
        "detections": count,
        "seconds": round(seconds, 3),
        "files": [str(path) for path in paths],
    }
    written = ", ".join(str(path) for path in paths)
    text = f"{count} detections in {len(video)} frames, {len(video) / seconds:.1f} frames a second"
    answer(result, json_out, f"{written}: {text}")


def _report_source(source: Path, video: "Video") -> Any:
    """The header of the file that a report is about."""
    from sonodetr.formats.dicom import DicomFrames
    from sonodetr.formats.dicom_sr import report_source

    if not isinstance(video.frames, DicomFrames):
        raise InputError(
            f"{source}: --dicom-sr reports on a DICOM file, and this is none; leave it out"
        )
    return report_source(video.frames.path)


def _predict(
    predictor: "Predictor",
    video: "Video",
    threshold: float,
    write: "Write",
    kept: "list[Detections] | None",
) -> tuple[int, float]:
    """Write what is found in every frame of a recording, and keep it in the list if there is one;
    number of detections, and seconds."""
    from sonodetr.progress import progress_bar
    from sonodetr.types import frames_of

    # `predict_frames` reads no frame ahead, so that only one waits here to be drawn.
    frames, again = tee(frames_of(video))
    count, started = 0, time.monotonic()
    found = predictor.predict_frames(frames, threshold=threshold)
    with progress_bar("predict", len(video), "frames") as advance:
        for frame, detections in zip(again, found, strict=True):
            write(frame, detections)
            count += len(detections)
            if kept is not None:
                kept.append(detections)
            advance()
    return count, time.monotonic() - started
