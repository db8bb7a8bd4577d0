"""The pictures of an experiment's report: what teacher and students look at, and what goes wrong.

They are drawn from the run folders and the data; where these are gone, the report says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from sonodetr import report
from sonodetr.config import AttentionTermConfig, DistillConfig
from sonodetr.config_file import config_from_run
from sonodetr.data.clips import ClipDataset, collate
from sonodetr.distill.targets import align, student_maps, teacher_targets
from sonodetr.draw import Picture, Sheet, grid
from sonodetr.evaluation.evaluate import detect
from sonodetr.evaluation.kept import Kept, read_kept
from sonodetr.experiment.charts import recording_gains
from sonodetr.experiment.measure import part_path
from sonodetr.experiment.story import (
    Results,
    compared_rows,
    find_row,
    headline,
    main_test,
    name_of,
    signed,
)
from sonodetr.files import InputError
from sonodetr.formats import read
from sonodetr.model.tensors import Batch, Grid
from sonodetr.predictor import load
from sonodetr.training.attention_pictures import cell_of, enlarged, heat
from sonodetr.training.pictures import draw_found
from sonodetr.training.run import load_run
from sonodetr.training.start import common_clip
from sonodetr.training.teachers import open_teacher
from sonodetr.types import Video

_FRAMES = 4  # of a recording
_FAILURES = 6
_HEAD_PX = 30


def attention_parts(results: Results, runs: Path) -> list[str]:
    """Teacher's and students' attention through the recordings that gain most and least.

    The names of runs are relative to the folder `runs`.

    Raises:
        InputError: a run or the data is gone.
    """
    best = _taught(results)
    gains = recording_gains(results, best) if best else {}
    if best is None or not gains:
        return [report.paragraph("No method with a teacher was compared with the baseline.")]
    row, plain = compared_rows(results, best)
    teacher = runs / find_row(results, None, row["teacher"])["runs"][0]
    students = {each["method"]: runs / each["runs"][0] for each in (plain, row)}
    videos = _videos(results, teacher)
    intro = (
        "What the token in the middle of the labelled box looks at, in the last pair of encoder "
        "layers that are compared, all heads averaged. All maps of a line are on one scale, "
        "brightest where the teacher looks most."
    )
    made = [report.paragraph(intro)]
    for end, pick in (("gains most", max), ("gains least", min)):
        key = pick(gains, key=lambda key: gains[key])
        caption = (
            f"{key}, which {end} ({signed(gains[key])} AP): the frame, then the attention of the "
            f"teacher {row['teacher']}, of {plain['method']} and of {name_of(results, row)}; "
            "frames in order, first seed."
        )
        sheet = _attention_sheet(teacher, students, videos[key])
        made.append(report.picture(sheet, caption, lossless=False))
    return made


def failure_parts(results: Results, runs: Path) -> list[str]:
    """The frames in which the best method is most wrong, each from another recording.

    The names of runs are relative to the folder `runs`.

    Raises:
        InputError: the run or the data is gone.
    """
    best = headline(results)
    if best is None:
        return [report.paragraph("Nothing was compared with the baseline.")]
    row, _ = compared_rows(results, best)
    run, part = runs / row["runs"][0], results["tests"][0]["part"]
    worst = worst_frames(read_kept(run / f"evaluation-{part}" / "matches.npz"), _FAILURES)
    if not worst:
        return [report.paragraph("There are none: no object is missed, and nothing invented.")]
    by_key = _videos(results, run)
    videos = [by_key[key] for key, _, _ in worst]
    places = [(number, frame) for number, (_, frame, _) in enumerate(worst)]
    predictor = load(run)
    found = detect(predictor, videos, places)
    sheet = draw_found(videos, places, found, predictor.threshold)
    said = "; ".join(f"{key} frame {frame}: {what}" for key, frame, what in worst)
    caption = (
        f"Labels left, {name_of(results, row)} right (first seed, at its threshold of "
        f"{predictor.threshold:.2f}). {said}."
    )
    return [report.picture(sheet, caption, lossless=False)]


def worst_frames(kept: Kept, count: int) -> list[tuple[str, int, str]]:
    """Recording, frame and what is wrong there, the worst first, one a recording.

    What counts is the number of objects that no detection finds at the model's threshold and an IoU
    of 0.5, and of detections that find none; of equals, the surest wrong detection is worst.
    """
    matches = kept.matches
    frames = len(kept.recording)
    sure = matches.scores >= kept.threshold
    found = np.bincount(matches.frame[sure & matches.found[0]], minlength=frames)
    bad = sure & ~matches.found[0] & ~matches.ignored[0]
    wrong = np.bincount(matches.frame[bad], minlength=frames)
    missed = matches.objects.sum(1) - found
    surest = np.zeros(frames)
    np.maximum.at(surest, matches.frame[bad], matches.scores[bad])
    worst: dict[str, tuple[str, int, str]] = {}
    for number in np.lexsort((-surest, -(missed + wrong))).tolist():
        key = str(kept.recording[number])
        counts = {"missed": missed[number], "wrong": wrong[number]}
        what = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        if what and key not in worst:
            worst[key] = key, int(kept.frame_index[number]), what
    return list(worst.values())[:count]


def _taught(results: Results) -> Mapping[str, Any] | None:
    """The headline if it has a measured teacher, else the first comparison that has one."""
    measured = {row["method"] for row in results["rows"] if row["queries"] is None}
    best, compared = headline(results), results["comparisons"][main_test(results)]
    candidates = (
        each
        for each in ([best] if best else []) + compared
        if each["against"] == results["baseline"]
        and compared_rows(results, each)[0]["teacher"] in measured
    )
    return next(candidates, None)


def _videos(results: Results, run: Path) -> dict[str, Video]:
    """The recordings of the main test part, by key; read as those that the run was trained on."""
    path, data = part_path(results["data"], results["tests"][0]["part"]), config_from_run(run).data
    images = data.images if path == data.path else ""
    return {v.key: v for v in read(path, images=images, on_bad_label=data.on_bad_label)}


def _attention_sheet(teacher: Path, students: Mapping[str, Path], video: Video) -> Picture:
    """A line a frame: the frame, and the attention of the teacher and of each student."""
    shown = [frame for frame in sorted(video.labels) if not video.labels[frame].crowd.all()]
    places = np.unique(np.linspace(0, len(shown) - 1, min(_FRAMES, len(shown)), dtype=int))
    seen = [
        _maps(teacher, run, video, [shown[place] for place in places]) for run in students.values()
    ]
    pictures: list[Picture] = []
    for number, target in enumerate(seen[0][0].targets):
        if not len(target.boxes_cxcywh):
            continue  # what is labelled lies outside of what the models see
        box = target.boxes_cxcywh[0]
        for student, (batch, maps, tokens) in enumerate(seen):
            picture = enlarged(batch.images[number, :, -1])
            taught, own = (each[number, cell_of(box, tokens)] for each in maps)
            if student == 0:
                pictures += [_marked(picture, box), heat(picture, taught / taught.max(), tokens)]
            pictures.append(heat(picture, own / taught.max(), tokens))
    if not pictures:
        raise InputError(f"{video.key}: its labels lie outside of what the models see")
    return _headed(grid(pictures, columns=2 + len(students)), ["frame", "teacher", *students])


@torch.no_grad()
def _maps(
    teacher_run: Path, run: Path, video: Video, frames: Sequence[int]
) -> tuple[Batch, tuple[Tensor, Tensor], Grid]:
    """Clips, `[clips, tokens, tokens]` attention of teacher and student, and the common grid."""
    student, config, info = load_run(run)
    teacher = open_teacher(teacher_run)
    terms = config.distill
    if not (terms.teacher and terms.encoder.weight):
        terms = DistillConfig(encoder=AttentionTermConfig(weight=1.0))
    alone = DistillConfig(encoder=terms.encoder, heads=terms.heads, time=terms.time)
    config = config.model_copy(update={"distill": alone})
    clip = common_clip(config.data, teacher, len(video))
    clips = ClipDataset([video], [(0, frame) for frame in frames], clip)
    batch = collate([clips[number] for number in range(len(clips))])
    alignment = align(config, student, info.classes, teacher, batch.images[:1])
    name = alignment.names[-1]
    targets = teacher_targets(teacher(batch.images, alignment.teacher_capture), alignment)
    seen = batch.images[:, :, -config.data.clip_frames :]
    maps = student_maps(student(seen, alignment.student_capture), alignment)
    return batch, (targets[name].mean(1), maps[name].mean(1)), alignment.grid


def _marked(picture: Picture, box_cxcywh: Tensor) -> Picture:
    """With a cross where the asking token lies."""
    centre = (box_cxcywh[:2].numpy() * picture.shape[1::-1]).round().astype(int).tolist()
    return cv2.drawMarker(picture.copy(), centre, (230, 159, 0), cv2.MARKER_CROSS, 18, 2)


def _headed(sheet: Sheet, texts: Sequence[str]) -> Picture:
    """With a line of text above the columns."""
    head = np.zeros((_HEAD_PX, sheet.shape[1], 3), np.uint8)
    for column, text in enumerate(texts):
        place = 6 + column * sheet.shape[1] // len(texts), _HEAD_PX - 9
        plain = text.encode("ascii", "replace").decode()  # OpenCV's fonts know no more
        cv2.putText(head, plain, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255,) * 3, 1, cv2.LINE_AA)
    return np.concatenate((head, sheet))
