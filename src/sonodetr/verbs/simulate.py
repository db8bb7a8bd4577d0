"""`sonodetr simulate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sonodetr.files import InputError
from sonodetr.verbs.answers import Json, Stopped, answer, check_json

if TYPE_CHECKING:
    from sonodetr.simulator.settings import SimulatorConfig

_HASHED_CLIPS = 4  # whose pixels are hashed; of the labels all are


def simulate(
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="folder for the data")] = None,
    named: Annotated[
        str, typer.Option("--set", metavar="NAME", help="needle-small or needle, in all its parts")
    ] = "",
    clips: Annotated[int | None, typer.Option(min=1, help="recordings  [default: 100]")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="frames of each  [default: 8]")] = None,
    size: Annotated[
        int | None,
        typer.Option(min=32, max=2048, help="height and width in pixels  [default: 160]"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="same seed, same recordings  [default: 0]")
    ] = None,
    domain: Annotated[
        Literal["standard", "shifted"] | None,
        typer.Option(help="shifted: other probes, scanners, anatomy  [default: standard]"),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0, help="frames a second  [default: each scanner its own]"),
    ] = None,
    empty: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="share without an instrument  [default: 0.15]"),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="processes; 0 is one for each processor core")
    ] = 0,
    preview: Annotated[
        bool, typer.Option("--preview", help="only a sheet of 24 clips, still and moving")
    ] = False,
    hashes: Annotated[
        bool, typer.Option("--hash", help="only show what identifies the data set; write nothing")
    ] = False,
    json_out: Json = "",
) -> None:
    """Simulate ultrasound video of needles with exact labels.

    Writes OUT/clip-00012/frame-0003.png and OUT/coco.json (COCO-video); with --set into OUT/train,
    OUT/validation, OUT/test and OUT/shifted. Started again, it goes on where it was stopped.

    \b
    Examples:
      sonodetr simulate simulated/needle-small --set needle-small
      sonodetr simulate mine --clips 50 --frames 30 --size 256 --seed 3
      sonodetr simulate look --set needle --preview
      sonodetr simulate --set needle-small --hash
    """
    given = {
        "clips": clips,
        "frames": frames,
        "size": size,
        "seed": seed,
        "domain": domain,
        "rate": rate,
        "empty": empty,
    }
    parts = _parts(named, {name: value for name, value in given.items() if value is not None})
    if hashes:
        rows = _hashes(parts)
        _answer_hashes(rows, json_out)
        return
    if out is None:
        raise InputError("no folder is named; give one: sonodetr simulate OUT")
    check_json(json_out, out)
    try:
        files = _preview(parts, out) if preview else _write(parts, out, workers)
    except KeyboardInterrupt:
        hint = "" if preview else "finished clips are kept; start it again to go on"
        raise Stopped(hint) from None
    result = {
        "parts": {part: config.model_dump(mode="json") for part, config in parts.items()},
        "files": [str(path) for path in files],
    }
    count = sum(config.clips for config in parts.values())
    text = ", ".join(str(path) for path in files)
    answer(result, json_out, f"{text}: {'of ' if preview else ''}{count} clips")


def _parts(named: str, given: dict[str, Any]) -> "Mapping[str, SimulatorConfig]":
    """Settings of every part; one without a name for a data set of one's own."""
    from sonodetr.simulator.datasets import configure, data_set

    if named and given:
        options = ", ".join(f"--{name}" for name in given)
        raise InputError(f"--set {named} is as it is; leave out {options}, or --set")
    if named:
        return data_set(named)
    if "size" in given:
        given["image_size"] = (given["size"], given.pop("size"))
    if "rate" in given:
        given["frame_rate_hz"] = given.pop("rate")
    return {"": configure(**given)}


def _write(parts: "Mapping[str, SimulatorConfig]", out: Path, workers: int) -> list[Path]:
    from sonodetr.simulator.write import check_folder, claim_folder, write_clips

    for step in (check_folder, claim_folder):  # so that none is begun where one is refused
        for part, config in parts.items():
            step(out / part, config)
    return [write_clips(config, out, part, workers) for part, config in parts.items()]


def _preview(parts: "Mapping[str, SimulatorConfig]", out: Path) -> list[Path]:
    from sonodetr.preview import write_preview

    return [
        path
        for part, config in parts.items()
        for path in write_preview(config, out, f"preview-{part}" if part else "preview")
    ]


def _hashes(parts: "Mapping[str, SimulatorConfig]") -> dict[str, dict[str, Any]]:
    from sonodetr.simulator.datasets import label_hash, pixel_hash

    return {
        part or "clips": {
            "clips": config.clips,
            "labels": label_hash(config),
            "pixels": pixel_hash(config, _HASHED_CLIPS),
            "pixels_of_clips": min(_HASHED_CLIPS, config.clips),
        }
        for part, config in parts.items()
    }


def _answer_hashes(rows: dict[str, dict[str, Any]], json_out: str) -> None:
    lines = [f"{'part':<10}  {'clips':>5}  {'SHA-256 of all labels':<64}  pixels of the first 4"]
    lines += [
        f"{part:<10}  {row['clips']:>5}  {row['labels']}  {row['pixels']}"
        for part, row in rows.items()
    ]
    answer({"hashes": rows}, json_out, "\n".join(lines))
