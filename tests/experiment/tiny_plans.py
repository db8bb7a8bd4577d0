"""A data set of a few small stills, and plans whose trainings take a second each."""

import json

import cv2
import numpy as np
import yaml

SIZE = (61, 67)
CONFIG = {
    "data": {
        "image_size": [64, 64],
        "split": {"by_folder": True, "similarity": 1.0},
        "augment": {"views": 2},
    },
    "model": {
        "backbone": {"width": 8, "depths": [1, 1, 1, 1]},
        **{"hidden_dim": 16, "num_heads": 2, "feedforward_dim": 24, "num_queries": 5},
        **{"encoder_layers": 1, "decoder_layers": 1, "query_groups": 2},
    },
    "train": {
        **{"epochs": 2, "batch_size": 3, "warmup_steps": 2, "learning_rate": 2e-3},
        **{"validate_epochs": 1, "workers": 0, "checkpoint_seconds": 0},
    },
}


def write_data(folder, counts=(("train", 7), ("validation", 3), ("test", 5))):
    """Parts, each with noisy stills of one bright box and coco.json."""
    random = np.random.default_rng(11)
    for part, count in counts:
        document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "nerve"}]}
        (folder / part).mkdir(parents=True)
        for number in range(count):
            picture = random.integers(0, 90, SIZE).astype(np.uint8)
            x, y = random.integers(3, 37, 2).tolist()
            picture[y : y + 17, x : x + 19] += np.uint8(120)
            cv2.imwrite(str(folder / part / f"{number}.png"), picture)
            height, width = SIZE
            document["images"].append(
                {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
            )
            box = {"bbox": [x, y, 19, 17], "area": 323, "iscrowd": 0}
            document["annotations"].append(
                {"id": number + 1, "image_id": number, "category_id": 1, **box}
            )
        (folder / part / "coco.json").write_text(json.dumps(document))
    return folder


def write_plan(folder, data, **changes):
    """student.yaml, teacher.yaml and plan.yaml in a folder; keywords change the plan."""
    student = CONFIG | {"data": CONFIG["data"] | {"path": str(data)}}
    wide = student["model"] | {"hidden_dim": 32, "num_heads": 4}
    (folder / "student.yaml").write_text(yaml.safe_dump(student))
    (folder / "teacher.yaml").write_text(yaml.safe_dump(student | {"model": wide}))
    plan = {
        "name": "tiny",
        "question": "Does it help?",
        "student": str(folder / "student.yaml"),
        "teachers": {"wide": {"config": str(folder / "teacher.yaml")}},
        "methods": {
            "plain": {"tune": {"train.learning_rate": [1e-3, 3e-3]}},
            "attention": {
                "teacher": "wide",
                "takes": ["plain"],
                "tune": {"distill.encoder.weight": [1, 10]},
            },
        },
        "baseline": "plain",
        "seeds": [0, 1],
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan | changes, sort_keys=False))
    return path
