"""What is installed, and what a model is, as plain values."""

import os
from dataclasses import asdict
from typing import Any

import torch

from sonodetr.bundled import model_folder, model_names, preset_names
from sonodetr.contract import CONTRACT, check_files, read_contract
from sonodetr.formats import listing
from sonodetr.model.cost import count
from sonodetr.training.run import load_run, provenance


def installation() -> dict[str, Any]:
    """Versions of what is installed, devices of torch, endings of files that are read, and names of
    what is bundled."""
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
        "presets": preset_names(),
        "models": model_names(),
    }


def model_facts(model: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run folder or bundled model holds, and costs; of an exported folder its contract.

    Raises:
        InputError: it is neither, has no usable weights, or files that are not of its contract.
    """
    folder = model_folder(model)
    if (folder / CONTRACT).is_file():
        contract = read_contract(folder)
        check_files(folder, contract)
        return {"model": os.fspath(model)} | asdict(contract)
    network, config, facts = load_run(folder)
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
