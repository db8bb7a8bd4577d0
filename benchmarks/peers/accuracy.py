"""How well ours and the peers learn from the same pictures, each by its authors' recipe.

    benchmarks/peers/.venv/bin/python benchmarks/peers/accuracy.py yolo11n --samples 38400 --test
    benchmarks/peers/.venv/bin/python benchmarks/peers/accuracy.py yolo11n --minutes 30 --test
    benchmarks/peers/.venv/bin/python benchmarks/peers/accuracy.py --table --json accuracy.json

One thread. `--minutes` is processor time of training alone: ten batches are timed first, and the
run is planned for as many pictures as fit; ours takes `--samples`. A killed run goes on with the
same command, one of ours begins anew. Everything is chosen on the validation part; `--test` looks
at the test part, once, when training is done.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonodetr.files import InputError, read_json, write_json

OURS = ("nano", "tiny")
PEERS = ("yolo11n", "yolo26n", "dfine-n")


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one detector; what is done already is not done again."""
    import torch
    from peer_data import figures, judge, read_parts, yolo_copy

    from sonodetr.evaluation.kept import write_kept
    from sonodetr.training.run import provenance

    torch.set_num_threads(1)
    budget = f"{options.minutes:g}min" if options.minutes else f"{options.samples}"
    rate = "" if options.rate == 1 else f"-rate{options.rate:g}"
    folder = options.out / f"{name}-{options.side}-{budget}{rate}-{options.seed}"
    parts = read_parts(options.data, options.side)
    data = yolo_copy(parts, options.out / "pictures")
    samples = _planned(name, folder, options, parts, data)
    settings = {"seed": options.seed, "rate": options.rate}
    if name in OURS:
        from train_ours import find, train

        frames = len(parts["train"].samples)
        facts = train(name, options.data, frames, folder, options.side, samples, **settings)
    elif name == "dfine-n":
        from train_dfine import find, train

        facts = train(parts, folder, options.side, samples, **settings)
    else:
        from train_yolo import find, train

        facts = train(name, data, folder, options.side, samples, **settings)
    path = folder / "result.json"
    result = read_json(path) if path.is_file() else {"name": name, "side": options.side}
    result |= facts | settings | {"minutes": options.minutes, "data": str(options.data)}
    for part in ("validation", "test") if options.test else ("validation",):
        if part not in result:
            kept = judge(parts[part], find(folder, parts[part]))
            write_kept(folder / f"{part}.npz", kept)
            result[part] = figures(kept)
    write_json(path, result | provenance(options.seed))
    return result


def _planned(name: str, folder: Path, options: argparse.Namespace, parts: Any, data: Path) -> int:
    """Pictures to see, decided once for a run."""
    path = folder / "plan.json"
    if not path.is_file():
        plan: dict[str, Any] = {"samples": options.samples}
        if options.minutes:
            if name == "dfine-n":
                from train_dfine import seconds_per_sample

                taken_s = seconds_per_sample(parts, options.side)
            else:
                from train_yolo import seconds_per_sample

                taken_s = seconds_per_sample(name, data, folder, options.side)
            samples = int(options.minutes * 60 / taken_s)
            plan = {"samples": samples, "seconds_per_sample": taken_s}
        write_json(path, plan | {"pictures": data.parent.name})
    plan = read_json(path)
    if plan["pictures"] != data.parent.name:
        raise InputError(f"{folder}: was trained on other pictures; choose another --out")
    return int(plan["samples"])


