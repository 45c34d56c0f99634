"""The house: who may import whom, one door for each library, a test file for each module."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "medart_cli"
TESTS = Path(__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
LIBRARIES = {"data", "models", "diffusion", "metrics"}
DOORS = {
    "diffusers": {"models", "tiny"},  # tiny makes models
    "transformers": {"models", "tiny"},
    "peft": {"models"},
    "timm": {"models"},
    "cleanfid": {"metrics/features.py"},
    "typer": {"cli.py", "config.py"},
    "rich": {"log.py"},
}
# Parts of a stage, or of the build of the tiny models, that are files of their own, so that each
# reads as its story; they are tested with the whole.
PARTS = {path.stem for path in MODULES if path.parts[0] in ("stages", "tiny") and "_" in path.stem}


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


def test_there_are_modules_to_look_at():
    assert len(MODULES) >= 20


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_libraries_import_neither_stages_nor_config_nor_each_other(module):
    if module.parts[0] in LIBRARIES:
        known = {module.parts[0], "errors", "log", "stop", "ahead", "versions"}
        assert own_imports(module) <= known


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_stages_meet_on_disk(module):
    if module.parts[0] == "stages" and len(module.parts) == 2:
        used = {name.split(".")[2] for name in imports_of(module) if ".stages." in name}
        command = module.stem.split("_")[0]
        assert all(name.split("_")[0] == command for name in used)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_each_library_has_one_door(module):
    for library, doors in DOORS.items():
        if any(name.split(".")[0] == library for name in imports_of(module)):
            assert module.parts[0] in doors or module.as_posix() in doors, library


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_its_tests(module):
    if module.name.startswith("__") or module.stem in PARTS:
        return
    assert (TESTS / module.parent / f"test_{module.name}").is_file()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_is_pickled_and_no_remote_code_is_trusted(module):
    text = (PACKAGE / module).read_text(encoding="utf-8")
    assert "import pickle" not in text
    assert "torch.save(" not in text
    assert "trust_remote_code=True" not in text
    assert text.count("torch.load(") == text.count("weights_only=True")
