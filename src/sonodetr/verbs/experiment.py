"""`sonodetr experiment`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonodetr.files import InputError
from sonodetr.verbs.answers import MOST_THREADS, Json, Stopped, answer, check_json

if TYPE_CHECKING:
    from sonodetr.experiment.plan import Plan
    from sonodetr.experiment.work import Experiment


def experiment(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the experiment")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="changes to the experiment"),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="folder of all runs; experiments that share it share runs")
    ] = Path("runs/experiments"),
    workers: Annotated[int, typer.Option(min=1, help="processes that train side by side")] = 1,
    threads: Annotated[
        int, typer.Option(min=1, max=MOST_THREADS, help="threads of each training")
    ] = 1,
    ray: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="train on an existing Ray cluster whose machines share the working folder; "
            "auto finds one",
        ),
    ] = "",
    listed: Annotated[
        bool, typer.Option("--list", help="only show what is done, running, ready and waiting")
    ] = False,
    adopt: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="only take in finished runs of the same code, from a run folder "
            "or a folder of them",
        ),
    ] = None,
    trained_at: Annotated[
        str,
        typer.Option(
            metavar="REVISION", help="with --adopt: their code, where run.json does not name it"
        ),
    ] = "",
    results: Annotated[
        Path | None, typer.Option(help="folder for the results  [default: OUT/results/NAME]")
    ] = None,
    json_out: Json = "",
) -> None:
    """Train teachers and students, method by method and seed by seed, and compare them.

    What a method tunes is chosen on validation data; the test part is looked at when all is
    trained, and chooses nothing. A run is never trained twice. Stopped or killed, it goes on where
    it was when it is started again, to the same bits; started twice, both share the work.

    \b
    Examples:
      sonodetr experiment configs/experiments/paper.yaml --list
      sonodetr experiment configs/experiments/paper.yaml --workers 2
      sonodetr experiment configs/experiments/paper.yaml "seeds=[0, 1]" --out runs/short
      sonodetr experiment configs/experiments/ablation.yaml --adopt runs/distillation
    """
    from sonodetr.experiment.finish import check_test_parts
    from sonodetr.experiment.plan import load_plan
    from sonodetr.experiment.pool import train_all
    from sonodetr.experiment.work import Experiment

    plan = load_plan(config, overrides or ())
    if trained_at and not adopt:
        raise InputError("--trained-at says what --adopt cannot know; give both")
    if adopt:
        return _adopt(adopt, out, trained_at, json_out)
    if listed:
        return _list(plan, out, json_out)
    check_test_parts(plan)
    folder = results or out / "results" / plan.name
    check_json(json_out, folder)
    command = shlex.join(["sonodetr", "experiment", str(config), *(overrides or ())])
    try:
        if ray:
            from sonodetr.experiment.cluster import train_on_ray

            train_on_ray(plan, out, ray, threads)
        else:
            train_all(plan, out, workers, threads)
        result = _results(Experiment(plan, out), folder, command)
    except KeyboardInterrupt:
        raise Stopped("start it again to go on") from None
    answer(result, json_out, f"{result['report']}: open it in a browser")


def _results(experiment: "Experiment", folder: Path, command: str) -> dict[str, Any]:
    """Look at the test part, write results.json and the report."""
    from sonodetr.experiment.finish import chosen_at_an_end, trained_rows
    from sonodetr.experiment.report import write_report
    from sonodetr.experiment.results import RESULTS, collect

    for line in chosen_at_an_end(experiment):
        print(line, file=sys.stderr)
    result = collect(experiment.plan, trained_rows(experiment), folder, command)
    print(f"{result['tried']} configurations were tried on validation data", file=sys.stderr)
    page = write_report(result, folder)
    said = {key: result[key] for key in ("name", "question", "tried", "comparisons")}
    return {"results": str(folder / RESULTS), "report": str(page)} | said


def _adopt(folders: list[Path], out: Path, revision: str, json_out: str) -> None:
    from sonodetr.experiment.adopt import adopt

    taken, left = adopt(folders, out, revision)
    for line in left:
        print(line, file=sys.stderr)
    answer(
        {"taken": [str(folder) for folder in taken], "left": left},
        json_out,
        f"{out}: took in {len(taken)} runs, left out {len(left)}",
    )


def _list(plan: "Plan", out: Path, json_out: str) -> None:
    from sonodetr.experiment.view import list_units, print_units
    from sonodetr.experiment.work import Experiment

    rows = list_units(Experiment(plan, out))
    if json_out != "-":
        print_units(rows)
    states = [row["state"] for row in rows]
    text = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    tried = plan.configurations_tried
    answer(
        {"runs": rows, "configurations_tried": tried},
        json_out,
        f"{text}; {tried} configurations are compared on validation data",
    )
