"""Put a trained model into the package, with a model card of what its run folder knows:

    python scripts/bundle_model.py runs/needle-student nano --latency speed/benchmark.json

Only models of simulated data that anybody can make again, trained from a clean commit and evaluated
on the test and the shifted part of it:

    sonodetr evaluate RUN DATA --split test
    sonodetr evaluate RUN DATA/shifted
"""

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from sonodetr import bundled
from sonodetr.config import Config
from sonodetr.config_file import dump_config, parse_config
from sonodetr.contract import sha256
from sonodetr.export.folder import whole_folder
from sonodetr.files import InputError, read_json, write_text
from sonodetr.model.cost import Cost, count
from sonodetr.simulator.datasets import data_set
from sonodetr.training.run import (
    CONFIG,
    DIVISION,
    RECORDINGS,
    TEACHER,
    WEIGHTS,
    RunInfo,
    load_run,
    save_info,
)

PARTS = ("test", "shifted")
FIGURES = {
    "AP, IoU 0.50:0.95": "ap",
    "AP50": "ap50",
    "recall": "recall",
    "precision": "precision",
    "false detections a frame": "false_positives_per_frame",
    "tip error, median (mm)": "tip_error_median_mm",
    "tip found within 3 mm": "tip_within_3_mm",
    "angle error, median (degrees)": "angle_error_median_deg",
    "needles never detected": "never_detected",
}


def main() -> None:
    """Check the run, then copy it and write its card; all or nothing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("name", help="by which it will be opened")
    parser.add_argument("--latency", type=Path, help="benchmark.json that times the run")
    options = parser.parse_args()
    print(bundle(options.run, options.name, options.latency))


def bundle(run: Path, name: str, latency: Path | None = None) -> Path:
    """Bundle a run under a name; its folder in the package.

    Raises:
        InputError: the run is not one that may be bundled, or its files cannot be read.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise InputError(f"{name!r} is no name for a model; use a-z, 0-9 and hyphens")
    model, own, info = load_run(run)
    info.provenance["versions"].pop("platform", None)  # the kernel of one machine
    revision = str(info.provenance["git_revision"])
    if revision == "None" or revision.endswith("-dirty"):
        raise InputError(
            f"{run}: was trained from source that no commit holds (git_revision {revision}); "
            "commit, and train again"
        )
    config = neutral(run, own, name)
    cost = count(model, config.data.image_size, config.data.channels, config.data.clip_frames)
    evaluations = read_evaluations(run, info)
    times = read_times(latency, run, name) if latency else ""
    with whole_folder(bundled.MODELS / name) as folder:
        shutil.copyfile(run / WEIGHTS, folder / WEIGHTS)  # the best on validation data
        for file in (DIVISION, RECORDINGS):
            shutil.copyfile(run / file, folder / file)
        save_info(folder, info)
        write_text(folder / CONFIG, dump_config(config))
        card = (
            introduction(config, info, cost),
            origin(name, run, config, info),
            figures(evaluations, info.threshold),
            times,
            limits(evaluations),
        )
        write_text(folder / "README.md", "\n".join(part for part in card if part))
    return bundled.MODELS / name


def neutral(run: Path, config: Config, name: str) -> Config:
    """The config under its new name, without the places of this machine.

    Raises:
        InputError: the data is none that the simulator makes, or the name is not allowed.
    """
    if config.data.unlabelled or config.model.weights or config.model.backbone.path:
        raise InputError(
            f"{run}: began with other data or weights (data.unlabelled, model.weights or "
            "model.backbone.path), which a bundled model cannot name; train it without"
        )
    values = config.model_dump(mode="json")
    data = Path(config.data.path.removeprefix("simulator:")).name
    try:
        data_set(data)
    except InputError as error:
        raise InputError(f"{run}: a bundled model learns from simulated data; {error}") from None
    values["name"] = name
    values["data"]["path"] = data
    values["distill"] |= {"teacher": Path(config.distill.teacher).name, "cache": ""}
    return parse_config(values, str(run))


def read_evaluations(run: Path, info: RunInfo) -> dict[str, dict[str, Any]]:
    """What was measured of the run on each of `PARTS`.

    Raises:
        InputError: it was not, or with other weights.
    """
    found = {}
    for path in sorted(run.glob("evaluation-*/evaluation.json")):
        result = read_json(path)
        part = Path(result["data"]).name if result["split"] == "all" else result["split"]
        if part not in PARTS or result.get("past", "real") != "real":
            continue
        check_weights(result, path, run, info)
        found[part] = result
    for part in PARTS:
        if part not in found:
            raise InputError(
                f"{run}: is not evaluated on the {part} part of its data; run: sonodetr evaluate "
                f"{run} {'DATA --split test' if part == 'test' else 'DATA/shifted'}"
            )
    return found


def check_weights(evaluation: dict[str, Any], path: Path, run: Path, info: RunInfo) -> None:
    """Check that an evaluation is of the weights that a run has now.

    Raises:
        InputError: it is of others.
    """
    if evaluation["threshold"] != info.threshold:
        raise InputError(f"{path}: is of other weights than {run}; evaluate it again")


