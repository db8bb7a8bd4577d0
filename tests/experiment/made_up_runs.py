"""Finished runs whose answers are made up from the labels, better or worse as asked for."""

import json
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from sonodetr.config_file import dump_config, parse_config, parse_values
from sonodetr.evaluation import evaluate as evaluation
from sonodetr.experiment import replicates, results
from sonodetr.experiment.plan import Plan
from sonodetr.experiment.results import Row
from sonodetr.files import write_json, write_text
from sonodetr.training.run import RunInfo, provenance, save_info, save_weights
from sonodetr.types import Detections

# The skill of each method, of which seeds differ a little.
SKILLS = {"plain": 0.3, "attention": 0.9, "detections": 0.55, "cells": 0.5}
SEEDS = (0, 1, 2)
AGAIN = "sonodetr experiment made-up.yaml"
TINY = {
    "backbone": {"width": 8, "depths": [1, 1, 1, 1]},
    **{"hidden_dim": 16, "num_heads": 2, "feedforward_dim": 19, "num_queries": 5},
    **{"encoder_layers": 1, "decoder_layers": 1, "points": True},
}


PARTS = {"train": 2, "validation": 3, "test": 11, "shifted": 5}  # part -> recordings
SIDE, FRAMES = 96, 5


def write_needles(folder: Path) -> Path:
    """Recordings of noise, in most of which a bright line grows; with tips, in mm."""
    random = np.random.default_rng(5)
    for part, count in PARTS.items():
        document = {"videos": [], "images": [], "annotations": []}
        document["categories"] = [{"id": 1, "name": "needle", "keypoints": ["tip", "entry"]}]
        for video in range(count):
            name = f"clip{video}"
            (folder / part / name).mkdir(parents=True)
            size = {"width": SIDE, "height": SIDE}
            document["videos"].append(
                {"id": video, "name": name, "fps": 10.0, "length": FRAMES, **size}
                | {"spacing_mm": [0.5, 0.5]}
            )
            begin, along = random.uniform(3, 20, 2), random.uniform(6, 13, 2)
            for frame in range(FRAMES):
                picture = random.integers(0, 90, (SIDE, SIDE)).astype(np.uint8)
                number = len(document["images"])
                file = f"{name}/{frame}.png"
                if video % 5 != 4 and frame:  # every fifth recording and every first frame is empty
                    tip = begin + along * (frame + 1)
                    cv2.line(picture, *(p.astype(int).tolist() for p in (begin, tip)), 230, 2)
                    low, far = begin.tolist(), (tip - begin).tolist()
                    document["annotations"].append(
                        {"id": len(document["annotations"]) + 1, "image_id": number}
                        | {"category_id": 1, "track_id": 1, "iscrowd": 0, "bbox": [*low, *far]}
                        | {"area": far[0] * far[1], "num_keypoints": 2}
                        | {"keypoints": [*tip.tolist(), 2, *begin.tolist(), 2]}
                    )
                document["images"].append(
                    {"id": number, "file_name": file, "video_id": video, "frame_id": frame, **size}
                )
                cv2.imwrite(str(folder / part / file), picture)
        (folder / part / "coco.json").write_text(json.dumps(document))
    return folder


def write_run(folder: Path, recordings: Path, skill: float, *, seed: int = 0, **changes) -> Path:
    """A run folder with a random network; `answers` makes it as good as `skill` (0 to 1) says."""
    import torch

    from sonodetr.model.detr import DETR

    values = {
        "name": folder.name,
        "seed": seed,
        "data": {
            "path": str(recordings),
            "image_size": [64, 64],
            "region": "full",
            "split": {"by_folder": True, "similarity": 1.0},
        }
        | changes.pop("data", {}),
        "model": TINY | changes.pop("model", {}),
        **changes,
    }
    config = parse_config(values)
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", dump_config(config))
    torch.manual_seed(zlib.crc32(folder.name.encode()))
    save_weights(folder / "model.safetensors", DETR(config.model, 1).state_dict())
    save_weights(folder / "last.safetensors", {"none": torch.zeros(1)})
    facts = RunInfo(
        classes=("needle",),
        threshold=0.5,
        step=90,
        validation={"ap": round(0.6 * skill, 4)},
        provenance=provenance(seed),
    )
    save_info(folder, facts)
    write_json(folder / "split.json", division(recordings))
    write_json(folder / "skill.json", skill)
    random = np.random.default_rng(zlib.crc32(folder.name.encode()))
    lines = [{"step": 10, "epoch": 1.0, "train/loss": 3.0}]
    for step in range(15, 91, 15):
        ap = 0.6 * skill * (1 - np.exp(-step / 30)) + random.normal(0, 0.006)
        lines.append({"step": step, "validation/AP": max(0.0, float(ap))})
        if "attention" in folder.name:
            lines[-1]["validation/distill_encoder"] = 15 / step
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return folder


def division(data: Path) -> dict[str, dict[str, list[int]]]:
    from sonodetr.formats import read

    parts = {"train": {}, "validation": {}, "test": {}}
    for video in read(data):
        parts[video.key.partition("/")[0]][video.key] = sorted(video.labels)
    return parts


