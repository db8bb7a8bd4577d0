"""Same run, same address; anything that could change its result, another."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_plans import CONFIG, write_data

from sonodetr.config_file import parse_config
from sonodetr.experiment import address as module
from sonodetr.experiment.address import (
    OF_EVALUATION,
    ONLY_TOLD,
    PACKAGE,
    address,
    affecting,
    code_address,
    data_address,
    evaluation_address,
    facts_of,
    sources,
    sources_at,
)
from sonodetr.files import InputError


@pytest.fixture
def config(tmp_path):
    """Makes a config on a data set of its own; words change it."""
    data = write_data(tmp_path / "data")

    def make(**changes):
        values = json.loads(json.dumps(CONFIG))
        values["data"]["path"] = str(data)
        for key, value in changes.items():
            place = values
            *sections, last = key.split("__")
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        return parse_config(values)

    return make


def of(config, teacher=""):
    data_address.cache_clear()
    return address(facts_of(config, teacher))


def test_names_and_places_do_not_count(config, tmp_path):
    first = of(config())
    assert len(first) == 64
    assert first == of(config(name="other"))
    assert first == of(config(train__workers=3, train__checkpoint_seconds=7.0))
    moved = tmp_path / "elsewhere"
    (tmp_path / "data").rename(moved)
    assert first == of(config(data__path=str(moved)))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 3},
        {"train__epochs": 3},
        {"train__learning_rate": 0.0020000001},
        {"model__dropout": 0.1},
        {"loss__points": 4.0},
        {"data__augment__flip": 0.25},
        {"data__labelled": 0.5},
    ],
)
def test_every_number_counts(config, change):
    assert of(config()) != of(config(**change))


def test_what_is_said_of_teachers_counts_with_a_teacher_alone(config):
    weight = {"distill__encoder__weight": 7.0}
    assert of(config()) == of(config(**weight))
    assert of(config(), "a") != of(config(**weight), "a")
    assert len({of(config()), of(config(), "a"), of(config(), "b")}) == 3
    # In half precision or not, but wherever it lies.
    here, there = (config(distill__cache=name) for name in ("here", "there"))
    assert of(here, "a") == of(there, "a") != of(config(), "a")


def test_every_byte_of_the_data_counts(config, tmp_path):
    first = of(config())
    for name in ("train/3.png", "test/coco.json"):
        path = tmp_path / "data" / name
        before = path.read_bytes()
        if name.endswith("png"):
            path.write_bytes(before + b"\0")  # not even a pixel
        else:
            path.write_text(before.decode().replace(", 17]", ", 16]", 1))
        assert of(config()) != first, name
        path.write_bytes(before)
    assert of(config()) == first
    (tmp_path / "data" / "notes.txt").write_text("not read by anybody")
    assert of(config()) == first


def test_a_reader_that_reads_otherwise_counts(config, monkeypatch):
    first = of(config())
    read = module.read
    monkeypatch.setattr(module, "_decoded", lambda videos: iter([np.zeros((3, 5), np.uint8)]))
    assert of(config()) != first
    monkeypatch.setattr(module, "read", lambda *a, **b: read(*a, **b)[:-1])
    assert of(config()) != first


def test_weights_to_start_from_count(config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("model", "last"):
        (folder / f"{name}.safetensors").write_bytes(b"1")
    first = of(config(model__weights=str(folder)))
    (folder / "last.safetensors").write_bytes(b"2")
    assert first == of(config(model__weights=str(folder)))
    (folder / "model.safetensors").write_bytes(b"2")
    assert first != of(config(model__weights=str(folder)))
    with pytest.raises(InputError, match="gone: cannot be read"):
        of(config(model__weights=str(tmp_path / "gone")))


def test_simulated_data_count_by_their_settings():
    assert len({data_address(f"simulator:{seed}", "", "error") for seed in (7, 8)}) == 2


def test_every_statement_of_a_module_counts():
    code = dict(sources())
    plain, taught = (code_address(code, teacher, False) for teacher in (False, True))
    code["model/detr.py"] += b"\n# A word.\n"
    assert code_address(code, False, False) == plain
    code["model/detr.py"] += b"MORE = 1\n"
    assert code_address(code, False, False) != plain
    code = dict(sources())
    code["distill/losses.py"] += b"MORE = 1\n"
    assert code_address(code, False, False) == plain
    assert code_address(code, True, False) != taught
    code["simulator/probe.py"] += b"MORE = 1\n"
    assert code_address(code, False, False) == plain
    assert code_address(code, False, True) != code_address(sources(), False, True)
    code["stream/new.py"] = b""
    assert code_address(code, False, False) == plain
    code["model/new.py"] = b""
    assert code_address(code, False, False) != plain


# What `train` imports and the address leaves out: what carries, checks, tells or draws; readers of
# files, as what they read is in the address; what is read only with a teacher or a simulator.
LEFT_OUT = {"bundled.py", "config.py", "config_file.py", "draw.py", "files.py", "progress.py"}
LEFT_OUT |= {"shapes.py", "formats", *ONLY_TOLD}


def test_all_that_a_training_imports_is_known():
    """A new module that a training imports must be in the address, or be left out on purpose."""
    known = set(affecting(sources(), teacher=True, simulated=True))
    for path in imported("training/fit.py"):
        top = path.partition("/")[0]
        assert path in known or path in LEFT_OUT or top in LEFT_OUT, path
    without = set(affecting(sources(), teacher=False, simulated=False))
    for path in known - without:
        assert path.startswith(("distill/", "simulator/", "training/distill", "training/teacher"))


def imported(path):
    """The paths of all modules that one imports, at any distance."""
    found, ahead = set(), [path]
    while ahead:
        path = ahead.pop()
        found.add(path)
        for node in ast.walk(ast.parse(sources()[path])):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("sonode"):
                continue
            for name in (node.module, *(f"{node.module}.{each.name}" for each in node.names)):
                inner = name.removeprefix("sonodetr").strip(".").replace(".", "/")
                files = {f"{inner}.py", f"{inner}/__init__.py"}
                ahead += (files & sources().keys()) - found
    return found


def test_what_evaluates_is_known():
    """Every module that it names is there."""
    for pattern in OF_EVALUATION:
        assert list(PACKAGE.glob(pattern)), pattern
    assert len(evaluation_address()) == 64


def test_the_sources_of_a_revision():
    if not (PACKAGE.parents[1] / ".git").exists():
        pytest.skip("no git repository")
    code = sources_at("HEAD")
    assert "training/fit.py" in code
    assert code["__init__.py"].startswith(b'"""')
    with pytest.raises(InputError, match="revision 123nonsense: is not in the git repository"):
        sources_at("123nonsense")


def test_data_that_cannot_be_read(config):
    with pytest.raises(InputError, match="no such file"):
        of(config(data__path=str(Path("none/such"))))