def introduction(config: Config, info: RunInfo, cost: Cost) -> str:
    """What it is, and how it is used."""
    data, name = config.data, config.name
    height, width = data.image_size
    sees = "single frames" if data.clip_frames == 1 else f"clips of {data.clip_frames} frames"
    points = ", with tip and entry" if config.model.points else ""
    return f"""# {name}

A detection transformer that finds objects of class {", ".join(info.classes)}{points}, in {sees} of
simulated ultrasound. It sees {height} x {width} pixels and has {cost.parameters / 1e6:.2f} million
parameters; a detection takes {cost.gflops:.2f} GFLOPs in torch.
**Not a medical device**: it has learnt from simulated data only. Licence: Apache-2.0.

```
sonodetr live {name} simulator:7
sonodetr predict {name} needle.mp4 --out predictions
```

In Python: `sonodetr.load("{name}").predict("needle.mp4")`.
"""


def origin(name: str, run: Path, config: Config, info: RunInfo) -> str:
    """Data, commands, to be run in a checkout, and versions that make it again."""
    data, made = config.data.path, info.provenance
    taught = bool(config.distill.teacher)
    verb = "distill" if taught else "train"
    teacher = config.distill.teacher
    also = f" --teacher runs/{teacher}" if taught else ""
    before = f"sonodetr train configs/{teacher}.yaml data.path={data}\n" if taught else ""
    lines = [
        f"seed {made['seed']}, best validation AP ({info.validation['ap'] or 0:.3f}) at step "
        f"{info.step}",
        f"git revision {made['git_revision']}",
        ", ".join(f"{package} {version}" for package, version in made["versions"].items()),
        f"SHA-256 of `{WEIGHTS}`: {sha256(run / WEIGHTS)}",
    ]
    if taught:
        fingerprint = read_json(run / TEACHER)["fingerprint"]
        lines.append(f"fingerprint of the teacher, {teacher}: {fingerprint}")
    if config.model.backbone.pretrained:
        lines.append(f"the backbone, {config.model.backbone.name}, began with ImageNet weights")
    return f"""## How it was made

From the training part of the simulated data set `{data}`; `{CONFIG}` beside this page has every
setting.

```
sonodetr simulate {data} --set {data}
{before}sonodetr {verb} src/sonodetr/models/{name}/{CONFIG}{also}
```

""" + "".join(f"- {line}\n" for line in lines)


def figures(evaluations: dict[str, dict[str, Any]], threshold: float) -> str:
    """A table of what was measured on each part."""
    intervals = {part: result["intervals"] for part, result in evaluations.items()}
    bounds = intervals["test"]
    heads = (
        f"{part} ({evaluations[part]['figures']['frames']} frames, {intervals[part]['units']} "
        f"{intervals[part]['unit']}s)"
        for part in PARTS
    )
    rows = "".join(
        f"| {label} | {' | '.join(figure(intervals[part], name) for part in PARTS)} |\n"
        for label, name in FIGURES.items()
        if name in bounds["figures"]
    )
    return f"""## Figures

With {100 * bounds["confidence"]:.0f}% intervals by {bounds["unit"]}, on parts that it has not seen.
`shifted` has other probes, scanners and anatomy. All but AP and AP50 are at the model's threshold,
{threshold:.3f}.

| figure | {" | ".join(heads)} |
|---|---|---|
{rows}"""


def figure(intervals: dict[str, Any], name: str) -> str:
    """A value with its interval."""
    found = intervals["figures"].get(name) or {"value": None}
    if found["value"] is None:
        return "undefined"
    between = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})"
    return f"{found['value']:.3f}{between}"


def read_times(path: Path, run: Path, name: str) -> str:
    """A table of how long a frame takes.

    Raises:
        InputError: the file cannot be read, or says nothing of the run.
    """
    result = read_json(path)
    rows = [row for row in result["results"] if row["model"] in (name, str(run))]
    if not rows:
        raise InputError(f"{path}: does not time {run}; run: sonodetr benchmark {run} --out FOLDER")
    lines = "".join(
        f"| {row['runtime']}, {row['precision']} | {' x '.join(map(str, row['image_size']))} "
        f"| {row['threads']} | {row['frame_ms']['p50']:.2f} | {row['frame_ms']['p99']:.2f} "
        f"| {row['file_mb']:.2f} |\n"
        for row in rows
    )
    notes = "".join(f"\nNote: {note}\n" for note in result["notes"])
    return f"""## Time

From the pixels of a frame to its detections, on {result["machine"]["processor"]}.

| runtime | picture (pixels) | threads | median (ms) | 99th percentile (ms) | size (MB) |
|---|---|---|---|---|---|
{lines}{notes}"""


def limits(evaluations: dict[str, dict[str, Any]]) -> str:
    """What it must not be used for."""
    ap = {part: figure(evaluations[part]["intervals"], "ap") for part in PARTS}
    return f"""## Limits

- It has seen simulated ultrasound only. How well it does on recordings of people is not known.
- The AP is {ap["test"]} on pictures like those it learnt from, and
  {ap["shifted"]} where probe, scanner and anatomy differ.
- It finds nothing but the classes named above, and misses some of them.
- It is for research and teaching, and no medical device: nothing about a patient may rest on it.
"""


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
