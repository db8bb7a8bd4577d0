"""The verb from end to end on a tiny model, and one line for every mistake. No time is judged."""

import json
import shutil

import pytest
import typer
from exported import write_exported

from sonodetr.benchmark import measure
from sonodetr.cli import app, run
from sonodetr.files import InputError, write_json

pytest.importorskip("onnxscript")
pytest.importorskip("openvino")


def words(*given):
    command = typer.main.get_command(app).commands["benchmark"]
    return command.make_context("benchmark", [str(word) for word in given]).params


def test_several_values_an_option():
    given = words(
        "a", "--threads", 1, 2, "--size", 160, 256, "b", "--runtime", "onnx", "torch", "c"
    )
    assert given["models"] == ["a", "b", "c"]
    assert given["threads"] == [1, 2]
    assert given["size"] == [160, 256]
    assert given["runtime"] == ["onnx", "torch"]


def test_repeated_options():
    given = words("--threads", 1, "--threads", 2, "--seconds", 3, "7")
    assert given["threads"] == [1, 2]
    assert given["seconds"] == 3
    assert given["models"] == ["7"]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 2)
    monkeypatch.setattr(measure, "COLD_STARTS", 1)
    monkeypatch.setattr(measure, "BEYOND_CACHES_KIB", 1024)


def test_a_run(quick, tiny_run, tiny_video, tmp_path, capfd):
    import shutil

    model = tmp_path / "tiny"
    shutil.copytree(tiny_run, model)
    write_json(model / "evaluation-test/evaluation.json", {"figures": {"ap": 0.25}})
    given = [model, "--runtime", "torch", "onnx", "--source", tiny_video, "--seconds", 0.2]
    given += ["--profile", "--out", tmp_path / "out", "--json", "-"]
    assert run(["benchmark", *map(str, given)]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result == json.loads((tmp_path / "out" / "benchmark.json").read_text())
    torch, onnx = result["results"]
    assert (torch["runtime"], onnx["runtime"]) == ("torch", "onnx")
    for row in (torch, onnx):
        assert row["model"] == str(model)
        assert row["image_size"] == [64, 96]
        assert row["threads"] == 1
        assert row["ap"] == 0.25
        assert row["times_floor"] == pytest.approx(row["model_ms"]["p50"] / row["floor_ms"])
        assert sum(row["floor_by_kind_ms"].values()) == pytest.approx(row["floor_ms"])
        assert 0 < row["model_ms"]["least"] <= row["model_ms"]["p50"] <= row["model_ms"]["p99"]
    assert torch["gflops"] == onnx["gflops"] > 0
    assert torch["file_mb"] == pytest.approx((model / "model.safetensors").stat().st_size / 1e6)
    assert torch["profile"] == []
    parts = sum(kind["ms"] for kind in onnx["profile"])
    assert parts == pytest.approx(onnx["model_ms"]["p50"], rel=1e-6)
    assert result["settings"]["rounds"] == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "benchmark.json", "benchmark.md", "pareto.png",
    }  # fmt: skip


def test_an_exported_folder_at_its_own_size(quick, tiny_run, tiny_video, tmp_path, capfd):
    from sonodetr.export.convert import export_model

    folder = tmp_path / "exported"
    export_model(tiny_run, folder, format="openvino")
    given = [folder, "--size", 128, "--source", tiny_video, "--seconds", 0.2, "--json", "-"]
    assert run(["benchmark", *map(str, given)]) == 0
    (row,) = json.loads(capfd.readouterr().out.splitlines()[-1])["results"]
    assert (row["runtime"], row["image_size"], row["ap"]) == ("openvino", [64, 96], None)
    assert row["file_mb"] == pytest.approx(
        sum((folder / f"detect.{ending}").stat().st_size for ending in ("xml", "bin")) / 1e6
    )


def test_a_run_at_another_size(tiny_run, tmp_path):
    from sonodetr.benchmark.artefacts import _runs
    from sonodetr.training.run import load_run

    before = (tiny_run / "config.yaml").read_text()
    (copy,) = _runs(tiny_run, (80,), tmp_path)
    assert load_run(copy)[1].data.image_size == (80, 80)
    assert (tiny_run / "config.yaml").read_text() == before
    assert _runs(tiny_run, (), tmp_path) == [tiny_run]


