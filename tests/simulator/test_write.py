import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from sonodetr.files import InputError
from sonodetr.formats import open_source, read
from sonodetr.simulator.frames import simulated_video
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig
from sonodetr.simulator.write import write_clips

TINY = SimulatorConfig(clips=3, frames=2, image_size=(64, 80), seed=3)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("written")
    write_clips(TINY, out, "test", workers=1)
    return out


def test_same_files_for_one_worker_and_for_two(written, tmp_path):
    assert write_clips(TINY, tmp_path, "test", workers=2) == tmp_path / "test" / "coco.json"
    assert contents(tmp_path) == contents(written)
    names = {path.as_posix() for path in contents(tmp_path)}
    assert "test/clip-00002/frame-0001.png" in names
    assert not any(".part" in name for name in names)


def test_reader_gives_back_what_was_simulated(written):
    videos = read(written / "test")
    assert len(videos) == 3
    for index, video in enumerate(videos):
        expected = simulated_video(TINY, index, f"test/clip-0000{index}")
        assert (video.key, video.classes) == (expected.key, ("needle",))
        assert video.spacing_mm == expected.spacing_mm
        assert video.region_px == expected.region_px
        np.testing.assert_allclose(video.times_s, expected.times_s, atol=1e-9)
        assert sorted(video.labels) == [0, 1]
        pictures = draw_recording(TINY, index).pictures()
        for frame in range(2):
            assert (video.frames[frame] == pictures[frame]).all()
            found, known = video.labels[frame], expected.labels[frame]
            for name in ("boxes_xyxy_px", "points_px", "classes", "track_ids", "crowd"):
                ours, theirs = getattr(found, name), getattr(known, name)
                np.testing.assert_allclose(ours, theirs, atol=1e-3, err_msg=name)


def test_the_file_says_what_is_known_of_the_instrument(written):
    document = json.loads((written / "test" / "coco.json").read_text())
    assert document["info"]["simulator"] == TINY.model_dump(mode="json")
    assert document["info"]["versions"]["numpy"] == np.__version__
    assert document["categories"] == [
        {"id": 1, "name": "needle", "keypoints": ["tip", "entry"], "skeleton": [[1, 2]]}
    ]
    labels = [label for index in range(3) for label in draw_recording(TINY, index).labels]
    images = dict(zip([image["id"] for image in document["images"]], labels, strict=True))
    assert len(document["annotations"]) == sum(label is not None for label in labels) > 0
    for annotation in document["annotations"]:
        label = images[annotation["image_id"]]
        tip_known = math.isfinite(label.tip_px[0])
        assert annotation["keypoints"][2::3] == [2 if tip_known else 0, 2]
        assert annotation["num_keypoints"] == 1 + tip_known
        for name in ("angle_deg", "visible_mm", "tip_mm", "entry_mm", "tip_contrast_db"):
            found = np.array(annotation[name], float)  # null becomes NaN
            np.testing.assert_allclose(found, getattr(label, name), atol=1e-4, err_msg=name)


def test_kinds_of_instruments_are_the_categories(tmp_path):
    config = TINY.model_copy(update={"instruments": ("catheter", "needle"), "empty": 0.0})
    document = json.loads(write_clips(config, tmp_path, workers=1).read_text())
    assert [category["name"] for category in document["categories"]] == ["catheter", "needle"]
    assert [video["name"] for video in document["videos"]] == [f"clip-0000{i}" for i in range(3)]
    kinds = {draw_recording(config, index).instrument.kind for index in range(3)}
    classes = {
        video.classes[label]
        for video in read(tmp_path)
        for labels in video.labels.values()
        for label in labels.classes
    }
    assert classes == kinds


def test_finished_clips_are_kept(written, tmp_path):
    """Also those beside which a killed process left a half-written one."""
    folder = tmp_path / "test"
    write_clips(TINY, tmp_path, "test", workers=1)
    (folder / "coco.json").unlink()
    for path in (folder / "clip-00001").iterdir():
        path.unlink()
    (folder / "clip-00001").rename(folder / ".clip-00001.part77")
    (folder / ".clip-00001.part77" / "frame-0000.png").write_bytes(b"half")
    kept = (folder / "clip-00000" / "frame-0000.png").stat().st_mtime_ns
    write_clips(TINY, tmp_path, "test", workers=1)
    assert (folder / "clip-00000" / "frame-0000.png").stat().st_mtime_ns == kept
    assert contents(tmp_path) == contents(written)


def test_a_killed_run_goes_on(tmp_path):
    """Its worker processes end with it; what they had finished is kept."""
    config = TINY.model_copy(update={"clips": 400})
    code = (
        "from sonodetr.simulator.settings import SimulatorConfig\n"
        "from sonodetr.simulator.write import write_clips\n"
        "if __name__ == '__main__':\n"
        f"    config = SimulatorConfig.model_validate_json({config.model_dump_json()!r})\n"
        f"    write_clips(config, {str(tmp_path)!r}, workers=1)\n"
    )
    (tmp_path / "run.py").write_text(code)
    process = subprocess.Popen([sys.executable, tmp_path / "run.py"])
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("clip-*"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(1)
    finished = set(tmp_path.glob("clip-*"))
    time.sleep(0.5)
    assert set(tmp_path.glob("clip-*")) == finished
    assert 3 <= len(finished) < 400
    for clip in finished:
        assert len(list(clip.glob("frame-*.png"))) == 2
    with pytest.raises(InputError, match="clips is 400 there, not 3"):
        write_clips(TINY, tmp_path)


def test_another_data_set_in_the_same_folder(written):
    other = TINY.model_copy(update={"seed": 4})
    with pytest.raises(InputError, match=r"holds another simulated data set \(seed is 3 there, no"):
        write_clips(other, written, "test")


@pytest.mark.parametrize("name", ["coco.json", "clip-00000"])
def test_a_folder_of_others(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="holds other recordings or labels"):
        write_clips(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_settings_that_were_damaged(tmp_path):
    (tmp_path / "simulator.yaml").write_text("[")
    with pytest.raises(InputError, match=r"simulator\.yaml: cannot be read"):
        write_clips(TINY, tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot write"):
        write_clips(TINY, tmp_path / "file")


def test_full_disk(tmp_path):
    """One line; clips that were finished stay, nothing half-written does."""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    words = ["simulate", tmp_path / "out", "--clips", "3", "--frames", "2", "--workers", "2"]
    process = subprocess.run(
        [sys.executable, "-m", "sonodetr", *map(str, words)],
        capture_output=True,
        text=True,
        preexec_fn=small_files,
        timeout=120,
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("sonodetr: error: cannot write")
    assert "File too large; free some space" in process.stderr
    assert process.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["simulator.yaml"]


def test_a_clip_is_a_recording(written):
    """Its folder holds the pictures alone, for `sonodetr predict`."""
    video = open_source(written / "test" / "clip-00001")
    assert len(video) == 2
    stored = cv2.imread(str(Path(written / "test/clip-00001/frame-0000.png")), cv2.IMREAD_UNCHANGED)
    assert stored.shape == (64, 80)
    assert (stored == video.frames[0]).all()
