"""Made-up recordings and detections, the same for a seed."""

import numpy as np

from sonodetr.types import Detections, Labels, Video

CLASSES = ("nerve", "vessel", "needle")


class NoPictures:
    """Frames that only know how many they are."""

    size = (480, 640)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.zeros(self.size, np.uint8)


def video(key: str, labels: dict[int, Labels], classes: tuple[str, ...] = CLASSES) -> Video:
    count = max(labels, default=0) + 1
    return Video(key, NoPictures(count), np.arange(count) / 30, classes, labels)


def detected(
    boxes: list[list[float]],
    scores: list[float],
    classes: list[int],
    class_names: tuple[str, ...] = CLASSES,
) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
        class_names,
    )


def make_up(
    num_videos: int, num_frames: int, seed: int = 0, *, crowd: float = 0.15, per_frame: int = 13
) -> tuple[list[Video], dict[tuple[str, int], Detections]]:
    """Recordings with every other frame labelled, and a middling detector's answers."""
    random = np.random.default_rng(seed)
    videos, detections = [], {}
    for number in range(num_videos):
        labels = {}
        for frame in range(0, 2 * num_frames, 2):  # every other frame is unlabelled
            count = random.integers(0, 5)  # 0: known to be empty
            corner = random.uniform(0, 300, (count, 2))
            boxes = np.concatenate([corner, corner + random.uniform(8, 180, (count, 2))], 1)
            classes = random.integers(0, 2, count)  # nothing is ever a needle
            labels[frame] = Labels.of(boxes, classes, crowd=random.random(count) < crowd)
            picks = random.integers(0, max(count, 1), per_frame)
            base = boxes[picks] if count else random.uniform(0, 300, (per_frame, 4))
            scores = -np.sort(-random.integers(0, 20, per_frame) / 20)  # many ties
            found = base + random.normal(0, 1, (per_frame, 4)) * (1 + 14 * (1 - scores[:, None]))
            found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
            right = classes[picks] if count else np.zeros(per_frame, int)
            classes_found = np.where(random.random(per_frame) < 0.8, right, 2)
            detections[f"v{number}", frame] = detected(found, scores, classes_found)
        videos.append(video(f"v{number}", labels))
    return videos, detections
