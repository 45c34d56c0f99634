"""Messages name an option only where the command has it, or with the command that has it."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from medart_cli.cli import COMMANDS, app
from tests.test_layout import MODULES, PACKAGE, imports_of

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# What a module says though a command that imports it lacks the option, and why that is right.
RIGHT = {
    ("data/classes.py", "--classes"): "classify words no label",
    ("data/dataset.py", "--shard"): "of the command that wrote the parts",
    ("data/checkpoint.py", "--overwrite"): "of finetune, whose checkpoints doctor only looks for",
    ("data/manifest.py", "--root"): "doctor reads no data set",
    ("doctor/run.py", "--dry-run"): "of finetune, which doctor asks",
    ("data/output.py", "--overwrite"): "caption has no output folder of its own",
    ("data/profiles.py", "--profile"): "evaluate words captions as the run did",
    ("metrics/features.py", "--features"): "classify takes features, but no Inception",
    ("metrics/features.py", "--cache"): "doctor fills no cache",
    ("models/adapters.py", "--method"): "of finetune, which adds adapters",
    ("models/families.py", "--size"): "of sample, which alone passes two sides",
    ("models/backbone.py", "--features"): "a default; classify passes --backbone",
    ("models/captioner.py", "--load-in"): "doctor loads nothing, and evaluate quantizes nothing",
    ("models/captioner.py", "--model"): "a default; evaluate passes --captioner",
    ("models/classifier.py", "--image-size"): "evaluate loads a classifier, and trains none",
    ("models/hub.py", "--include"): "of hf download",
    ("models/hub.py", "--local-dir"): "of hf download",
    ("models/bases.py", "--base"): "a default; sample passes RUN",
    ("models/bases.py", "--base-format"): "caption and doctor load no base",
    ("models/families.py", "--resolution"): "caption and doctor draw nothing",
    ("doctor/run.py", "--shm-size"): "of docker run",
    ("doctor/models.py", "--create-dirs"): "of curl",
}

# Write commands of others, whose options are checked as their command lines do.
TYPED = {"shell.py", "study/arms.py", "study/trained.py", "study/units.py"}

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


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])
def test_messages_name_options_that_the_command_has(command):
    modules = used_by(command)
    assert len(modules) > 10 or command == "docs"  # which only reads
    for module in modules:
        if module.as_posix() in TYPED:
            continue
        tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
        named = {option for option in named_options(tree)}
        lacking = {it for it in named - OPTIONS[command] if (module.as_posix(), it) not in RIGHT}
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


def test_what_is_right_without_the_option_is_still_said():
    for place, option in RIGHT:
        assert option in (PACKAGE / place).read_text(encoding="utf-8"), place
