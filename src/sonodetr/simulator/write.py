"""Simulated clips on disk: lossless pictures and COCO-video labels, all cores, resumable."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from sonodetr import __version__
from sonodetr.config_file import NOT_YAML
from sonodetr.files import InputError, existing_file, read_json, write_text
from sonodetr.progress import progress_bar
from sonodetr.simulator.frames import TRACK_ID, clip_name
from sonodetr.simulator.labels import InstrumentLabel
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig

LABELS = "coco.json"
SETTINGS = "simulator.yaml"
_CLIP_LABELS = ".labels.json"  # hidden, so that a clip's folder holds nothing but its pictures


def write_clips(
    config: SimulatorConfig, out: str | os.PathLike[str], part: str = "", workers: int = 0
) -> Path:
    """Write a data set: `clip-00012/frame-0003.png` and `coco.json`, in `out` or in `out/part`.

    Clips that are there already are kept, so that an interrupted run goes on where it stopped. The
    files are the same whatever the number of processes.

    Args:
        config: what to simulate.
        out: the folder.
        part: folder below it, which also begins the key of every recording (`test/clip-00012`).
        workers: processes; 0 is one for each processor core.

    Returns:
        The path of `coco.json`, which is written last.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    folder = Path(out) / part
    claim_folder(folder, config)
    todo = [index for index in range(config.clips) if not (folder / clip_name(index)).is_dir()]
    _write_all(config, folder, todo, workers or os.cpu_count() or 1)
    write_text(folder / LABELS, json.dumps(_document(config, folder, part), allow_nan=False))
    return folder / LABELS


def check_folder(folder: Path, config: SimulatorConfig) -> None:
    """Check, before anything is written, that `folder` holds nothing else than this data set.

    Raises:
        InputError: it does.
    """
    if (folder / SETTINGS).is_file():
        there, asked = _read_settings(folder / SETTINGS), _settings(config)
        other = [name for name in asked if there.get(name) != asked[name]]
        if other:
            name = other[0]
            raise InputError(
                f"{folder}: holds another simulated data set ({name} is {there.get(name)} there, "
                f"not {asked[name]}); give the same options to go on, or choose another folder"
            )
    elif folder.is_dir() and any(
        path.suffix == ".json" or path.name.startswith("clip-") for path in folder.iterdir()
    ):
        raise InputError(f"{folder}: holds other recordings or labels; choose another folder")


def claim_folder(folder: Path, config: SimulatorConfig) -> None:
    """Note in `folder` what it is to hold, and remove what a killed process was writing.

    Raises:
        InputError: it holds something else, or cannot be written.
    """
    check_folder(folder, config)
    if not (folder / SETTINGS).is_file():
        write_text(folder / SETTINGS, yaml.safe_dump(_settings(config), sort_keys=False))
    for path in folder.glob(".clip-*.part*"):
        shutil.rmtree(path, ignore_errors=True)


def _settings(config: SimulatorConfig) -> dict[str, Any]:
    """What a data set depends on."""
    return {"sonodetr": __version__} | config.model_dump(mode="json")


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(existing_file(path).read_text(encoding="utf-8"))
    except NOT_YAML as error:
        if isinstance(error, InputError):
            raise
        values = None
    if not isinstance(values, dict):
        raise InputError(f"{path}: cannot be read; restore it, or choose another folder")
    return values