@contextmanager
def made_up_answers(monkeypatch):
    """Evaluations ask nobody: what a run says follows from its skill, the labels and its name."""

    def load(model):
        skill = json.loads((Path(model) / "skill.json").read_text())
        interface = SimpleNamespace(clip_frames=1, classes=("needle",))
        return SimpleNamespace(
            name=Path(model).name, skill=skill, interface=interface, threshold=0.5
        )

    def detect(predictor, videos, frames, **_):
        return {
            (videos[video].key, frame): made_up(
                videos[video], frame, predictor.skill, predictor.name
            )
            for video, frame in frames
        }

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "load", load)
        patch.setattr(evaluation, "detect", detect)
        patch.setattr(evaluation, "RESAMPLES", 20)
        patch.setattr(results, "RESAMPLES", 999)
        made_by = {"git_revision": "none", "versions": {"sonodetr": "0"}}
        patch.setattr(results, "provenance", lambda seed: {"seed": seed} | made_by)
        patch.setattr(replicates, "_FEWER", 199)
        patch.setattr(evaluation, "plot_precision_recall", lambda *_: None)
        yield


def made_up(video, frame: int, skill: float, name: str) -> Detections:
    """Labelled needles, displaced; some are missed, and some detections are wrong."""
    random = np.random.default_rng(zlib.crc32(f"{name} {video.key} {frame}".encode()))
    hard = np.random.default_rng(zlib.crc32(video.key.encode())).random()  # for all runs alike
    labels, size = video.labels[frame], np.array(video.frames.size[::-1])
    boxes, points, scores = [], [], []
    for box, line in zip(labels.boxes_xyxy_px, labels.points_px, strict=True):
        if random.random() < 0.25 + 0.9 * skill - 0.5 * hard:
            spread = size.max() * (0.004 + 0.02 * (1 - skill) * (0.5 + hard))
            boxes.append(box + random.normal(0, spread, 4))
            points.append(line + random.normal(0, spread, (2, 2)))
            scores.append(random.uniform(0.3, 1))
    for _ in range(random.poisson(0.6)):
        corner = random.uniform(0, 0.6, 2) * size
        boxes.append([*corner, *(corner + random.uniform(0.1, 0.4, 2) * size)])
        points.append([corner, corner + 20])
        scores.append(random.uniform(0, 0.8 - 0.3 * skill))
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    order = np.argsort(-np.array(scores), kind="stable")
    return Detections(
        boxes[order],
        np.array(scores, np.float32)[order],
        np.zeros(len(order), np.int64),
        ("needle",),
        np.array(points, np.float32).reshape(-1, 2, 2)[order],
        frame_index=frame,
    )


def finished(folder: Path, recordings: Path) -> tuple[Plan, list[Row]]:
    """A made-up experiment, all trained: two kinds of queries, few labels, one teacher."""
    student = folder / "student.yaml"
    write_text(student, f"data: {{path: {recordings}}}\n")
    taught = {"teacher": "2D", "queries": ["anchor"]}
    few = {"changes": {"data.labelled": 0.1}, "queries": ["anchor"]}
    plan = {
        "name": "made-up",
        "question": "Does attention <b> help?",
        "student": str(student),
        "teachers": {"2D": {"run": "2D"}, "another library's": {"run": "none"}},
        "queries": {"anchor": {}, "learned": {"model.queries": "learned"}},
        "methods": {
            "plain": {},
            "attention": {"teacher": "2D", "tune": {"distill.encoder.weight": [1, 3]}},
            "detections": taught,
            "cells": taught,
            "plain, 10% of labels": few | {"against": ["plain"]},
            "attention, 10% of labels": taught
            | few
            | {"takes": ["attention"], "against": ["plain, 10% of labels"]},
        },
        "baseline": "plain",
        "strongest": ["cells", "detections"],
        "seeds": SEEDS,
        "test": {"standard": "test", "shifted": "shifted"},
    }
    plan = parse_values(Plan, plan, "made-up")
    teacher = write_run(folder / "runs" / "teacher", recordings, 0.97, model={"hidden_dim": 32})

    def row(queries, method, skill):
        about = plan.methods[method]
        changes = {}
        if about.teacher:
            changes["distill"] = {"teacher": str(teacher), "encoder": {"weight": 1.0}}
        if about.changes:
            changes["data"] = {"labelled": 0.1}
        if queries == "learned":
            changes["model"] = {"queries": "learned", "classification": "softmax"}
        runs = tuple(
            write_run(
                folder / "runs" / f"{queries}-{method}-{seed}".translate({32: "-", 37: "", 44: ""}),
                recordings,
                skill + 0.01 * (seed - 1),
                seed=seed,
                **{key: dict(value) for key, value in changes.items()},
            )
            for seed in SEEDS
        )
        tuned = {"distill.encoder.weight": 3} if method != "plain" else {}
        return Row(queries, method, runs, tuned)

    return plan, [
        Row(None, "2D", (teacher,)),
        *(row("anchor", name, skill) for name, skill in SKILLS.items()),
        row("anchor", "plain, 10% of labels", 0.15),
        row("anchor", "attention, 10% of labels", 0.4),
        row("learned", "plain", 0.3),
        row("learned", "attention", 0.32),
    ]
