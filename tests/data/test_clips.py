import pickle

import numpy as np
import pytest
import torch
from pictures import video
from torch.utils.data import DataLoader

from sonodetr.config import DataConfig
from sonodetr.data.clips import (
    ClipDataset,
    EpochBatches,
    collate,
    labelled_samples,
)
from sonodetr.types import Labels, Region, Video

H, W = 37, 53


def recording(frames: int = 11, key: str = "a") -> Video:
    """Frame i is grey 10 + i everywhere; frames 0, 4 and 10 are labelled, 4 as empty."""
    pixels = np.stack([np.full((H, W), 10 + i, np.uint8) for i in range(frames)])
    labels = {
        0: Labels.of([[0, 0, W, H]], [1]),
        4: Labels.of([], []),
        10: Labels.of(
            [[10, 5, 30, 25], [0, 0, 9, 9]],
            [0, 1],
            None,
            [[[10, 5], [30, 25]], np.full((2, 2), np.nan)],
            [False, True],
        ),
    }
    return video(pixels, labels, key)


def test_clip_ends_at_the_labelled_frame_and_never_sees_the_future() -> None:
    videos = [recording()]
    config = DataConfig(image_size=(H, W), clip_frames=3, clip_step=2, region="full")
    dataset = ClipDataset(videos, labelled_samples(videos), config)
    assert len(dataset) == 3
    assert dataset[2].image.shape == (1, 3, H, W)
    assert dataset[2].image[0, :, 0, 0].tolist() == [16, 18, 20]
    assert dataset[0].image[0, :, 0, 0].tolist() == [10, 10, 10]


def test_targets_are_normalised_and_without_crowd() -> None:
    config = DataConfig(image_size=(2 * H, 2 * W), region="full")
    dataset = ClipDataset([recording()], [(0, 10), (0, 4), (0, 0)], config)
    target = dataset[0].target
    expected = [20 / W, 15 / H, 20 / W, 20 / H]
    np.testing.assert_allclose(target.boxes_cxcywh.numpy(), [expected], rtol=1e-6)
    assert target.classes.tolist() == [0]
    np.testing.assert_allclose(
        target.points.numpy(), [[[10 / W, 5 / H], [30 / W, 25 / H]]], rtol=1e-6
    )
    assert dataset[1].target.boxes_cxcywh.shape == (0, 4)
    np.testing.assert_allclose(dataset[2].target.boxes_cxcywh.numpy(), [[0.5, 0.5, 1, 1]])


def test_letterbox_leads_back_to_the_frame() -> None:
    config = DataConfig(image_size=(61, 67), region="full")
    clip = ClipDataset([recording()], [(0, 10)], config)[0]
    box = clip.target.boxes_cxcywh.numpy()[0] * (67, 61, 67, 61)
    corner = clip.source.letterbox.to_frame(box[:2] - box[2:] / 2)
    np.testing.assert_allclose(corner, (10, 5), atol=1e-4)
    assert clip.source[:2] == ("a", 10)


def test_region_of_the_file_is_used() -> None:
    pixels = np.zeros((1, H, W), np.uint8)
    pixels[:, 10:20, 20:40] = 99
    still = Video(
        "a", video(pixels).frames, np.zeros(1), (), {0: Labels.of([], [])}, None, None,
        Region(20, 10, 40, 20),
    )  # fmt: skip
    image = ClipDataset([still], [(0, 0)], DataConfig(image_size=(10, 20)))[0].image
    assert (image == 99).all()


def test_collate_makes_float_images_and_keeps_empty_targets() -> None:
    config = DataConfig(image_size=(H, W), channels=3, clip_frames=2, region="full")
    dataset = ClipDataset([recording()], [(0, 10), (0, 4)], config)
    batch = collate([dataset[0], dataset[1]])
    assert batch.images.shape == (2, 3, 2, H, W)
    assert batch.images.dtype == torch.float32
    assert torch.allclose(batch.images[0, :, 1], torch.tensor(20 / 255))
    assert [len(target.classes) for target in batch.targets] == [1, 0]
    assert torch.equal(batch.targets[0].boxes_cxcywh, dataset[0].target.boxes_cxcywh)
    assert [source.frame_index for source in batch.sources] == [10, 4]


def test_same_bits_for_any_number_of_workers_and_from_any_start() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (7, H, W), dtype=np.uint8)
    videos = [video(pixels, {i: Labels.of([[5, 5, 40, 30]], [0]) for i in range(7)})]
    config = DataConfig(image_size=(61, 67), clip_frames=2)
    dataset = ClipDataset(videos, labelled_samples(videos), config, seed=3, augment=True)

    def images(workers: int, skip: int = 0) -> torch.Tensor:
        order = EpochBatches(7, 3, seed=3, epoch=5, skip_batches=skip)
        loader: DataLoader = DataLoader(
            dataset, batch_sampler=order, num_workers=workers, collate_fn=collate
        )
        return torch.stack([batch.images for batch in loader])

    alone = images(0)
    assert alone.shape == (3, 3, 1, 2, 61, 67)
    assert torch.equal(images(2), alone)
    assert torch.equal(images(0, skip=1), alone[1:])
    assert (dataset[0, 1].image != dataset[1, 1].image).any()
    assert (dataset[1].image == dataset[0, 1].image).all()
    again = pickle.loads(pickle.dumps(dataset))
    assert (again[2, 3].image == dataset[2, 3].image).all()


def test_augmented_boxes_are_valid_and_inside() -> None:
    pixels = np.full((1, H, W), 90, np.uint8)
    labels = {0: Labels.of([[0, 0, 12, 9], [20, 10, 50, 35], [40, 30, 53, 37]], [0, 1, 0])}
    config = DataConfig(image_size=(61, 67))
    dataset = ClipDataset([video(pixels, labels)], [(0, 0)], config, augment=True)
    kept = 0
    for epoch in range(50):
        target = dataset[epoch, 0].target
        boxes = target.boxes_cxcywh
        low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
        assert (boxes[:, 2:] > 0).all()
        assert (low >= -1e-6).all()
        assert (high <= 1 + 1e-6).all()
        assert len(target.classes) == len(boxes) == len(target.points)
        kept += len(boxes)
    assert 100 < kept <= 150


def test_epoch_order() -> None:
    batches = list(EpochBatches(7, 3, seed=0, epoch=4))
    assert [len(batch) for batch in batches] == [3, 3, 3]
    order = [index for batch in batches for _, index in batch]
    assert sorted(order[:7]) == list(range(7))
    assert order[7:] == order[:2]  # filled up from the start of the same order
    assert {epoch for batch in batches for epoch, _ in batch} == {4}
    assert list(EpochBatches(7, 3, 0, 4, skip_batches=2)) == batches[2:]
    assert len(EpochBatches(7, 3, 0, 4, skip_batches=2)) == 1
    assert list(EpochBatches(7, 3, 0, 4, skip_batches=3)) == []
    assert list(EpochBatches(7, 3, 0, 5)) != batches
    assert list(EpochBatches(7, 3, 1, 4)) != batches


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_examples_than_a_batch_are_repeated(count: int) -> None:
    (batch,) = EpochBatches(count, 5, seed=0, epoch=0)
    assert [sum(index == i for _, index in batch) for i in range(count)] in ([5], [3, 2], [2, 3])


def test_unlabelled_frames_are_no_samples() -> None:
    assert labelled_samples([recording(), video(np.zeros((3, H, W), np.uint8))]) == [
        (0, 0),
        (0, 4),
        (0, 10),
    ]