def _write_all(config: SimulatorConfig, folder: Path, todo: list[int], workers: int) -> None:
    if not todo:
        return
    # Started anew, not forked: torch must not have been used before it is told of one thread.
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), multiprocessing.get_context("spawn"), initializer=_prepare
    )
    try:
        with _interrupts_ignored():
            futures: list[Future[None]] = [
                pool.submit(_write_clip, config, index, folder) for index in todo
            ]
        with progress_bar("simulate", len(todo), "clips") as advance:
            for future in as_completed(futures):
                future.result()
                advance()
    except BrokenProcessPool:
        raise InputError(
            "a process that simulates was killed, most often for lack of memory; "
            "lower --workers and start again, finished clips are kept"
        ) from None
    finally:  # what has begun is finished, also after Ctrl-C
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C: this one ends them."""
    if threading.current_thread() is not threading.main_thread():  # which alone sees Ctrl-C
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _prepare() -> None:
    """Once in every process that simulates."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_clip(config: SimulatorConfig, index: int, folder: Path) -> None:
    """One clip, whole or not at all."""
    final = folder / clip_name(index)
    part = folder / f".{final.name}.part{os.getpid()}"
    recording = draw_recording(config, index)
    pictures = recording.pictures()
    height, width = config.image_size
    about = {
        "width": width,
        "height": height,
        "fps": config.frame_rate_hz or recording.scanner.frame_rate_hz,
        "length": config.frames,
        "spacing_mm": list(recording.spacing_mm),
        "region_px": list(recording.layout.rectangle_px),
    }
    kind = recording.instrument.kind if recording.instrument is not None else ""
    frames = [None if label is None else _annotation(label, kind) for label in recording.labels]
    try:
        part.mkdir()
        for frame, picture in enumerate(pictures):
            (part / _frame_name(frame)).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        text = json.dumps({"video": about, "annotations": frames}, allow_nan=False)
        (part / _CLIP_LABELS).write_text(text, encoding="utf-8")
        part.replace(final)
    except OSError as error:
        raise InputError(
            f"cannot write {final}: {error.strerror or error}; free some space or choose another "
            "folder; finished clips are kept"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _frame_name(frame: int) -> str:
    return f"frame-{frame:04d}.png"


def _annotation(label: InstrumentLabel, kind: str) -> dict[str, Any]:
    """A label in COCO's terms; what is not known is null."""
    left, top, right, bottom = label.box_xyxy_px.tolist()
    keypoints: list[float] = []
    for point in (label.tip_px, label.entry_px):
        known = bool(np.isfinite(point).all())
        keypoints += [*np.where(known, point, 0.0).round(4).tolist(), 2 if known else 0]
    return {
        "category": kind,
        "bbox": [round(value, 4) for value in (left, top, right - left, bottom - top)],
        "area": round((right - left) * (bottom - top), 4),
        "keypoints": keypoints,
        "num_keypoints": sum(visibility > 0 for visibility in keypoints[2::3]),
        "angle_deg": _known(label.angle_deg),
        "visible_mm": _known(label.visible_mm),
        "tip_mm": [_known(value) for value in label.tip_mm.tolist()],
        "entry_mm": [_known(value) for value in label.entry_mm.tolist()],
        "tip_contrast_db": _known(label.tip_contrast_db),
        "shaft_contrast_db": _known(label.shaft_contrast_db),
    }


def _known(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _document(config: SimulatorConfig, folder: Path, part: str) -> dict[str, Any]:
    """The COCO-video file, from the labels of all clips."""
    videos: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories = {name: number for number, name in enumerate(config.instruments, 1)}
    for index in range(config.clips):
        name = clip_name(index)
        labels = read_json(folder / name / _CLIP_LABELS)
        key = f"{part}/{name}" if part else name
        video = {"id": index + 1, "name": key, **labels["video"]}
        videos.append(video)
        for frame, annotation in enumerate(labels["annotations"]):
            image = {
                "id": len(images) + 1,
                "file_name": f"{name}/{_frame_name(frame)}",
                "width": video["width"],
                "height": video["height"],
                "video_id": video["id"],
                "frame_id": frame,
                "time_s": round(frame / video["fps"], 6),
            }
            images.append(image)
            if annotation is not None:
                ids = {"id": len(annotations) + 1, "image_id": image["id"]}
                kind = {"category_id": categories[annotation.pop("category")]}
                track = {"track_id": TRACK_ID, "iscrowd": 0}
                annotations.append(ids | kind | track | annotation)
    return {
        "info": {
            "description": "ultrasound simulated by SonoDETR",
            "simulator": config.model_dump(mode="json"),
            "versions": {
                "sonodetr": __version__,
                "torch": str(torch.__version__),
                "numpy": np.__version__,
                "opencv": cv2.__version__,
            },
        },
        "videos": videos,
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "keypoints": ["tip", "entry"], "skeleton": [[1, 2]]}
            for name, number in categories.items()
        ],
    }
