"""`sonodetr export`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sonodetr.files import InputError
from sonodetr.verbs.answers import Json, answer, check_json


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="run folder, or name of a bundled model")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder to write")],
    format: Annotated[
        Literal["onnx", "openvino"], typer.Option(help="runtime that is to run it")
    ] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="weights and activations in 8 bits; needs --calibration")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="data of the training: its train part sets the ranges of --int8, the rest tells "
            "what that costs",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="recordings to compare with torch on, beside simulated  [default: those of the "
            "training, where they still are]",
        ),
    ] = None,
    allow_loss: Annotated[
        float, typer.Option(min=0, max=1, help="largest loss of average precision through --int8")
    ] = 0.005,
    json_out: Json = "",
) -> None:
    """Write a trained model as a folder that runs without torch.

    Everything from pixels to detections is in the graph. Every export is compared with torch and
    fails where scores or normalised boxes differ by more than 0.0001. The folder is opened by
    predict, live, evaluate, info and benchmark like a run folder.

    \b
    Examples:
      sonodetr export runs/nerves nerves-onnx
      sonodetr export runs/nerves nerves-openvino --format openvino --check recordings/
      sonodetr export runs/nerves nerves-int8 --format openvino --int8 --calibration data/coco.json
    """
    from sonodetr.export.convert import export_model

    if calibration is not None and not int8:
        raise InputError("--calibration is for --int8; give that too, or use --check DATA")
    check_json(json_out, out)
    contract = export_model(
        model,
        out,
        format=format,
        int8=int8,
        calibration=calibration,
        check=check,
        allow_loss=allow_loss,
    )
    names = [*contract.files_sha256, "contract.json"]
    result = {
        "model": model,
        "out": str(out),
        "runtime": contract.runtime,
        "precision": contract.precision,
        "files": names,
        "bytes": sum((out / name).stat().st_size for name in names),
        "parity": contract.parity,
    }
    answer(result, json_out, _text(result))


def _text(result: dict[str, Any]) -> str:
    """One line: size, distance from torch, and what 8 bits cost."""
    parity = result["parity"]
    furthest = max(parity["largest_difference"].values())
    count = parity["frames"]
    frames = count["simulated"] + count["real"] - count["undecided"]
    text = (
        f"{result['out']}: {result['runtime']}, {result['precision']}, "
        f"{result['bytes'] / 1e6:.2f} MB; in float32 at most {furthest:.1e} from torch on "
        f"{frames} frames"
    )
    if "int8" not in parity:
        return text
    ap, loss = parity["int8"], parity["int8"]["loss"]
    interval = "" if loss["low"] is None else f" ({loss['low']:.4f} to {loss['high']:.4f})"
    return (
        f"{text}; AP {ap['before']:.4f}, in 8 bits {ap['after']:.4f}, a loss of "
        f"{loss['value']:.4f}{interval} on {ap['frames']} frames"
    )
