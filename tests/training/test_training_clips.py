"""Training on clips of recordings, from the data to the run folder."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from sonodetr.evaluation.evaluate import detect
from sonodetr.files import InputError
from sonodetr.formats import read
from sonodetr.model.weights import read_safetensors
from sonodetr.predictor import load
from sonodetr.training.data import load_batches, open_data
from sonodetr.training.distillation import Distillation
from sonodetr.training.fit import train
from sonodetr.training.start import start_accelerator, start_model, start_task
from sonodetr.training.teacher_targets import filled_cache

FRAMES = 7


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Five recordings of seven frames whose brightness tells the frame."""
    folder = tmp_path_factory.mktemp("recordings")
    document = {"images": [], "annotations": [], "videos": []}
    document["categories"] = [{"id": 1, "name": "nerve"}]
    random = np.random.default_rng(5)
    for number in range(5 * FRAMES):
        video, frame = divmod(number, FRAMES)
        name = f"{video}-{frame}.png"
        picture = random.integers(10 * frame, 10 * frame + 3, (61, 67)).astype(np.uint8)
        picture[5 + 3 * frame : 22 + 3 * frame, 7 * video : 7 * video + 19] += 100
        cv2.imwrite(str(folder / name), picture)
        place = {"video_id": video, "frame_id": frame}
        document["images"].append({"id": number, "file_name": name, **place})
        box = {"bbox": [7 * video, 5 + 3 * frame, 19, 17], "area": 323}
        document["annotations"].append({"id": number, "image_id": number, "category_id": 1, **box})
    document["videos"] = [{"id": number, "name": f"clip{number}", "fps": 10} for number in range(5)]
    path = folder / "coco.json"
    path.write_text(json.dumps(document))
    return path


def clips(recordings, frames=3, step=2, **backbone):
    data = {"path": str(recordings), "clip_frames": frames, "clip_step": step, "region": "full"}
    shape = {"width": 8, "depths": [1, 1, 1, 1], **backbone}
    return {"data": data, "model": {"backbone": shape}}


def test_batches_are_clips_that_end_at_the_labelled_frame(recordings, tiny):
    still = {"zoom": 1, "shift": 0, "rotate_deg": 0, "stretch": 1, "gain": 0, "gain_curve": 0}
    still |= {"dynamic_range": 1, "speckle": 0, "shadow": 0, "flip": 0}
    values = clips(recordings)
    values["data"]["augment"] = still
    data = open_data(tiny(**values))
    batch = next(load_batches(data.training(), data.training_order(0, 0, 1), 0))
    assert batch.images.shape == (2, 1, 3, 64, 64)
    background = (batch.images[:, 0, :, 60, 60] * 255).round() // 10
    for source, shown in zip(batch.sources, background.tolist(), strict=True):
        now = source.frame_index
        assert shown == [max(0, now - 4), max(0, now - 2), now]


@pytest.mark.parametrize("temporal", ["none", "mixing", "factorised"])
def test_a_run_on_clips(temporal, recordings, tiny, tmp_path):
    config = tiny(**clips(recordings, temporal=temporal), train={"epochs": 2})
    run = train(config, tmp_path)
    assert (run / "batch.png").is_file()
    assert (run / "validation.png").is_file()
    learnt = [
        name
        for name, tensor in read_safetensors(run / "last.safetensors").items()
        if name.endswith("expand.weight") and tensor.dim() == 4 and tensor.any()
    ]
    assert len(learnt) == {"none": 0, "mixing": 1, "factorised": 4}[temporal]
    predictor, videos = load(run), read(recordings)
    found = detect(predictor, videos, [(2, 4)])["clip2", 4]
    streamed = list(predictor.predict(videos[2], threshold=0.0))[4]
    np.testing.assert_array_equal(found.scores, streamed.scores)
    np.testing.assert_array_equal(found.boxes_xyxy_px, streamed.boxes_xyxy_px)


def test_clips_may_be_as_long_as_the_longest_recording(recordings, tiny):
    assert len(open_data(tiny(**clips(recordings, frames=4, step=2))).videos) == 5
    message = (
        r"clip_frames 5 at data.clip_step 2 reach back 8 frames, but the longest recording in .* "
        "has 7; set data.clip_frames=4 or less, or a smaller data.clip_step"
    )
    with pytest.raises(InputError, match=message) as error:
        open_data(tiny(**clips(recordings, frames=5, step=2)))
    assert "\n" not in str(error.value)


def test_a_teacher_of_clips_and_a_student_of_stills(recordings, tiny, teacher, tmp_path):
    """The past reaches the teacher alone, also through the cache."""
    clip = clips(recordings)["data"]
    path = teacher(classes=("nerve",), data=clip)
    distill = {"teacher": path, "cache": str(tmp_path / "cache"), "unlabelled_batch": 3}
    for name in ("encoder", "decoder", "cross", "detections", "memory"):
        distill[name] = {"weight": 1.0, "until": 0.5 if name == "encoder" else 0.0}
    stills = clip | {"clip_frames": 1, "clip_step": 1, "labelled": 0.5, "augment": {"views": 2}}
    config = tiny(data=stills, distill=distill, train={"epochs": 2})
    data = open_data(config)
    model, _ = start_model(config, data.class_names, resume=False)
    task = start_task(config, data, model, start_accelerator("no"))
    assert isinstance(task, Distillation)
    batch = next(load_batches(data.training(task.clip), data.training_order(0, 0, 1), 0))
    assert batch.images.shape == (5, 1, 3, 64, 64)
    targets = task.targets(batch)
    assert targets["encoder_0"].shape == (5, 2, 16, 16)
    assert targets["encoder_0_mass"].shape == (5, 2, 16)
    assert bool((targets["encoder_0_mass"] < 1).all())
    model.eval()
    for time, student_changes in ((0, False), (2, True)):
        images = batch.images.clone()
        images[:, :, time] = 1 - images[:, :, time]
        other = replace(batch, images=images)
        theirs = task.targets(other)
        assert not torch.allclose(theirs["scores"], targets["scores"], rtol=1e-4)
        before, after = (task.maps(each, targets)["encoder_0"] for each in (batch, other))
        assert torch.equal(before, after) != student_changes
    task.cache = filled_cache(data, task)
    for name, stored in task.targets(batch).items():
        torch.testing.assert_close(stored, targets[name], rtol=1e-3, atol=1e-5, msg=name)
    run = train(config, tmp_path)
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert entries[-1]["validation/distill_encoder"] > 0
    assert (run / "attention").is_dir()
