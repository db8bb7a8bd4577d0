"""How well the peers learn from the same pictures: from scratch, each by its own authors' recipe.

    benchmarks/peers/.venv/bin/python benchmarks/peers/accuracy.py yolo11n --samples 38400 --test
    benchmarks/peers/.venv/bin/python benchmarks/peers/accuracy.py yolo11n --minutes 30 --test
    benchmarks/peers/.venv/bin/python benchmarks/peers/accuracy.py --table

One thread. `--minutes` is processor time of training alone: ten batches are timed first, and the
run is planned for as many pictures as fit. A killed run goes on with the same command. Everything
is chosen on the validation part; `--test` looks at the test part, once, when training is done.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from sonodetr.files import InputError, read_json, write_json

PEERS = ("yolo11n", "yolo26n", "dfine-n")


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one peer; what is done already is not done again."""
    import torch
    from peer_data import judge, pictures_of, read_parts, yolo_copy

    from sonodetr.training.run import provenance

    torch.set_num_threads(1)
    budget = f"{options.minutes:g}min" if options.minutes else f"{options.samples}"
    rate = "" if options.rate == 1 else f"-rate{options.rate:g}"
    folder = options.out / f"{name}-{options.side}-{budget}{rate}-{options.seed}"
    parts = read_parts(options.data, options.side)
    data = yolo_copy(parts, options.out / "pictures")
    samples = _planned(name, folder, options, parts, data)
    settings = {"seed": options.seed, "rate": options.rate}
    if name == "dfine-n":
        from train_dfine import predict, train

        facts = train(parts, folder, options.side, samples, **settings)
    else:
        from train_yolo import predict, train

        facts = train(name, data, folder, options.side, samples, **settings)
    path = folder / "result.json"
    result = read_json(path) if path.is_file() else {"name": name, "side": options.side}
    result |= facts | settings | {"minutes": options.minutes, "data": str(options.data)}
    for part in ("validation", "test") if options.test else ("validation",):
        if part not in result:
            metrics = judge(parts[part], predict(folder, pictures_of(parts[part])))
            result[part] = {key: getattr(metrics, key) for key in ("ap", "ap50", "ap75")}
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


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, a row a run."""
    lines = [
        "| detector | pictures seen | minutes (processor) | rate | seed "
        "| validation AP / AP50 / AP75 | test AP / AP50 / AP75 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        figures = [
            " / ".join(f"{result[part][key]:.3f}" for key in ("ap", "ap50", "ap75"))
            if part in result
            else ""
            for part in ("validation", "test")
        ]
        cells = [result["name"], f"{result['samples']:,}", f"{result['processor_s'] / 60:.0f}"]
        cells += [f"{result['rate']:g}", str(result["seed"]), *figures]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", nargs="?", choices=PEERS)
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
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    try:
        if not options.table:
            if options.peer is None:
                parser.error(f"name a peer: {', '.join(PEERS)}")
            run(options.peer, options)
        done = sorted(options.out.glob("*/result.json"))
        print(table([read_json(path) for path in done]))
    except InputError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
