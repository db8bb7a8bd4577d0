from pathlib import Path
from sonodetr.experiment.story import Results


def attention_parts(results: Results, folder: Path) -> list[str]:
    return []


def failure_parts(results: Results, folder: Path) -> list[str]:
    return []
