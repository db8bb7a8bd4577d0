"""The plan of the distillation experiment: what is tuned, what is next, and the table."""

import json
from pathlib import Path

import distillation
import pytest
from distillation import FIGURES, METHODS, SEEDS, TEACHERS, Experiment, Run

from sonodetr.files import InputError, write_json
from sonodetr.training.run import RunInfo, save_info


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Nothing trained but the two teachers."""
    for name in TEACHERS:
        monkeypatch.setitem(TEACHERS, name, str(tmp_path / name))
        finish(tmp_path / name, 0.4, test=0.5)
    return Experiment(tmp_path / "runs")


def finish(folder: Path, ap: float, test: float = 0.0) -> None:
    """What a finished training leaves, with an AP on validation and on test data."""
    folder.mkdir(parents=True)
    (folder / "last.safetensors").touch()
    save_info(
        folder, RunInfo(classes=("needle",), threshold=0.3, step=40, validation={"ap": ap},
                        provenance={}),
    )  # fmt: skip
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 40, "validation/AP": ap}) + "\n")
    for part in ("test", "shifted"):
        figures = {name: {"value": test} for name in FIGURES}
        write_json(
            folder / f"evaluation-{part}" / "evaluation.json", {"intervals": {"figures": figures}}
        )


def words(run: Run | None) -> set[str]:
    assert run is not None
    return set(run.words)


def test_the_best_value_on_validation_data_is_taken_once_all_are_tried(experiment: Experiment):
    rates = METHODS["plain"].values
    for rate, ap in zip(rates, (0.1, 0.3, 0.2, 0.0), strict=True):
        assert experiment.tuned("anchor", "plain") is None
        assert experiment.run("anchor", "attention, 2D", 0, "3") is None  # its rate is not known
        finish(experiment.out / f"anchor-plain-{rate}-0", ap)
    assert experiment.tuned("anchor", "plain") == rates[1]
    attention = words(experiment.run("anchor", "attention, 2D", 0, "3"))
    assert {f"train.learning_rate={rates[1]}", "distill.encoder.weight=3"} <= attention
    assert experiment.tuned("learned", "plain") is None


def test_tuning_goes_before_repetition_and_finished_runs_are_not_done_again(
    experiment: Experiment,
):
    names = [run.name for run in experiment.ready()]
    assert names[:4] == [f"anchor-plain-{rate}-0" for rate in METHODS["plain"].values]
    finish(experiment.out / names[1], 0.2)
    assert names[1] not in [run.name for run in experiment.ready()]


def test_runs_without_their_teacher_wait(experiment: Experiment):
    for rate in METHODS["plain"].values:
        finish(experiment.out / f"anchor-plain-{rate}-0", 0.1)
    (Path(TEACHERS["3D"]) / "last.safetensors").unlink()
    names = [run.name for run in experiment.ready()]
    assert any("attention-2D" in name for name in names)
    assert not any("3D" in name for name in names)


def test_every_run_differs_from_every_other(experiment: Experiment):
    finish_all(experiment)
    names = [
        experiment.run(queries, name, seed).name  # type: ignore[union-attr]
        for name, method in METHODS.items()
        for queries in method.queries
        for seed in SEEDS
    ]
    assert len(set(names)) == len(names)


def finish_all(experiment: Experiment) -> None:
    while runs := list(experiment.ready()):
        for run in runs:
            if not experiment.finished(run):
                method = run.name.split("-")[1]
                finish(
                    experiment.out / run.name,
                    0.2,
                    test={"plain": 0.1, "all": 0.4}.get(method, 0.3),
                )


def test_the_table_counts_what_was_tried_and_what_was_gained(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(InputError, match=r"anchor, plain: 0 of 3 runs are done"):
        distillation.report(experiment, tmp_path)
    finish_all(experiment)
    result = distillation.report(experiment, tmp_path / "results")
    tried = sum(len(each.values) * len(each.queries) for each in METHODS.values())
    assert result["configurations_tried"] == tried
    assert json.loads((tmp_path / "results" / "distillation.json").read_text())["rows"]
    distillation.print_table(result)
    lines = {tuple(line.split(" | ")[:2]): line for line in capsys.readouterr().out.splitlines()}
    both = lines["| anchor", "all, 2D"].split(" | ")
    assert both[3] == "0.400 (0.400 to 0.400)"
    assert both[-1].startswith("75%")  # from 0.1 to 0.4, where the teacher has 0.5
    assert lines["| anchor", "plain"].split(" | ")[2] == METHODS["plain"].values[0]


def test_a_run_that_another_copy_has_is_left_to_it(experiment: Experiment):
    run = next(experiment.ready())
    lock = experiment.out / f"{run.name}.lock"
    with distillation._held(lock) as own:
        assert own
        assert distillation._taken(lock)
        with distillation._held(lock) as second:
            assert not second
    assert not distillation._taken(lock)
