"""Boxes of nerves and vessels from the masks of usgra-seg.

Upstream: the project usgra-seg (GitHub, tmkand/usgra-seg), folder dataset, with images/*.png and
masks/*.png. Data: CC BY 4.0, Timm Kandaouroff. The upstream masks are semantic, so two nerves that
touch become one box; a box is one 8-connected component of 100 px or more.

    python scripts/label_usgra.py usgra-seg/dataset usgra-seg/dataset/coco.json
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from label_tool import Coco, run

from sonodetr.files import InputError

# Palette of the indexed masks, as cv2 decodes them (blue, green, red).
COLOUR_BGR = {"background": (0, 0, 0), "nerve": (0, 0, 128), "vessel": (0, 128, 0)}
CLASSES = ("nerve", "vessel")
SMALLEST_AREA_PX = 100


def build(folder: Path) -> Coco:
    """COCO labels of all masks of a folder, by file name."""
    paths = sorted((folder / "masks").glob("*.png"))
    if not paths:
        raise InputError(f"{folder}: no masks/*.png; give the folder 'dataset' of usgra-seg")
    images, annotations = [], []
    for image_id, path in enumerate(paths, start=1):
        mask = read_mask(path)
        if not (folder / "images" / path.name).is_file():
            raise InputError(f"{folder / 'images' / path.name}: no such file, but there is a mask")
        height, width = mask.shape
        images.append({"id": image_id, "file_name": path.name, "width": width, "height": height})
        for category_id in range(1, len(CLASSES) + 1):
            for *box, area in components(mask == category_id):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box,
                        "area": area,
                        "iscrowd": 0,
                    }
                )
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_mask(path: Path) -> np.ndarray:
    """`[H, W]` uint8: 0 background, 1 nerve, 2 vessel."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"{path}: not a readable PNG; copy it again")
    mask = np.full(picture.shape[:2], 255, np.uint8)
    for index, colour in enumerate(COLOUR_BGR.values()):
        mask[(picture == colour).all(-1)] = index
    if (mask == 255).any():
        raise InputError(f"{path}: a colour that is none of {', '.join(COLOUR_BGR)}")
    return mask


def components(region: np.ndarray) -> list[list[int]]:
    """Left, top, width, height and area of each 8-connected component, in scan order."""
    _, _, table, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    return [row for row in table[1:].tolist() if row[-1] >= SMALLEST_AREA_PX]


if __name__ == "__main__":
    sys.exit(run(build, __doc__))
