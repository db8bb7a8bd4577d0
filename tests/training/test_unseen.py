"""What validates and tests a run must be new to its teacher and to its first weights."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from stills import write_stills

from sonodetr.bundled import MODELS, model_names
from sonodetr.data.splits import to_json
from sonodetr.files import InputError, read_json, write_json
from sonodetr.formats import read
from sonodetr.training.data import open_data
from sonodetr.training.fit import train
from sonodetr.training.unseen import identities, identity


@pytest.fixture
def begun(tiny, teacher, tmp_path):
    """The folder of a teacher that has trained on what our run trains on, and that run's data."""
    folder, data = Path(teacher()), open_data(tiny())
    write_json(folder / "split.json", to_json(data.videos, data.split))
    write_json(folder / "recordings.json", identities(data.videos, data.split.train))
    return folder, data


def trained_on_a_test_picture(folder, data, name=None):
    """The teacher's first test recording becomes one it has trained on, perhaps by another name."""
    number, _ = data.split.test[0]
    key = data.videos[number].key
    division, known = (read_json(folder / f"{each}.json") for each in ("split", "recordings"))
    division["train"][name or key] = division["test"].pop(key)
    known[name or key] = identity(data.videos[number])
    write_json(folder / "split.json", division)
    write_json(folder / "recordings.json", known)
    return key


@pytest.mark.parametrize("given", ["teacher", "model.weights", "its file"])
@pytest.mark.parametrize("name", [None, "renamed.png"])
def test_what_was_learnt_by_heart_is_refused(tiny, begun, tmp_path, given, name):
    folder, data = begun
    distill = {"teacher": str(folder), "encoder": {"weight": 1.0}}
    weights = folder / "model.safetensors" if given == "its file" else folder
    changes = {"distill": distill} if given == "teacher" else {"model": {"weights": str(weights)}}
    train(tiny(name="divided-alike", train={"epochs": 1}, **changes), tmp_path / "runs")
    key = trained_on_a_test_picture(folder, data, name)
    message = rf"{given.replace('its file', 'model.weights')} .*: was trained on 1 of the 7 frames"
    with pytest.raises(InputError, match=rf"{message} .* {key}:0 for one") as error:
        train(tiny(**changes), tmp_path / "runs")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs/tiny").exists()


def test_a_moved_copy_of_the_data_is_the_same_data(tiny, stills, begun, tmp_path):
    folder, data = begun
    trained_on_a_test_picture(folder, data)
    moved = tmp_path / "moved"
    shutil.copytree(stills.parent, moved)
    config = tiny(
        data={"path": str(moved / stills.name)},
        distill={"teacher": str(folder), "encoder": {"weight": 1.0}},
    )
    with pytest.raises(InputError, match="was trained on 1 of the 7 frames"):
        train(config, tmp_path)


def test_equal_names_of_other_pictures_are_other_recordings(tiny, begun, tmp_path):
    folder, data = begun
    trained_on_a_test_picture(folder, data)
    others = write_stills(tmp_path, seed=7)
    distill = {"teacher": str(folder), "encoder": {"weight": 1.0}}
    train(tiny(data={"path": str(others)}, distill=distill, train={"epochs": 1}), tmp_path / "runs")


def test_without_identities_keys_of_the_same_folder_are_compared(tiny, begun, tmp_path):
    folder, data = begun
    key = trained_on_a_test_picture(folder, data)
    (folder / "recordings.json").unlink()
    distill = {"teacher": str(folder), "encoder": {"weight": 1.0}}
    with pytest.raises(InputError, match=f"trained on 1 of the 7 frames .* {key}:0 for one"):
        train(tiny(distill=distill), tmp_path)


@pytest.mark.parametrize("stored", [[1], {"a": 1}, {"a": []}])
def test_identities_that_are_none_are_refused(tiny, begun, tmp_path, stored):
    folder, _ = begun
    write_json(folder / "recordings.json", stored)
    with pytest.raises(InputError, match=r"recordings\.json: names no recordings"):
        train(tiny(distill={"teacher": str(folder), "encoder": {"weight": 1.0}}), tmp_path)


def test_identity_is_that_of_the_pictures(stills):
    first, second, *_ = read(stills)
    assert identity(first) == identity(replace(first, key="elsewhere"))
    assert len({identity(first), identity(second)}) == 2
    assert all(len(identity(video)) == 32 for video in (first, second))


def test_a_blank_picture_is_no_identity(tmp_path):
    stills = write_stills(tmp_path)
    picture = next(stills.parent.glob("*.png"))
    cv2.imwrite(str(picture), np.zeros_like(cv2.imread(str(picture))))
    found = [identity(video) for video in read(stills)]
    assert sorted(found)[:2] == ["", min(filter(None, found))]


def test_simulated_recordings_are_told_by_their_settings():
    first, again, other = (read(f"simulator:{seed}")[0] for seed in (7, 7, 8))
    assert identity(first) == identity(again) != identity(other)


@pytest.mark.parametrize("name", model_names())
def test_bundled_models_know_what_they_were_trained_on(name):
    division, known = (
        read_json(MODELS / name / f"{each}.json") for each in ("split", "recordings")
    )
    assert list(known) == list(division["train"])
    assert len(set(known.values())) == len(known)
