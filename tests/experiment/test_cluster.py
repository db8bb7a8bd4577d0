"""An experiment on a real local Ray cluster of two machines, one of which is lost."""

import threading
import time

import pytest
from tiny_plans import write_data, write_plan

from sonodetr.experiment.plan import load_plan
from sonodetr.experiment.work import Experiment
from sonodetr.files import InputError

pytest.importorskip("ray", reason='no ray; install it: pip install "sonodetr[ray]"')
ROOM = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture
def cluster(monkeypatch):
    """A head that does no work, and two machines with one core each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {**ROOM, "num_cpus": 0, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.machines = [made.add_node(**ROOM) for _ in range(2)]
    yield made
    made.shutdown()


def test_all_is_trained_though_a_machine_is_lost(cluster, tmp_path):
    from sonodetr.experiment.cluster import train_on_ray

    path = write_plan(
        tmp_path,
        write_data(tmp_path / "data"),
        changes={"train.epochs": 15},
        methods={"plain": {}, "attention": ATTENTION},
    )
    plan, out = load_plan(path), tmp_path / "out"
    out.mkdir()

    def training():
        begun = [path.parent for path in out.glob("runs/*/metrics.jsonl")]
        return [folder for folder in begun if not (folder / "last.safetensors").exists()]

    def lose_one():
        while len(training()) < 2:
            time.sleep(0.05)
        cluster.remove_node(cluster.machines[0], allow_graceful=False)

    loser = threading.Thread(target=lose_one)
    loser.start()
    train_on_ray(plan, out, cluster.address, threads=1)
    loser.join()
    starts = [log.read_text().count("frames train, ") for log in out.glob("runs/*.log")]
    assert sorted(starts) == [1, 1, 1, 1, 2]  # the lost one was begun twice
    experiment = Experiment(plan, out)
    assert [experiment.state(unit) for unit in plan.units()] == ["done"] * (1 + 2 * 2)
    train_on_ray(plan, out, "nothing is left to ask it", threads=1)


ATTENTION = {"teacher": "wide", "changes": {"distill.encoder.weight": 1}}


@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:1", r".*Connection refused"), ("nonsense", "an address is auto, HOST:PORT or")],
)
def test_no_cluster(tmp_path, address, why):
    from sonodetr.experiment.cluster import train_on_ray

    plan = load_plan(write_plan(tmp_path, write_data(tmp_path / "data")))
    with pytest.raises(InputError, match=rf"--ray {address}: no Ray cluster answers \({why}"):
        train_on_ray(plan, tmp_path / "out", address, threads=1)
