"""The whole story on simulated data in minutes: simulate, train, evaluate, and a page to read."""

import json
import webbrowser
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from sonodetr import report
from sonodetr.config import Config
from sonodetr.config_file import parse_config
from sonodetr.draw import draw, draw_labels, grid
from sonodetr.evaluation.evaluate import detect, evaluate
from sonodetr.formats import open_source, read
from sonodetr.predictor import Predictor, load
from sonodetr.simulator.datasets import data_set
from sonodetr.simulator.write import write_clips
from sonodetr.sinks import overlay_video
from sonodetr.training.fit import train
from sonodetr.training.run import provenance
from sonodetr.types import Detections, Frame, Video, frame_at, frames_of

_SHOWN = 12
_LIVE_SECONDS = 6
_FIGURES = {
    "AP, mean over IoU 0.50 to 0.95": "ap",
    "AP50": "ap50",
    "tip error, median (mm)": "tip_error_median_mm",
    "tip error, 95th percentile (mm)": "tip_error_p95_mm",
    "tip found within 3 mm (share of frames)": "tip_within_3_mm",
    "shaft angle error, median (degrees)": "angle_error_median_deg",
    "false detections in an empty frame": "false_detections_per_empty_frame",
}


def run_demo(out: Path, *, show: bool) -> tuple[Path, dict[str, Any]]:
    """Simulate, train, evaluate, write the page; go on where an earlier call was stopped.

    Args:
        out: folder for everything.
        show: open the page in the browser, if there is a screen.

    Returns:
        The page, `out / "report.html"`, and the figures in it with their intervals.

    Raises:
        InputError: the folder holds something else, or the disk is full.
    """
    console = Console(stderr=True)
    data, run = out / "data", out / "runs" / "demo"
    config = demo_config(data)
    console.print("1 of 4  simulate needle insertions", highlight=False)
    for part, settings in data_set("demo").items():
        write_clips(settings, data, part)
    console.print("2 of 4  train a detector", highlight=False)
    if not (run / "last.safetensors").is_file():
        train(config, run.parent, resume=run.is_dir())
    console.print("3 of 4  measure it on recordings it never saw", highlight=False)
    result = evaluate(run, data, out=out / "evaluation", split="test")
    console.print("4 of 4  write the page", highlight=False)
    page = write_report(out, run, data, result)
    if show:
        webbrowser.open(page.resolve().as_uri())  # does nothing where there is no browser
    return page, {key: result["intervals"]["figures"][key] for key in _FIGURES.values()}


def demo_config(data: Path) -> Config:
    """The detector of the demo: small enough for a few minutes on two cores."""
    return parse_config(
        {
            "name": "demo",
            "data": {
                "path": str(data),
                "image_size": (128, 128),
                "region": "full",
                "split": {"by_folder": True, "similarity": 1.0},
            },
            "model": {
                "backbone": {"name": "efficientnet_lite0", "pretrained": True},
                "num_queries": 16,
                "points": True,
            },
            "train": {
                "epochs": 20,
                "batch_size": 16,
                "learning_rate": 6e-4,
                "ema_decay": 0.99,
                "validate_epochs": 4,
            },
        },
        "demo",
    )


def write_report(out: Path, run: Path, data: Path, result: dict[str, Any]) -> Path:
    """The page about a demo run."""
    predictor = load(run)
    videos = [video for video in read(data) if video.key.startswith("test/")]
    frames, found = _last_frames(predictor, videos)
    live = _live(predictor, out)
    intervals = result["intervals"]["figures"]
    tip, share = intervals["tip_error_median_mm"], intervals["tip_within_3_mm"]
    labelled = [
        draw_labels(frame.pixels, video.labels[frame.index], video.classes)
        for video, frame in zip(videos[:_SHOWN], frames, strict=False)
    ]
    drawn = [
        draw(frame, detections.above(predictor.threshold), show_outside=True)
        for frame, detections in zip(frames[:_SHOWN], found, strict=False)
    ]
    page = out / "report.html"
    report.write_page(
        page,
        "How well does a small detector find a needle in simulated ultrasound?",
        f"On recordings that it never saw, it finds the tip within 3 mm in "
        f"{_percent(share)} of the frames with a needle; half of the tips that it finds lie "
        f"within {tip['value']:.1f} mm."
        if tip["value"] is not None
        else "It found no needle yet.",
        [
            report.Section(
                "The figures",
                [
                    report.table(
                        ("figure", "value", "95% interval"),
                        [(name, *_cells(intervals[key])) for name, key in _FIGURES.items()],
                        f"{result['figures']['frames']} frames of {len(videos)} simulated "
                        "recordings; intervals by bootstrap over recordings.",
                    ),
                    report.paragraph(
                        "These recordings are simulated. The figures say nothing about patients; "
                        "they show that everything works, and what to look at."
                    ),
                ],
            ),
            report.Section(
                "A new recording, frame by frame",
                [report.video(live, "What the detector finds in a recording made afterwards.")],
            ),
            report.Section(
                "Recordings and what was found",
                [
                    report.picture(grid(labelled, 6), "Test recordings with their exact labels."),
                    report.picture(grid(drawn, 6), "The same frames with what was found."),
                ],
            ),
            report.Section("Training", [_training_chart(run)]),
            report.Section(
                "Go on",
                [
                    report.commands(
                        [
                            f"sonodetr predict {run} simulator:7 --out predictions",
                            "sonodetr simulate look --preview",
                            "sonodetr simulate simulated/needle-small --set needle-small",
                            "sonodetr train configs/needle-small.yaml",
                        ]
                    )
                ],
            ),
        ],
        provenance(0),
    )
    return page


def _last_frames(predictor: Predictor, videos: list[Video]) -> tuple[list[Frame], list[Detections]]:
    """The last frame of every recording, and what is found there at any score."""
    found = detect(predictor, videos, [(row, len(video) - 1) for row, video in enumerate(videos)])
    return [frame_at(video, len(video) - 1) for video in videos], list(found.values())


def _live(predictor: Predictor, out: Path) -> Path:
    """An overlay video of a recording that no data set holds."""
    video = predictor.with_region(open_source("simulator:2026"))
    path = out / "live.mp4"
    rate = video.frame_rate_hz or 10.0
    count = min(len(video), round(_LIVE_SECONDS * rate))
    with overlay_video(path, rate) as write:
        for frame in islice(frames_of(video), count):
            (detections,) = predictor.predict_frames([frame])
            write(replace(frame, region_px=None), detections)
    return path


def _training_chart(run: Path) -> str:
    """Loss and validation AP50 over the steps."""
    steps, ap50 = [], []
    for text in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(text)
        if "validation/AP50" in values:
            steps.append(float(values["step"]))
            ap50.append(values["validation/AP50"])
    return report.line_chart(
        {"validation AP50": (steps, ap50)}, "step", "AP50", "AP50 on the validation recordings."
    )


def _percent(interval: dict[str, float | None]) -> str:
    value = interval["value"]
    return "none" if value is None else f"{100 * value:.0f}%"


def _cells(interval: dict[str, float | None]) -> tuple[str, str]:
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    if value is None:
        return "undefined", ""
    return f"{value:.3f}", "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
