

from sonodetr.training.fit import train


def test_run_folder(tiny, tmp_path):
    folder = train(tiny(), tmp_path)
    assert folder == tmp_path / "tiny"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml", "model.safetensors", "last.safetensors", "run.json", "split.json",
        "metrics.jsonl", "checkpoint.safetensors", "batch.png", "validation.png", "tensorboard",
    }  # fmt: skip
