"""The oldest versions that pyproject.toml allows, as constraints for pip; to test them.

python -m tests.lowest > lowest.txt
pip install -c lowest.txt -e '.[test]'      # in a fresh virtual environment
python -m pytest
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

TOOLS = ("mypy", "ruff")  # of developers: they check the code, and run none of it


def main() -> None:
    """Print a line for each package: the newest patch of the oldest version."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    project = project["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        needed = Requirement(line)
        for bound in needed.specifier:
            if bound.operator == ">=" and needed.name not in TOOLS:
                exact = bound.version if bound.version.count(".") > 1 else f"{bound.version}.*"
                sys.stdout.write(f"{needed.name}=={exact}\n")


if __name__ == "__main__":
    main()
