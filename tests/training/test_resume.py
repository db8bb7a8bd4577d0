"""A run that was killed and continued has the same bits as one that ran through."""

import random
import signal
import time
from functools import partial

import pytest
from processes import contents, die_after, die_in

STEPS = 9  # 3 epochs of 3


@pytest.fixture
def config(tiny):
    return tiny(train={"workers": 1})


@pytest.fixture
def through(start, config, tmp_path):
    """Contents of the run that nobody disturbed."""
    undisturbed = start(config, tmp_path / "through")
    assert undisturbed.wait() == 0, undisturbed.said()
    return contents(tmp_path / "through" / "tiny")


@pytest.mark.parametrize(
    "deaths",
    [
        [
            partial(die_after, 1),
            partial(die_after, 4),
            partial(die_after, 5),
            partial(die_after, 8),
        ],  # within epochs
        [
            partial(die_after, 1, "_save"),
            partial(die_after, 3, "_save"),
            partial(die_after, 9, "_save"),
        ],  # just after saving
        # Best weights are written (or half written), the checkpoint is not.
        [
            partial(die_after, 3, "_keep_best"),
            partial(die_after, 6, "_validate"),
            partial(die_in, "save_weights", 1),
        ],
        [partial(die_in, "save_checkpoint", 3), partial(die_in, "save_checkpoint", 1)],
    ],
)
def test_killed_runs_continue_to_the_same_bits(deaths, start, config, through, tmp_path):
    out = tmp_path / "killed"
    for number, death in enumerate(deaths):
        killed = start(config, out, resume=number > 0, changes=[death])
        assert killed.wait() == -signal.SIGKILL, killed.said()
    last = start(config, out, resume=True)
    assert last.wait() == 0, last.said()
    assert contents(out / "tiny") == through
    assert not list((out / "tiny").glob(".*"))


def test_killed_at_any_moment(start, tiny, tmp_path):
    # Checkpoints now and then, so that steps are lost and done again; two workers.
    config = tiny(train={"workers": 2, "checkpoint_seconds": 0.2, "epochs": 5})
    undisturbed = start(config, tmp_path / "through")
    assert undisturbed.wait() == 0, undisturbed.said()
    chance = random.Random(7)
    for number in range(5):
        killed = start(config, tmp_path / "killed", resume=number > 0)
        time.sleep(chance.uniform(0.3, 2.5))
        killed.process.kill()
        assert killed.wait() in (0, -signal.SIGKILL), killed.said()
    last = start(config, tmp_path / "killed", resume=True)
    assert last.wait() == 0, last.said()
    assert contents(tmp_path / "killed" / "tiny") == contents(tmp_path / "through" / "tiny")


def test_a_complete_run_stays_as_it_is(start, config, through, tmp_path):
    again = start(config, tmp_path / "through", resume=True)
    assert again.wait() == 0
    assert "this run is complete: step 9 of 9" in again.said()
    assert contents(tmp_path / "through" / "tiny") == through