def collect(out: Path, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
    """All results that are done, and by how much the test AP of ours lies above that of the peers.

    Args:
        out: folder of the runs.
        earlier: what was collected before; it stays where its runs are no longer in `out`.

    Returns:
        `results`, a row a run; `differences`, each with the `ours` and `peer` it is of (names of
        their folders) and `ap`, `ap50`, `ap75` with 95% intervals by recording, paired.
    """
    from peer_data import figures

    from sonodetr.benchmark.machine import describe
    from sonodetr.evaluation.kept import read_kept

    folders = [path.parent for path in sorted(out.glob("*/result.json"))]
    results = [read_json(folder / "result.json") | {"run": folder.name} for folder in folders]
    tested = [row for row in results if "test" in row]
    kept = {row["run"]: read_kept(out / row["run"] / "test.npz") for row in tested}
    differences = [
        {"ours": ours["run"], "peer": peer["run"]} | figures(kept[ours["run"]], kept[peer["run"]])
        for ours in tested
        if ours["name"] in OURS
        for peer in tested
        if peer["name"] in PEERS
    ]
    if earlier:
        there = {row["run"] for row in results}
        before = [row for row in earlier["results"] if row["run"] not in there]
        results = sorted([*before, *results], key=lambda row: (row["name"], row["samples"]))
        gone = {row["run"] for row in before}
        differences += [
            each for each in earlier["differences"] if {each["ours"], each["peer"]} & gone
        ]
    return {"results": results, "differences": differences, "machine": describe()}


def table(
    collected: dict[str, Any], milliseconds: Mapping[tuple[str, int], float] | None = None
) -> str:
    """Markdown: a row a run, and a line for every difference of ours from a peer.

    Args:
        milliseconds: by name and side of the input, what a picture takes; a column if given.
    """
    head = ["detector", "pictures seen", "minutes of one core", "AP on validation", "AP on test"]
    head += ["AP50", "AP75", *(["ms a picture"] if milliseconds else [])]
    rows = [head, ["---"] * len(head)]
    names = {}
    for result in collected["results"]:
        minutes = f"{result['processor_s'] / 60:.0f}"
        title = result["name"] + (f", rate x {result['rate']:g}" if result["rate"] != 1 else "")
        names[result["run"]] = f"{title} ({result['samples']:,} pictures, {minutes} min)"
        test = result.get("test", {})
        cells = [f"{test[name]['value']:.3f}" if test else "" for name in ("ap50", "ap75")]
        whole = _with_interval(test["ap"], "") if test else ""
        validation = f"{result['validation']['ap']['value']:.3f}"
        if milliseconds:
            cells.append(f"{milliseconds[result['name'], result['side']]:.2f}")
        rows.append([title, f"{result['samples']:,}", minutes, validation, whole, *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    for each in collected["differences"]:
        gain = _with_interval(each["ap"], "+")
        lines += ["", f"{names[each['ours']]} less {names[each['peer']]}: AP {gain}"]
    return "\n".join(lines)


def _with_interval(figure: dict[str, float | None], sign: str) -> str:
    """One recording alone has no interval."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    interval = "" if low is None else f" ({low:{sign}.3f} to {high:{sign}.3f})"
    return f"{value:{sign}.3f}{interval}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detector", nargs="?", choices=(*OURS, *PEERS))
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--samples", type=int, default=38_400, help="pictures to see")
    budget.add_argument("--minutes", type=float, default=0, help="of training on one thread")
    parser.add_argument("--rate", type=float, default=1, help="times the authors' learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=160, help="of the input in pixels")
    parser.add_argument("--data", type=Path, default=Path("simulated/needle-small"))
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--test", action="store_true", help="judge on the test part too")
    parser.add_argument("--table", action="store_true", help="only show what is done")
    parser.add_argument("--json", type=Path, help="add what is done to this file too")
    options = parser.parse_args()
    if not (options.table or options.detector):
        parser.error(f"name a detector: {', '.join((*OURS, *PEERS))}")
    if options.minutes and options.detector in OURS:
        parser.error(f"{options.detector} takes --samples, not --minutes")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    try:
        if not options.table:
            run(options.detector, options)
        known = options.json and options.json.is_file()
        collected = collect(options.out, read_json(options.json) if known else None)
        if options.json:
            write_json(options.json, collected)
        print(table(collected))
    except InputError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