def test_a_damaged_exported_folder_is_named(tmp_path):
    from sonodetr.benchmark.artefacts import artefacts_of

    folder = write_exported(tmp_path / "exported", "onnx")
    (graph,) = folder.glob("*.onnx")
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(InputError, match=graph.name):
        artefacts_of(str(folder), ["onnx"], [], tmp_path)


def test_ap_of_a_bundled_model_is_that_which_evaluate_wrote_here(tmp_path, monkeypatch):
    from sonodetr.benchmark.artefacts import EVALUATION, ap_of

    monkeypatch.chdir(tmp_path)
    assert ap_of("nano", (160, 160)) is None
    path = tmp_path / f"nano-{EVALUATION}"
    path.parent.mkdir()
    path.write_text('{"figures": {"ap": 0.25}}')
    assert ap_of("nano", (160, 160)) == 0.25
    assert ap_of("nano", (256, 256)) is None


@pytest.mark.parametrize("text", ["[]", "{}", '{"figures": {}}', '{"figures": 3}'])
def test_an_evaluation_without_an_ap_is_named(tiny_run, tmp_path, text):
    from sonodetr.benchmark.artefacts import EVALUATION, ap_of

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    path, size = run / EVALUATION, (64, 96)
    path.parent.mkdir()
    path.write_text('{"figures": {"ap": 0.25}}')
    assert ap_of(str(run), size) == 0.25
    path.write_text(text)
    with pytest.raises(
        InputError, match=r"evaluation\.json: holds no AP; evaluate the model again"
    ):
        ap_of(str(run), size)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--runtime", "onxn"], "no runtime 'onxn'; did you mean 'onnx'? Allowed: torch, onnx"),
        (["--threads", "99999"], "99999 threads are not possible; this process may use 1 to "),
        (["--threads", "0"], "0 threads are not possible; this process may use 1 to "),
        (["--size", "31"], "--size 31: give 32 to 2048 pixels"),
        (["--size", "100000"], "--size 100000: give 32 to 2048 pixels"),
        (["--size", "32"], "--size 32: 32 x 32 pixels at stride 16 are 4 tokens, fewer than"),
        (["--source", "nowhere.mp4"], "nowhere.mp4: no such file"),
    ],
)
def test_mistakes(tiny_run, given, said, capsys, monkeypatch):
    from sonodetr.export import convert

    monkeypatch.setattr(
        convert, "export_model", lambda *_, **__: pytest.skip("the mistake was not found in time")
    )
    assert run(["benchmark", str(tiny_run), *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_no_model(tmp_path, capsys):
    assert run(["benchmark", str(tmp_path)]) == 2
    assert "is neither a run folder nor an exported folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(["benchmark", str(tmp_path), "--out", str(tmp_path / "file")]) == 2
    assert "file: is a file; choose another folder" in capsys.readouterr().err
    assert run(["benchmark", str(tmp_path), "--out", str(tmp_path / "new" / "folder")]) == 2
    assert not (tmp_path / "new").exists()


def test_a_runtime_that_is_not_installed(tiny_run, capsys, monkeypatch):
    from sonodetr.benchmark import artefacts

    monkeypatch.setattr(artefacts, "find_spec", lambda package: None)
    assert run(["benchmark", str(tiny_run), "--runtime", "onnx"]) == 2
    said = "this needs onnxruntime, which is not installed"
    assert said in capsys.readouterr().err


def test_a_process_that_dies(tiny_run, tmp_path):
    """What a worker is told wrongly comes back as one line, and nobody waits for it."""
    from sonodetr.benchmark.processes import Process
    from sonodetr.files import InputError

    task = {"work": "model", "folder": str(tmp_path / "none"), "frames": "", "region": None}
    with pytest.raises(InputError, match="no such run folder"):
        Process(task, 1, "a model")
    with Process({"work": "machine", "working_sets_kib": [64]}, 1, "the machine") as process:
        rates = process.ask(seconds=0.1)
        assert set(rates) == {"float32", "int8", "memory"}
        assert set(rates["memory"]) == {"64"}
        process._process.kill()
        with pytest.raises(InputError, match="the machine: its process ended with exit code -9"):
            process.ask(seconds=0.1)
