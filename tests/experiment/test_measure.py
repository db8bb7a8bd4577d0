import json
import shutil

import numpy as np
import pytest
from made_up_runs import write_run

from sonodetr.config import DataConfig
from sonodetr.experiment import measure as module
from sonodetr.experiment.address import data_address
from sonodetr.experiment.measure import MEASURED, evaluation, measure
from sonodetr.files import InputError


@pytest.fixture
def run(tmp_path, needles):
    return write_run(tmp_path / "run", needles, 0.5)


def of(folder, **options):
    return DataConfig(path=str(folder), **options)


@pytest.fixture
def calls(monkeypatch):
    """Arguments of every evaluation that is made."""
    made, whole = [], module.evaluate

    def counted(*words, **options):
        made.append((words[1], options["split"]))
        return whole(*words, **options)

    monkeypatch.setattr(module, "evaluate", counted)
    monkeypatch.setattr("sonodetr.evaluation.evaluate.RESAMPLES", 20)
    return made


def test_a_run_is_looked_at_once(run, needles, calls):
    first = measure(run, of(needles), "test")
    again = measure(run, of(needles), "test")
    assert calls == [(str(needles), "test")]
    np.testing.assert_array_equal(first.matches.scores, again.matches.scores)
    assert first.recording[0] == "test/clip0"
    assert len(first.recording) == evaluation(run, "test")["figures"]["frames"] == 55
    assert first.unit_name == "recording"
    assert first.instruments is not None


def test_a_folder_beside_the_parts_is_measured_whole(run, needles, calls):
    kept = measure(run, of(needles), "shifted")
    assert calls == [(f"{needles}/shifted", "all")]
    assert len(kept.recording) == 25


def test_data_is_read_as_students_read_it(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "data_address", lambda *words: asked.append(words))
    monkeypatch.setattr(module, "evaluate", lambda *_, **options: asked.append(options))
    data = of("labels.json", images="pictures", on_bad_label="skip")
    with pytest.raises(InputError, match=r"matches\.npz: no such file"):
        measure(run, data, "test")
    assert asked[0] == ("labels.json", "pictures", "skip")
    assert (asked[1]["images"], asked[1]["on_bad_label"]) == ("pictures", "skip")


def test_data_that_has_changed_is_measured_anew(run, needles, calls, tmp_path):
    data = shutil.copytree(needles, tmp_path / "data")
    measure(run, of(data), "shifted")
    picture = data / "shifted" / "clip0" / "0.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    data_address.cache_clear()
    measure(run, of(data), "shifted")
    assert len(calls) == 2
    moved = data.rename(tmp_path / "moved")
    measure(run, of(moved), "shifted")
    assert len(calls) == 2


def test_other_code_measures_anew(run, needles, calls, monkeypatch):
    measure(run, of(needles), "test")
    monkeypatch.setattr(module, "evaluation_address", lambda: "of other code")
    measure(run, of(needles), "test")
    assert len(calls) == 2


def test_what_is_not_whole_or_of_other_weights_is_measured_anew(run, needles, calls, monkeypatch):
    measure(run, of(needles), "test")
    stamp = json.loads((run / "evaluation-test" / MEASURED).read_text())
    (run / "evaluation-test" / MEASURED).unlink()  # as a killed evaluation leaves it
    measure(run, of(needles), "test")
    assert len(calls) == 2
    assert json.loads((run / "evaluation-test" / MEASURED).read_text()) == stamp
    weights = run / "model.safetensors"
    other = write_run(run.parent / "other", needles, 0.5) / "model.safetensors"
    weights.write_bytes(other.read_bytes())

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(run, of(needles), "test")
    assert not (run / "evaluation-test" / MEASURED).exists()  # the old figures are not of these
    measure(run, of(needles), "test")
    assert len(calls) == 3


def test_an_unfinished_run_is_refused(run, needles, calls):
    (run / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors; finish its training first"):
        measure(run, of(needles), "test")
    assert not calls
