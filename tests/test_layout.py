"""The house: who may import whom, one door for each library, a test file for each module."""

import ast
from collections import defaultdict
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from medart_cli.cli import COMMANDS
from medart_cli.models.bases import KINDS

PACKAGE = Path(__file__).parents[1] / "medart_cli"
TESTS = Path(__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
LIBRARIES = {"data", "models", "diffusion", "metrics"}
# What the libraries may know of the top of the package.
COMMON = {"errors", "log", "outlook", "stop", "ranks", "ahead", "versions"}
DOORS = {
    "diffusers": {"models", "tiny", "finetune/optimizer.py"},  # tiny makes models
    "transformers": {"models", "tiny"},
    "peft": {"models"},
    "timm": {"models"},
    "cleanfid": {"metrics/features.py"},
    "jinja2": {"data/page.py", "models/chat.py"},  # a page's own; the errors of chat templates
    "httpx2": {"caption/endpoint.py"},
    "typer": {
        "cli.py",
        "options.py",
        *(f"{name}/options.py" for name in COMMANDS),
        "finetune/options_data.py",
        "finetune/hldf.py",
    },
    "rich": {"log.py"},
}
# Parts of a command that are tested with the whole, in its test_run.py.
PARTS = {
    "caption": {"ask", "audit", "options", "todo"},
    "finetune": {"curve", "hldf", "keep", "options", "options_data", "plan", "resume", "rows",
                 "setup", "state", "train", "work"},
    "sample": {"draw", "folder", "options", "source"},
    "evaluate": {"colors", "measure", "networks", "options", "ranking"},
    "metrics": {"arrays"},  # names of types alone
    "models": {"questions"},
    "classify": {"options", "train"},
    "reader": {"options"},
    "study": {"options", "card", "markdown", "measured", "references", "trained"},
    "docs": {"options"},
    "doctor": {"models", "options"},
    "demo": {"options"},
    "tiny": {"base", "captioner", "training", "vae"},
}  # fmt: skip
# What one command alone uses of a library, and why it is there.
ALONE = {
    "metrics": "measures of images and predictions, for notebooks as well",
    "models/classifier.py": "the door of timm and transformers",
    "models/optimizers.py": "the door of timm, whose names the options need without it",
    "models/shapes.py": "the door of diffusers and transformers for models without weights",
    "models/sizes.py": "facts about the bases, which benchmarks read too",
    **{
        f"models/{kind.module}.py": "a family of base models, found by its name in models/bases.py"
        for kind in KINDS.values()
    },
    "diffusion": "the paper's mathematics, which knows no command",
}

# Names that several modules have. Functions that are alike have the same name in every room: one
# who has read a command knows where to begin with the next.
SAME = {
    "main": "the entry point: of medart, of python -m, and of the trainings of tiny",
    "run": "the work of a command",
    "read_sets": "what a command with several sets begins with",
    "describe_output": "what an output belongs to",
    "describe_work": "a hash over all that a result depends on",
    "finish": "a command's last step: join and write the result",
}


@cache
def imports_of(module):
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(module):
    return {name.split(".")[1] for name in imports_of(module) if name.startswith("medart_cli.")}


@cache
def modules_used_by(module):
    """Return the modules of the package that a module imports."""
    names = {"medart_cli." + ".".join(path.with_suffix("").parts): path for path in MODULES}
    found = {part for name in imports_of(module) for part in (name, name.rpartition(".")[0])}
    return {names[name] for name in found & names.keys()}


def test_there_are_modules_to_look_at():
    assert len(MODULES) >= 20


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_libraries_import_neither_commands_nor_each_other(module):
    if module.parts[0] in LIBRARIES:
        assert own_imports(module) <= COMMON | {module.parts[0]}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_commands_meet_on_disk(module):
    if module.parts[0] in COMMANDS:
        others = {*COMMANDS} - {module.parts[0]}
        assert not own_imports(module) & others


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_what_is_common_knows_no_command(module):
    if len(module.parts) == 1 and module.name not in ("cli.py", "__main__.py"):
        assert not own_imports(module) & {*COMMANDS}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_what_one_command_alone_uses_is_in_its_room(module):
    if module.parts[0] not in LIBRARIES or module.name == "__init__.py":
        return
    if {module.parts[0], module.as_posix()} & ALONE.keys():
        return
    users, waiting, seen = set(), [module], set()
    while waiting:  # also what uses it through another module of the libraries
        used = waiting.pop()
        for user in MODULES:
            if user not in seen and used in modules_used_by(user):
                seen.add(user)
                waiting += [user] if user.parts[0] in LIBRARIES else []
                users |= {user.parts[0]} & {*COMMANDS}
    assert len(users - {"demo"}) > 1, f"only {users} uses it"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_each_library_has_one_door(module):
    for library, doors in DOORS.items():
        if any(name.split(".")[0] == library for name in imports_of(module)):
            assert module.parts[0] in doors or module.as_posix() in doors, library


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_its_tests(module):
    if module.name.startswith("__") or module.stem in PARTS.get(module.parts[0], ()):
        return
    assert (TESTS / module.parent / f"test_{module.name}").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_room(name):
    assert {"__init__.py", "options.py", "run.py"} <= {
        it.name for it in MODULES if it.parts[0] == name
    }
    assert (TESTS / name / "test_run.py").is_file()
    assert {*PARTS.get(name, ())} <= {it.stem for it in MODULES if it.parts[0] == name}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_is_pickled_and_no_remote_code_is_trusted(module):
    text = (PACKAGE / module).read_text(encoding="utf-8")
    assert "import pickle" not in text
    assert "torch.save(" not in text
    assert "trust_remote_code=True" not in text
    assert text.count("torch.load(") == text.count("weights_only=True")


def public_names(module):
    """Return what a module defines at its top and others may import."""
    for node in ast.parse((PACKAGE / module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target)]
            found = [
                it.id for it in parts if isinstance(it, ast.Name) and isinstance(it.ctx, ast.Store)
            ]
        else:
            continue
        yield from (name for name in found if not name.startswith("_"))


def test_a_public_name_means_one_thing():
    families = {f"models/{kind.module}.py" for kind in KINDS.values()}  # alike, so named alike
    places = defaultdict(set)
    for module in MODULES:
        if module.as_posix() in families:
            continue
        for name in public_names(module):
            places[name].add(module.as_posix())
    assert len(places) >= 300
    twice = {name: sorted(modules) for name, modules in places.items() if len(modules) > 1}
    assert {name: modules for name, modules in twice.items() if name not in SAME} == {}
    assert {*SAME} <= twice.keys()


def test_each_benchmark_can_be_imported_and_says_how_it_is_run():
    names = sorted(path.stem for path in (TESTS / "bench").glob("bench_*.py"))
    assert len(names) >= 25
    for name in names:
        told = import_module(f"tests.bench.{name}").__doc__
        assert f"python -m tests.bench.{name}" in told, name
