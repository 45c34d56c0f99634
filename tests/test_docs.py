"""The documents are in step with the code. `python -m tests.test_docs` writes docs/cli.md anew."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from medart_cli import cli
from medart_cli import options as config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SIMPLE = {int: "number", float: "number", bool: "", str: "text", Path: "path"}


def options_of(config_type):
    """Name, values, default, help and panel of each option, as the dataclass says them."""
    common = {*inspect.signature(config.CommonConfig).parameters}
    parameters = inspect.signature(config_type).parameters.values()
    for parameter in sorted(parameters, key=lambda item: item.name in common):
        kind, information, *_ = get_args(parameter.annotation)
        name = "--" + parameter.name.replace("_", "-")
        if type(information).__name__ == "ArgumentInfo":
            name = parameter.name.upper()
        elif isinstance(information.default, str):
            name = ", ".join((information.default, *(information.param_decls or ())))
        default = parameter.default
        unset = default in (None, parameter.empty, ()) or default is False
        shown = "" if unset else f"`{default}`"
        yield (
            information.rich_help_panel or "Arguments", name, values(kind) + bounds(information),
            shown, information.help,
        )  # fmt: skip


def bounds(information):
    """Word the bounds of a number as its help does."""
    low, high = information.min, information.max
    if low is None:
        return ""
    return f", {low} or more" if high is None else f", {low} to {high}"


def values(kind):
    if get_origin(kind) is Literal:
        return " / ".join(get_args(kind))
    if get_origin(kind) is list:
        return "repeatable"
    inner = [item for item in get_args(kind) if item is not type(None)]
    return values(inner[0]) if inner else SIMPLE[kind]


def build_cli_page():
    parts = [
        "# Commands and options\n\nWritten by `python -m tests.test_docs`; do not edit by hand.\n\n"
        "Options come from three places, later wins: defaults, `--config FILE.toml` (or a packaged "
        "recipe: `paper`, `low-memory`), the command line. Exit codes: 0 done; 1 the run failed; 2 "
        "the request was wrong; 3 finished, but more rows failed than `--max-failures` allows; 4 a "
        "model file is missing; 75 stopped by a signal after saving: run the same command again.\n"
    ]
    for name, config_type in cli.COMMANDS.items():
        parts.append(f"\n## medart {name}\n\n{inspect.getdoc(config_type)}\n")
        panel = ""
        for group, option, kind, default, text in options_of(config_type):
            if group != panel:
                panel = group
                head = "| option | values | default | |\n|---|---|---|---|\n"
                parts.append(f"\n**{group}**\n\n{head}")
            parts.append(f"| `{option}` | {kind} | {default} | {text} |\n")
    return "".join(parts)


def commands():
    """Every medart command line in the README and the docs, with its page."""
    for page in PAGES:
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.split("#")[0].strip()
                if re.match(r"(\.venv/bin/)?medart \w", words):
                    yield pytest.param(words, id=f"{page.name}: {words}")


def test_the_page_of_commands_is_in_step():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == build_cli_page(), "run: python -m tests.test_docs"


@pytest.mark.parametrize("line", list(commands()))
def test_every_command_in_the_docs_is_one_that_medart_takes(line, monkeypatch):
    taken = []

    def take(name, options, typed):
        taken.append(cli.COMMANDS[name](**options))  # the checks of the options run here
        taken[-1].refuse_idle(typed)
        return 0

    monkeypatch.setattr(cli, "run_command", take)
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(line)[1:])
    assert not ended.value.code
    assert len(taken) == 1 or "--help" in line or "--profile-template" in line


def test_the_docs_hold_commands_to_check():
    assert len(list(commands())) >= 5


def rooms():
    """Name the folder of each command, and those in it."""
    package = ROOT / "medart_cli"
    for name in cli.COMMANDS:
        for path in sorted((package / name).rglob("__init__.py")):
            yield path.parent.relative_to(package).as_posix()


@pytest.mark.parametrize("name", rooms())
def test_the_map_of_the_code_names_each_module_of_a_command(name):
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.split()[:1] == [f"{name}/"])
    folder = ROOT / "medart_cli" / name
    assert {*line.split()[1:]} == {it.stem for it in folder.glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(build_cli_page(), encoding="utf-8")
