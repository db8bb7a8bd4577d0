"""A made-up experiment, collected once."""

import pytest


@pytest.fixture(scope="session")
def needles(tmp_path_factory):
    from made_up_runs import write_needles

    return write_needles(tmp_path_factory.mktemp("needles"))


@pytest.fixture(scope="session")
def collected(tmp_path_factory, needles):
    """Folder, what was asked for, and results.json of a made-up experiment; not to be changed."""
    from made_up_runs import AGAIN, finished, made_up_answers

    from sonodetr.experiment.results import collect

    folder = tmp_path_factory.mktemp("experiment")
    plan, rows = finished(folder, needles)
    with pytest.MonkeyPatch.context() as patch, made_up_answers(patch):
        return folder, (plan, rows), collect(plan, rows, folder / "results", AGAIN)
