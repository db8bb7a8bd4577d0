"""Write the tables of README.md and docs/ from the results that are committed.

A page holds `<!-- table docs/results/NAME/results.json -->`, the table, `<!-- end -->`; `answer` in
place of `table` is the answer of that experiment in sentences. Run it after changing the results.
"""

import re
import sys
from pathlib import Path

from sonodetr.experiment.story import answer, markdown, result_table
from sonodetr.files import read_json, write_text

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"(<!-- (table|answer) (\S+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with its blocks as the results say.

    Raises:
        InputError: a file of results is missing.
    """

    def fill(match: re.Match[str]) -> str:
        begin, what, path, end = match.groups()
        results = read_json(ROOT / path)
        said = markdown(result_table(results)) if what == "table" else " ".join(answer(results))
        return f"{begin}{said.strip()}{end}"

    return _BLOCK.sub(fill, text)


def main() -> int:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            write_text(page, new)
            print(page.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
