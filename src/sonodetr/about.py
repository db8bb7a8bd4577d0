"""What is installed, and what a run folder holds, as plain values."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sonodetr.contract import CONTRACT, check_files, read_contract
from sonodetr.formats import listing
from sonodetr.model.cost import count
from sonodetr.training.run import load_run, provenance


def installation() -> dict[str, Any]:
    """Versions of what is installed, devices of torch, endings of files that are read."""
    cards = range(torch.cuda.device_count())
    return {
        "versions": provenance(0)["versions"],
        "devices": [
            f"cpu ({torch.get_num_threads()} threads)",
            *(f"cuda:{card} ({torch.cuda.get_device_name(card)})" for card in cards),
        ],
        "recordings": {
            "images": listing.IMAGE_SUFFIXES,
            "video": listing.VIDEO_SUFFIXES,
            "DICOM": listing.DICOM_SUFFIXES,
            "MetaImage": listing.METAIMAGE_SUFFIXES,
        },
        "labels": ["COCO", "COCO-video", "CVAT", "Pascal VOC", "YOLO"],
    }


def model_folder(model: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run folder holds, and what its model costs; of an exported folder its contract.

    Raises:
        InputError: it is neither, has no usable weights, or files that are not of its contract.
    """
    if (Path(model) / CONTRACT).is_file():
        contract = read_contract(model)
        check_files(model, contract)
        return {"model": os.fspath(model)} | asdict(contract)
    network, config, facts = load_run(model)
    cost = count(network, config.data.image_size, config.data.channels, config.data.clip_frames)
    return {
        "model": os.fspath(model),
        "classes": facts.classes,
        "threshold": facts.threshold,
        "image_size": config.data.image_size,
        "parameters": cost.parameters,
        "gflops": round(cost.gflops, 3),
        "step": facts.step,
        "data": config.data.path,
        "validation": {name: facts.validation.get(name) for name in ("ap", "ap50")},
        "provenance": facts.provenance,
    }
