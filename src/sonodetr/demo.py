"""The whole story on simulated data in minutes: a teacher, two students, what the teacher gave."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from sonodetr import report
from sonodetr.benchmark.machine import cores
from sonodetr.contract import CONTRACT, read_contract, sha256
from sonodetr.experiment.finish import trained_rows
from sonodetr.experiment.plan import Changes, MethodPlan, Plan, TeacherPlan
from sonodetr.experiment.pool import train_all
from sonodetr.experiment.report import write_report
from sonodetr.experiment.results import collect
from sonodetr.experiment.work import Experiment
from sonodetr.export.convert import export_model
from sonodetr.formats import open_source
from sonodetr.predictor import load
from sonodetr.simulator.datasets import data_set
from sonodetr.simulator.write import write_clips
from sonodetr.sinks import overlay_video
from sonodetr.training.run import WEIGHTS
from sonodetr.types import frames_of

BUNDLED = "nano"
NEW_RECORDING = "simulator:2026"  # held by no data set
_SECONDS = 6  # of it in the page


def run_demo(out: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Simulate, train, compare, export, write the page; go on where an earlier call was stopped.

    Args:
        out: folder for everything.

    Returns:
        The page, `out / "report.html"`, and the comparisons in it as docs/experiment.md names them.

    Raises:
        InputError: the folder holds something else, or the disk is full.
    """
    console = Console(stderr=True, highlight=False)
    data, runs, exported = out / "data", out / "runs", out / "exported"
    console.print("1 of 4  simulate needle insertions")
    for part, settings in data_set("demo").items():
        write_clips(settings, data, part)
    console.print("2 of 4  train a teacher, a student without it, and a student with it")
    plan = demo_plan(data)
    workers = min(2, cores())  # two models this small train faster side by side than in turn
    train_all(plan, runs, workers, threads=max(1, cores() // workers))
    console.print("3 of 4  measure them on recordings that none of them has seen")
    rows = trained_rows(Experiment(plan, runs))
    results = collect(plan, rows, out, "sonodetr demo")
    console.print("4 of 4  export the student, write the page")
    student = rows[-1].runs[0]
    if not _is_of(exported, student):
        export_model(student, exported)
    page = write_report(results, out, [_new_recording(out), _go_on(student, exported)])
    return page, results["comparisons"]["standard"]


def _is_of(exported: Path, run: Path) -> bool:
    """Whether the export is there, and of the weights that the run has now."""
    made = (exported / CONTRACT).is_file()
    return made and read_contract(exported).weights_sha256 == sha256(run / WEIGHTS)


def demo_plan(data: Path) -> Plan:
    """The experiment: presets on small pictures, trained for a few minutes on two cores.

    The teacher goes on from a bundled model: from random weights it would take most of the time.
    """
    common: Changes = {
        "data.path": str(data),
        "data.image_size": [128, 128],
        "data.region": "full",
        "data.split.by_folder": True,
        "data.split.similarity": 1.0,
        "model.points": True,
        "model.num_queries": 16,
    }
    return Plan(
        name="demo",
        question="Does a teacher help a small student to find a needle in simulated ultrasound?",
        student="tiny",
        changes=common
        | {"train.epochs": 10, "train.validate_epochs": 5, "train.learning_rate": 2e-3},
        teachers={
            "tiny": TeacherPlan(
                config="tiny",
                changes=common
                | {
                    "model.weights": "tiny",
                    "train.epochs": 3,
                    "train.validate_epochs": 3,
                    "train.learning_rate": 7e-4,
                },
            )
        },
        # Of the teacher it learns what the preset says.
        methods={"plain": MethodPlan(), "distilled": MethodPlan(teacher="tiny")},
        baseline="plain",
        seeds=(0,),
    )


def _new_recording(out: Path) -> report.Section:
    """What the bundled model finds in a recording that no data set holds."""
    predictor = load(BUNDLED)
    video = predictor.with_region(open_source(NEW_RECORDING))
    path = out / "live.mp4"
    rate = video.frame_rate_hz or 10.0
    count = min(len(video), round(_SECONDS * rate))
    with overlay_video(path, rate) as write:
        for frame in islice(frames_of(video), count):
            (detections,) = predictor.predict_frames([frame])
            write(replace(frame, region_px=None), detections)
    caption = f"What {BUNDLED}, which comes with the package, finds in a recording made just now."
    return report.Section("A new recording", [report.video(path, caption)])


def _go_on(student: Path, exported: Path) -> report.Section:
    """Commands to try next."""
    lines = [
        f"sonodetr live {exported} {NEW_RECORDING}",
        f"sonodetr predict {student} {NEW_RECORDING} --out predictions",
        "sonodetr simulate look --preview",
        "sonodetr simulate simulated/needle-small --set needle-small",
        "sonodetr experiment configs/experiments/paper.yaml --list",
    ]
    return report.Section("Go on", [report.commands(lines)])
