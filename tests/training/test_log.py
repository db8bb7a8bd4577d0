import json

from sonodetr.training import log as module
from sonodetr.training.log import TrainingLog


def test_what_a_killed_run_logged_beyond_its_checkpoint_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3, "a": 1}\n{"step": 7, "a": 2}\n{"step": 11, "a": 3}\n{"ste')
    with TrainingLog(tmp_path, 20, 7, active=True) as log:
        log.write(13, {"a": 0.5, "b": None})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 3, "a": 1}, {"step": 7, "a": 2}, {"step": 13, "a": 0.5, "b": None}]


def test_without_a_terminal_a_line_now_and_then(tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 10_000, 25))  # seconds; 0 at the start
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module, "Progress", _NoBar)
    with TrainingLog(tmp_path, 40, 4, active=True) as log:
        for step in range(5, 12):
            log.advance(step, "loss 1.5")
    lines = capsys.readouterr().err.splitlines()
    # At 75 s (three steps) and 150 s (six steps); a line an update would be seven.
    assert lines == [
        "step 7 of 40  0.04 steps/s  loss 1.5",
        "step 10 of 40  0.04 steps/s  loss 1.5",
    ]


class _NoBar:
    """rich reads the clock as well."""

    def __init__(self, *columns, **options):
        self.update = self.start = self.stop = self.add_task = lambda *_, **__: 0


def test_other_processes_say_and_write_nothing(tmp_path, capsys):
    with TrainingLog(tmp_path, 20, 0, active=False) as log:
        log.say("nothing")
        log.advance(1, "loss 1.5")
        log.write(1, {"a": 1})
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""
