"""Small stills with bright boxes."""

import json

import cv2
import numpy as np

CLASSES = ("nerve", "vessel")
SIZE = (61, 67)


def write_stills(folder, classes=CLASSES, count=12, seed=3):
    """PNG files and coco.json: noise with one or two bright boxes, one still without any."""
    random = np.random.default_rng(seed)
    images, labels = [], []
    for number in range(count):
        picture = random.integers(0, 90, SIZE).astype(np.uint8)
        for row in range(0 if number == 5 else 1 + number % 2):
            x, y = (int(v) for v in random.integers(3, 37, 2))
            width, height = (int(v) for v in random.integers(11, 23, 2))
            picture[y : y + height, x : x + width] += np.uint8(110 + 40 * row)
            labels.append(
                {
                    "id": len(labels) + 1,
                    "image_id": number,
                    "category_id": row % len(classes) + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(folder / f"still{number:02}.png"), picture)
        height, width = SIZE
        images.append(
            {"id": number, "file_name": f"still{number:02}.png", "height": height, "width": width}
        )
    categories = [{"id": row + 1, "name": name} for row, name in enumerate(classes)]
    path = folder / "coco.json"
    document = {"images": images, "annotations": labels, "categories": categories}
    path.write_text(json.dumps(document))
    return path
