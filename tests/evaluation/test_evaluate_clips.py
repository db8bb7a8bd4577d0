"""Models of clips: training, evaluation and a live source show them the same frames."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sonodetr.config import Config
from sonodetr.config_file import parse_config
from sonodetr.data.clips import ClipDataset, collate, labelled_samples
from sonodetr.engines.torch import TorchEngine, interface_of
from sonodetr.evaluation import evaluate as module
from sonodetr.evaluation.evaluate import detect, evaluate
from sonodetr.files import InputError
from sonodetr.model.decode import detections_of
from sonodetr.model.detr import DETR
from sonodetr.predictor import Predictor
from sonodetr.training.run import RunInfo
from sonodetr.types import Frame, Labels, Video, frames_of

CLASSES = ("nerve", "vessel")
FACTS = RunInfo(classes=CLASSES, threshold=0.01, step=0, validation={}, provenance={})


class Counted:
    """Noise that counts which frames are decoded."""

    def __init__(self, pixels):
        self.pixels, self.decoded = pixels, []
        self.size = pixels.shape[1:3]

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        self.decoded.append(index)
        return self.pixels[index]


def recording(key, frames, labelled, size=(71, 97)):
    random = np.random.default_rng(frames)
    pixels = random.integers(0, 255, (frames, *size), np.uint8)
    labels = {frame: Labels.of([[3, 5, 31, 37]], [frame % 2]) for frame in labelled}
    return Video(key, Counted(pixels), np.arange(frames) / 17, CLASSES, labels)


@pytest.fixture
def videos():
    """Three recordings of different lengths; few frames are labelled, unevenly."""
    return [
        recording("a", 13, (0, 2, 3, 7, 12)),
        recording("b", 3, (1, 2), (61, 67)),
        recording("c", 11, (10,)),
    ]


def clip_config(temporal="factorised", frames=3, step=2) -> Config:
    shape = {
        "backbone": {"width": 16, "depths": [1, 1, 1, 1], "temporal": temporal},
        **{"hidden_dim": 16, "num_heads": 2, "feedforward_dim": 19, "num_queries": 7},
        **{"encoder_layers": 1, "decoder_layers": 1},
    }
    data = {"image_size": [64, 96], "clip_frames": frames, "clip_step": step, "region": "full"}
    return parse_config({"data": data, "model": shape})


def clip_predictor(config: Config) -> Predictor:
    torch.manual_seed(3)
    model = DETR(config.model, len(CLASSES))
    for parameter in model.parameters():
        if parameter.dim() == 4 and not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return Predictor(TorchEngine(model), interface_of(config, FACTS))


@pytest.fixture(params=["none", "mixing", "factorised"])
def config(request):
    return clip_config(request.param)


@pytest.fixture
def predictor(config):
    return clip_predictor(config)


def answers(found):
    return {key: (one.boxes_xyxy_px, one.scores, one.classes) for key, one in found.items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, values in answers(first).items():
        for given, expected in zip(values, answers(second)[key], strict=True):
            np.testing.assert_array_equal(given, expected)


def as_trained(predictor, videos, data):
    """What the model finds in the clips that a training shows it."""
    found = {}
    for clip in ClipDataset(videos, labelled_samples(videos), data):
        batch = collate([clip])
        with torch.inference_mode():
            outputs = predictor.engine.model(batch.images)
        source = batch.sources[0]
        kind = predictor.engine.model.config.classification
        (one,) = detections_of(outputs, batch.sources, data.image_size, CLASSES, kind)
        found[source.key, source.frame_index] = one
    return found


def streamed(predictor, videos):
    """What it finds on the way through whole recordings, in the labelled frames."""
    return {
        (video.key, found.frame_index): found
        for video in videos
        for found in predictor.predict(video, threshold=0.0)
        if found.frame_index in video.labels
    }


def test_training_evaluation_and_live_source_agree(predictor, config, videos):
    evaluated = detect(predictor, videos, labelled_samples(videos))
    assert len(evaluated) == 8
    assert evaluated["a", 12].time_s == 12 / 17
    assert_same(evaluated, as_trained(predictor, videos, config.data))
    assert_same(evaluated, streamed(predictor, videos))
    some = [(2, 10), (0, 7)]  # in any order, and without the labelled frames before
    assert_same(
        detect(predictor, videos, some), {key: evaluated[key] for key in (("c", 10), ("a", 7))}
    )


def test_only_the_frames_of_the_clip_count(predictor, videos):
    """Frame 7 ends the clip 3, 5, 7."""

    def found(pixels=None):
        one = videos[0] if pixels is None else recording("a", 13, (7,))
        if pixels is not None:
            one.frames.pixels = pixels
        return answers(detect(predictor, [one], [(0, 7)]))["a", 7][1]

    real, before = videos[0].frames.pixels, found()
    for frame in range(13):
        pixels = real.copy()
        pixels[frame] = 255 - pixels[frame]
        assert np.array_equal(found(pixels), before) == (frame not in (3, 5, 7))


def test_no_frame_is_decoded_twice_or_from_the_future(predictor, videos):
    detect(predictor, videos, labelled_samples(videos))
    decoded = [video.frames.decoded for video in videos]
    # Frames 0, 2, 3, 7 and 12 see two and four frames back: 1, 3; 3, 5; 8, 10.
    assert decoded == [[0, 2, 1, 3, 5, 7, 8, 10, 12], [0, 1, 2], [6, 8, 10]]


def test_a_live_source_keeps_only_the_last_frames(predictor):
    seen = []
    see = predictor.see
    predictor.see = lambda frame: seen.append(see(frame)) or seen[-1]
    looked_at = []
    predictor.detect = lambda clip: (
        looked_at.append([one.frame_index for one in clip]) or Predictor.detect(predictor, clip)
    )
    frames = (Frame(np.full((64, 96), index, np.uint8), index) for index in range(7))
    found = predictor.predict_frames(frames, threshold=0.0)
    next(found)
    assert len(seen) == 1  # none is read ahead
    assert len(list(found)) == 6
    expected = [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 3], [0, 2, 4], [1, 3, 5], [2, 4, 6]]
    assert looked_at == expected
    assert len(seen) == 7


def test_frozen_past_is_the_labelled_frame(predictor, videos):
    found = detect(predictor, videos, [(0, 7)], past="frozen")["a", 7]
    now = predictor.see(Frame(videos[0].frames[7], 7))
    np.testing.assert_array_equal(found.scores, predictor.detect([now] * 3).scores)
    assert videos[0].frames.decoded == [7, 7]
    real = detect(predictor, videos, [(0, 7)])["a", 7]
    assert not np.allclose(found.scores, real.scores, rtol=1e-4)


def test_shuffled_past():
    data = interface_of(clip_config(frames=5, step=3), FACTS)
    true = [1, 4, 7, 10, 13]
    orders = {tuple(module._clip(13, data, "shuffled", (seed, 7))) for seed in range(211)}
    assert tuple(true) not in orders
    assert all(sorted(order) == true and order[-1] == 13 for order in orders)
    assert len(orders) == 23  # 4! less the true one
    assert module._clip(13, data, "shuffled", (5, 7)) == module._clip(13, data, "shuffled", (5, 7))
    assert sorted(module._clip(3, data, "shuffled", (5, 7))[:-1]) == [0, 0, 0, 0]
    assert module._clip(5, data, "shuffled", (5, 7)) != [0, 0, 0, 2, 5]
    others = [tuple(module._clip(frame, data, "shuffled", (0, 7))) for frame in range(13, 31)]
    assert len({tuple(np.argsort(order)) for order in others}) > 5
    assert module._clip(13, data, "real", (0, 7)) == true
    assert module._clip(13, data, "frozen", (0, 7)) == [13] * 5


def test_shuffled_past_changes_what_is_found(predictor, videos):
    real, shuffled = (detect(predictor, videos, [(0, 12)], past=p) for p in ("real", "shuffled"))
    assert not np.allclose(real["a", 12].scores, shuffled["a", 12].scores, rtol=1e-5)
    assert_same(shuffled, detect(predictor, videos, [(0, 12)], past="shuffled"))


def test_evaluation_says_which_past(videos, monkeypatch, tmp_path):
    predictor = clip_predictor(clip_config())
    monkeypatch.setattr(module, "load", lambda model: predictor)
    monkeypatch.setattr(module, "model_folder", Path)
    monkeypatch.setattr(module, "read", lambda path, **options: videos)
    results = {}
    for past in ("real", "frozen", "shuffled"):
        results[past] = evaluate("run", "data", out=tmp_path / past, past=past)
        written = json.loads((tmp_path / past / "evaluation.json").read_text())
        assert written == results[past]
        assert written["past"] == past
    assert results["real"]["notes"] == []
    assert results["frozen"]["notes"] == ["the past frames that the model was shown are frozen"]


@pytest.mark.parametrize(("frames", "past"), [(1, "frozen"), (1, "shuffled"), (2, "shuffled")])
def test_a_past_that_the_model_does_not_have(frames, past, videos, monkeypatch, tmp_path):
    predictor = clip_predictor(clip_config("none", frames))
    monkeypatch.setattr(module, "load", lambda model: predictor)
    monkeypatch.setattr(module, "model_folder", Path)
    monkeypatch.setattr(module, "read", lambda path, **options: videos)
    least = 2 if past == "frozen" else 3
    line = f"--past {past} needs a model of clips of at least {least} frames, .* sees {frames}"
    with pytest.raises(InputError, match=line) as error:
        evaluate("run", "data", out=tmp_path / "out", past=past)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_frames_of_a_recording_alone_are_enough(predictor, videos):
    """`predict` and `predict_frames` see the same clips."""
    given = list(predictor.predict_frames(frames_of(videos[1]), threshold=0.0))
    for one, other in zip(given, predictor.predict(videos[1], threshold=0.0), strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
