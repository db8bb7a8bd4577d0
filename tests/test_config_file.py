import re

import pytest

from sonodetr.bundled import preset_names
from sonodetr.config import Config, SplitConfig
from sonodetr.config_file import config_from_run, dump_config, load_config, parse_config
from sonodetr.files import InputError


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return write


def test_file_and_overrides(written):
    path = written(
        "name: a\ntrain: {epochs: 7, learning_rate: 1e-3}\ndata: {image_size: [128, 96]}"
    )
    config = load_config(path, ["train.epochs=3", "model.backbone.stride=32", "data.path=x"])
    assert config.name == "a"
    assert config.train.epochs == 3  # the command line wins
    assert config.train.learning_rate == 1e-3  # YAML 1.1 would read text
    assert config.data.image_size == (128, 96)
    assert config.model.backbone.stride == 32
    assert config.train.batch_size == Config().train.batch_size


def test_an_override_may_be_empty(written):
    path = written("distill: {cache: somewhere}")
    assert load_config(path, ["distill.cache="]).distill.cache == ""


def test_empty_file_is_all_defaults(written):
    assert load_config(written("# nothing\n")) == Config()


def test_dumped_config_comes_back(written):
    config = parse_config({"data": {"image_size": [128, 192]}, "train": {"weight_decay": 1e-7}})
    assert load_config(written(dump_config(config))) == config


def test_a_preset_by_name(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("tiny", ["data.path=x", "train.epochs=3"])
    assert (config.name, config.data.path, config.train.epochs) == ("tiny", "x", 3)
    assert config.model.hidden_dim == 64
    (tmp_path / "tiny").write_text("name: mine")  # a file of that path wins
    assert load_config("tiny").name == "mine"
    with pytest.raises(InputError, match="tinny: no such file, and no preset; did you mean 'tiny'"):
        load_config("tinny")


def test_a_file_on_top_of_a_preset(written):
    """Keys are merged, lists are not; overrides come on top of both."""
    path = written(
        "preset: tiny\nmodel: {backbone: {depths: [2, 3, 5, 7]}, hidden_dim: 32}\ndata: {path: x}"
    )
    config, preset = load_config(path, ["model.hidden_dim=48"]), load_config("tiny")
    assert config.data.path == "x"
    assert config.data.image_size == preset.data.image_size
    assert config.model.backbone.depths == (2, 3, 5, 7)
    assert config.model.backbone.width == preset.model.backbone.width == 16
    assert config.model.hidden_dim == 48
    assert config.model.feedforward_dim == preset.model.feedforward_dim
    assert config.train == preset.train
    assert "preset" not in dump_config(config)
    assert load_config(written(dump_config(config))) == config


@pytest.mark.parametrize("word", ["tinny", "[1]", "", "../presets/tiny"])
def test_presets_that_are_none(written, word):
    path = written(f"preset: {word}")
    with pytest.raises(InputError, match=r"c\.yaml: no preset .*nano, small"):
        load_config(path)


def test_presets_know_nothing_of_data():
    for name in preset_names():
        config = load_config(name)
        assert config.name == name
        assert (config.data.path, config.data.unlabelled, config.model.weights) == ("", "", "")
        assert (config.distill.teacher, config.model.points) == ("", False)
        assert config.data.split == SplitConfig()


def test_environment(written, monkeypatch):
    path = written("data: {path: '${SONO_TEST:-here}/a', images: '${SONO_TEST}'}")
    monkeypatch.setenv("SONO_TEST", "there")
    assert load_config(path).data.path == "there/a"
    monkeypatch.delenv("SONO_TEST")
    with pytest.raises(InputError, match="environment variable SONO_TEST; set it"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {epochs: 3}", "unknown key 'trian'; did you mean 'train'?"),
        ("train: {epoch: 3}", "unknown key 'train.epoch'; did you mean 'epochs'?"),
        ("model: {backbone: {name: reznet}}", "'compact', 'resnet'"),
        ("train: {epochs: '3'}", "train.epochs: '3' is not allowed"),
        ("train: {epochs: 0}", "train.epochs: 0 is not allowed"),
        ("train: {epochs: 2.5}", "train.epochs: 2.5 is not allowed"),
        ("data: {image_size: [64]}", "data.image_size"),
        ("name: a/b", "name: 'a/b' is not allowed"),
        ("model: {hidden_dim: 100}", "model: hidden_dim 100 must be a multiple of"),
        ("data: {split: {test_fold: 3, folds: 3}}", "test_fold 3 must be below folds 3"),
        (
            "data: {split: {by_folder: true, test_frames: [[1, 2]], validation_frames: [[4, 5]]}}",
            "by_folder takes the parts from the data",
        ),
        (
            "model: {backbone: {temporal: mixing}}",
            "model.backbone.temporal mixing needs a clip; set data.clip_frames=2 or more",
        ),
        (
            "{data: {clip_frames: 2}, train: {backbone_rate: 0},"
            " model: {backbone: {temporal: factorised}}}",
            "train.backbone_rate 0 would freeze model.backbone.temporal factorised",
        ),
        (
            "model: {backbone: {name: huggingface, path: a, temporal: factorised}}",
            "temporal factorised needs a backbone of our own; use mixing or none",
        ),
        ("train: {learning_rate: .nan}", "train.learning_rate"),
        ("train: {learning_rate: .inf}", "train.learning_rate"),
        ("seed: 2020-01-01", "not plain YAML"),
        ("- a\n- b", "is a list"),
        ("just words", "is a str"),
        ("a: [1", "not valid YAML at line"),
        ("train:\n  epochs: 3\n  epochs: 4", "'epochs' stands twice in one block, again at line 3"),
        ("train: {1: 2}", "train.1"),
        ("data:\n  path: {{ DATA }}", "not valid YAML at line 2"),
        ("? [a, b]\n: 1", "not valid YAML at line 1"),
        ("seed: !!int ''", "not valid YAML"),
    ],
)
def test_mistakes_in_one_line(written, text, message):
    path = written(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epochs", "write section.key=value"),
        ("train.epochs.more=3", "unknown key|is a value, not a section"),
        ("train={epochs: 3}", "keys of a section one by one, as in train.KEY=VALUE"),
        ("train.epochs=[1", "cannot be read; quote it"),
        ("name=2024-13-01", "cannot be read; quote it"),
        ("name=0x_", "cannot be read; quote it"),
        ("data=&a [*a]", "the config holds itself"),
        ("train.epochs=" + "[" * 400, "cannot be read; quote it|is not allowed"),
        ("=3", "unknown key"),
    ],
)
def test_overrides_that_do_not_work(written, word, message):
    with pytest.raises(InputError, match=message):
        load_config(written("train: {epochs: 3}"), [word])


def test_not_utf8(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(path)


def test_config_of_a_run(tiny_run, tmp_path):
    assert config_from_run(tiny_run).data.image_size == (64, 96)
    with pytest.raises(InputError, match=r"has no config\.yaml"):
        config_from_run(tmp_path)
