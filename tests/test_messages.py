"""Messages name an option only where the command has it, or with the command that has it."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from medart_cli.cli import COMMANDS, app
from tests.test_layout import MODULES, PACKAGE, imports_of

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
ALL = " ".join(COMMANDS)
# What a module says though commands that import it lack the option: these, and why it is right.
RIGHT = {
    ("data/classes.py", "--classes"): ("classify", "it words no label"),
    ("data/folders.py", "--folders"): ("demo", "it reads what it drew itself"),
    ("data/dataset.py", "--shard"): ("finetune classify reader", "of what wrote the parts"),
    ("data/checkpoint.py", "--overwrite"): ("demo doctor", "of finetune; these look for a run"),
    ("data/manifest.py", "--root"): ("demo doctor", "the one reads its own set, the other none"),
    ("data/output.py", "--overwrite"): ("caption demo doctor", "not said without the option"),
    ("doctor/run.py", "--dry-run"): ("doctor", "of finetune, which doctor asks"),
    ("doctor/run.py", "--shm-size"): ("doctor", "of docker run"),
    ("doctor/models.py", "--create-dirs"): ("doctor", "of curl"),
    ("metrics/features.py", "--features"): ("classify study", "takes features, but no Inception"),
    ("metrics/features.py", "--cache"): ("study doctor", "doctor fills no cache"),
    ("models/adapters.py", "--method"): ("sample evaluate", "of finetune, which adds adapters"),
    ("models/families.py", "--size"): ("finetune evaluate", "of sample, which passes two sides"),
    ("models/families.py", "--resolution"): ("evaluate", "it draws nothing"),
    ("models/backbone.py", "--features"): ("classify study", "a default; --backbone is passed"),
    ("models/bases.py", "--base"): ("study", "after the arm and the command"),
    ("models/bases.py", "--base-format"): (
        "caption evaluate study doctor",
        "these load none",
    ),
    ("models/captioner.py", "--load-in"): ("evaluate study doctor", "these quantize nothing"),
    ("models/captioner.py", "--model"): ("evaluate study", "a default; --captioner is passed"),
    ("models/classifier.py", "--image-size"): ("evaluate", "it loads a classifier, trains none"),
    ("models/hub.py", "--include"): (ALL, "of hf download"),
    ("models/hub.py", "--local-dir"): (ALL, "of hf download"),
    ("models/offload.py", "--base-format"): ("evaluate", "it loads no quantized base"),
    ("models/optimizers.py", "--optimizer"): ("study", "after the arm and the command"),
    ("models/optimizers.py", "--learning-rate"): ("study", "steps are made by finetune alone"),
}

# Write commands of others, whose options are checked as their command lines do, or read these.
TYPED = {
    "demo/run.py", "shell.py", "study/arms.py", "study/needs.py", "study/trained.py",
    "study/units.py",
}  # fmt: skip

OPTIONS = {
    name: {option for item in command.params for option in (*item.opts, *item.secondary_opts)}
    for name, command in get_command(app).commands.items()
}


def find_texts(tree):
    """List the texts of a module but for docstrings; of an f-string what stands in it."""
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                inside.add(first.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.Constant)]
            inside |= {*parts}
            yield "{}".join(str(part.value) for part in parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield node.value


def named_options(tree):
    """List the options that texts name without a command before them that has them."""
    for text in find_texts(tree):
        for found in OPTION.finditer(text):
            before = re.findall(r"\b(?:" + "|".join(COMMANDS) + r")\b", text[: found.start()])
            if not (before and found[0] in OPTIONS[before[-1]]):
                yield found[0]


def used_by(command):
    """Return the modules that a command imports, and they in turn."""
    names = {"medart_cli." + ".".join(path.with_suffix("").parts): path for path in MODULES}
    waiting, seen = [Path(command) / "run.py"], set()
    while waiting:
        module = waiting.pop()
        if module not in seen and module.name not in ("cli.py", "options.py"):
            seen.add(module)
            found = {
                part for name in imports_of(module) for part in (name, name.rpartition(".")[0])
            }
            waiting += [names[name] for name in found & names.keys()]
    return seen


@pytest.mark.parametrize("command", COMMANDS)
def test_messages_name_options_that_the_command_has(command):
    modules = used_by(command)
    assert len(modules) > 10 or command == "docs"  # which only reads
    for module in modules:
        if module.as_posix() in TYPED:
            continue
        tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
        named = {option for option in named_options(tree)}
        lacking = {
            option
            for option in named - OPTIONS[command]
            if command not in RIGHT.get((module.as_posix(), option), ("",))[0].split()
        }
        assert not lacking, f"{module} names {lacking}, which {command} lacks"


@pytest.mark.parametrize("name", COMMANDS)
def test_checks_of_options_name_options_of_their_command(name):
    common = ast.parse((PACKAGE / "options.py").read_text(encoding="utf-8"))
    named = {*named_options(next(it for it in common.body if isinstance(it, ast.ClassDef)
                                 and it.name == "CommonConfig"))}  # fmt: skip
    named -= {"--resolution"}  # a helper's
    for place in (Path(name) / "options.py", Path("finetune/hldf.py")):
        if place.parts[0] == name:
            tree = ast.parse((PACKAGE / place).read_text(encoding="utf-8"))
            for it in ast.walk(tree):
                if isinstance(it, ast.FunctionDef) and it.name == "suggest":
                    it.body = []  # of another command, which test_cli.py reads
            named |= {*named_options(tree)}
    assert named <= OPTIONS[name]


def test_what_is_right_without_the_option_is_still_said_and_needs_the_exception():
    used = {command: used_by(command) for command in COMMANDS}
    for (place, option), (commands, _) in RIGHT.items():
        assert option in (PACKAGE / place).read_text(encoding="utf-8"), place
        for command in commands.split() if commands != ALL else ():
            assert Path(place) in used[command] and option not in OPTIONS[command], (place, command)


def test_what_is_said_before_a_command_runs_names_options_of_all():
    every = set.intersection(*OPTIONS.values())
    for module in ("cli.py", "log.py", "outlook.py", "stop.py", "ranks.py", "errors.py"):
        tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
        assert {*named_options(tree)} <= every | {"--help", "--version"}, module
