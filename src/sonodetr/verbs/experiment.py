"""`sonodetr experiment`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sonodetr.verbs.answers import Json, Stopped, answer


def experiment(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the experiment")],
    out: Annotated[
        Path, typer.Option(help="folder of all runs; experiments that share it share runs")
    ] = Path("runs/experiments"),
    workers: Annotated[int, typer.Option(min=1, help="processes that train side by side")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="threads of each")] = 1,
    listed: Annotated[
        bool, typer.Option("--list", help="only show what is done, running and waiting")
    ] = False,
    json_out: Json = "",
) -> None:
    """Train teachers and students, method by method and seed by seed, and compare them.

    What a method tunes is chosen on validation data; the test part is looked at once, when all is
    trained. A run is never trained twice. Stopped or killed, it goes on where it was when it is
    started again, to the same bits; started twice, both share the work.

    \b
    Examples:
      sonodetr experiment configs/experiments/paper.yaml --list
      sonodetr experiment configs/experiments/paper.yaml --workers 2
    """
    from sonodetr.experiment.plan import load_plan
    from sonodetr.experiment.pool import train_all
    from sonodetr.experiment.view import list_units, print_units
    from sonodetr.experiment.work import Experiment

    plan = load_plan(config)
    if listed:
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
        return
    try:
        train_all(plan, out, workers, threads)
    except KeyboardInterrupt:
        raise Stopped("start it again to go on") from None
    result: dict[str, Any] = {"configurations_tried": plan.configurations_tried}
    answer(result, json_out, f"{out}: all {len(list(plan.units()))} trainings are done")
