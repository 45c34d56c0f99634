"""Run folders: checkpoints that are whole or not there, and how to find the last one.

A folder is written beside its place, brought to the disk, and moved there. Weights and optimizer
state are safetensors, all else is JSON and text. A checkpoint has the hashes of its files in it, as
`sha256sum --check` reads them, and is used only where they are right. Tensors are whole on the
disk, also where each process has a part of them (FSDP): such a run may be resumed without FSDP.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from medart_cli.data.files import draft_of
from medart_cli.data.manifest import hash_file
from medart_cli.data.output import write_text
from medart_cli.errors import ConfigError, RunError
from medart_cli.log import log

CHECKPOINTS = "checkpoints"
STATE_NAME = "state.json"
SUMS_NAME = "sha256sums.txt"  # of all other files of a checkpoint
OPTIMIZER_NAME = "optimizer.safetensors"
EMA_NAME = "ema.safetensors"
RUN_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
TRAINING_HASHES = "training_hashes.txt"  # of the training images' bytes, one a line
HELDOUT_HASHES = "heldout_hashes.txt"  # the same of images that were held out of the training
TRAINED = ("transformer", "text_encoder")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that appears under its name only when it is whole on the disk.

    An older folder of that name is kept until the new one is whole.

    Raises:
        RunError: It could not be written; nothing under its name has changed.
    """
    draft = folder.with_name(f".{folder.name}.part")
    old = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write(draft)
        for path in sorted(draft.rglob("*")):
            _sync(path)
        _sync(draft)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
        draft.replace(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk has many names
        shutil.rmtree(draft, ignore_errors=True)
        raise RunError(
            f"{folder}: could not be written ({error}); what was saved before is intact, free some "
            "space and run the same command again"
        ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoint_folder(run: Path, step: int) -> Path:
    """Return where the checkpoint of a step belongs."""
    return run / CHECKPOINTS / f"step-{step:06d}"


def find_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first, whole or not."""
    folders = [path for path in (run / CHECKPOINTS).glob("step-*") if _step_of(path) >= 0]
    return sorted(folders, key=_step_of)


def _step_of(folder: Path) -> int:
    number = folder.name.removeprefix("step-")
    return int(number) if number.isascii() and number.isdigit() else -1


def find_last(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest whole checkpoint and its state; None where there is no checkpoint.

    Newer ones that are corrupt are skipped, with a warning.

    Raises:
        ConfigError: There are some, and none is whole.
        OSError: A file cannot be read, which does not mean that it is corrupt.
    """
    faults = []
    for folder in reversed(find_checkpoints(run)):
        try:
            state = read_checkpoint(folder)
        except ConfigError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            log.warning("%s; resuming from %s instead", fault, folder.name)
        return folder, state
    if faults:
        raise ConfigError(
            f"{faults[0]}; this run has no intact checkpoint: restore one, use another folder, "
            "or start over with --overwrite"
        )
    return None


def read_checkpoint(folder: Path, *, drawing: bool = False) -> dict[str, Any]:
    """Check that a checkpoint is whole, by the hashes in it, and return its state.

    Checkpoints of before there were hashes are taken if each file can be opened.

    Args:
        folder: The checkpoint.
        drawing: Check only what sampling needs, without the state of the optimizer.

    Raises:
        ConfigError: A file is missing or not what was saved.
        OSError: One cannot be read.
    """
    try:
        state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
        run, _ = dict(state["run"]), int(state["step"])
        needed = {f"{part}/" for part in run["trained"]} | {OPTIMIZER_NAME}
    except FileNotFoundError as error:
        raise ConfigError(f"{folder}: {STATE_NAME} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: {STATE_NAME} is corrupt or truncated") from error
    left_out = (OPTIMIZER_NAME, EMA_NAME) if drawing else ()
    names = {name for name in _file_names(folder) if name not in left_out}
    hashed = "sums" in state or (folder / SUMS_NAME).is_file()
    sums = _read_sums(folder) if hashed else None
    known = {name for name in sums or names if name not in left_out}
    needed = (needed | {STATE_NAME}) - set(left_out)
    lacking = [item for item in sorted(needed) if not _has(names & known, item)]
    for name in [*sorted(known - names), *lacking]:
        raise ConfigError(f"{folder}: {name} is missing")
    for name in sorted(known):
        _check_file(folder, name, sums)
    return dict(state)


def _has(names: set[str], item: str) -> bool:
    """Say whether a file, or weights in a folder (that ends in /), are among some names."""
    weights = [name for name in names if name.endswith(".safetensors")]
    return item in names or any(name.startswith(item) for name in weights)


def _file_names(folder: Path) -> list[str]:
    """List the files of a checkpoint, but not the list of hashes, nor hidden ones of others."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    return [name for name in names if name != SUMS_NAME]


def write_sums(folder: Path) -> None:
    """Write the hashes of a checkpoint's files into it, as `sha256sum --check` reads them."""
    lines = [f"{hash_file(folder / name)}  {name}\n" for name in _file_names(folder)]
    (folder / SUMS_NAME).write_text("".join(lines), encoding="utf-8")


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS_NAME).read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except FileNotFoundError as error:
        raise ConfigError(f"{folder}: {SUMS_NAME} is missing") from error
    except ValueError as error:
        raise ConfigError(f"{folder}: {SUMS_NAME} is corrupt or truncated") from error


def _check_file(folder: Path, name: str, sums: dict[str, str] | None) -> None:
    """Check a file by its hash, or where there is none by opening it."""
    path = folder / name
    if sums is not None:
        if hash_file(path) != sums[name]:
            raise ConfigError(f"{folder}: {name} is not the file that was saved (SHA-256 mismatch)")
    elif path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise ConfigError(f"{folder}: {name} is corrupt or truncated ({error})") from error


def find_last_step(run: Path) -> int:
    """Return the last step that the log of a run tells of; 0 where none was made."""
    path = run / METRICS_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def refuse_lost(run: Path) -> None:
    """Refuse a run folder that has saved something and has no checkpoint any more.

    Raises:
        ConfigError: Training it would begin at step 1 over what is there.
    """
    if find_checkpoints(run):
        return
    facts = read_facts(run / RUN_NAME) if (run / RUN_NAME).is_file() else {}
    results = [name for name in TRAINED if (run / name).exists()]
    if "step" in facts or results:
        step = facts.get("step") or find_last_step(run) or "an unknown step"
        raise ConfigError(
            f"{run}: was trained to step {step}, and its checkpoints are missing; restore "
            f"{run / CHECKPOINTS}, use another folder, or start over with --overwrite"
        )


def prune_checkpoints(run: Path, keep: int, step: int, *, spare: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints up to a step, and what broken writes left.

    Those after it are corrupt: training resumes before them, and will write them again. The one of
    step `spare` is kept besides.
    """
    for path in [path for path in find_checkpoints(run) if _step_of(path) <= step][:-keep]:
        if _step_of(path) != spare:
            shutil.rmtree(path)
    for path in (run / CHECKPOINTS).glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def read_facts(path: Path) -> dict[str, Any]:
    """Read a JSON file of facts.

    Raises:
        ConfigError: It is missing or not a JSON object.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    return facts


def find_run(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Tell what stands in a folder that `sample` is pointed at.

    Args:
        folder: A run folder or one of its checkpoints.

    Returns:
        The folder with the trained parts, and the run's facts; None if it is neither.

    Raises:
        ConfigError: It is a run that has not saved its result yet, or one that is not whole.
    """
    place = folder.resolve()
    named_so = place.parent.name == CHECKPOINTS and _step_of(place) >= 0
    if (folder / STATE_NAME).is_file() or named_so:
        facts = dict(read_checkpoint(folder, drawing=True)["run"])
    elif (folder / RUN_NAME).is_file():
        facts = read_facts(folder / RUN_NAME)
        if facts.get("status") != "done":
            saved = find_checkpoints(folder)
            hint = f"or sample from its checkpoint {saved[-1]}" if saved else "it has no checkpoint"
            raise ConfigError(f"{folder}: this run is not finished; run its command again, {hint}")
        if facts["checkpoint"] != hash_trained(folder):
            raise ConfigError(f"{folder}: its weights do not match those in run.json")
    else:
        return None
    for name in facts["trained"]:
        if not (folder / name).is_dir():
            raise ConfigError(f"{folder}: the folder {name} is missing, which this run trained")
    return folder, facts


def hash_trained(folder: Path) -> str:
    """Return a SHA-256 over the trained weights in a run folder or checkpoint."""
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _weight_files(folder: Path) -> Iterator[Path]:
    for name in TRAINED:
        yield from sorted((folder / name).glob("*.safetensors"))


def write_hashes(folder: Path, trained: Iterable[str], held: Iterable[str]) -> None:
    """List the SHA-256 of the images that a run trains on, and of those that it holds out."""
    for name, hashes in ((TRAINING_HASHES, trained), (HELDOUT_HASHES, held)):
        write_text(folder / name, "".join(f"{digest}\n" for digest in hashes))


def copy_hashes(source: Path, folder: Path) -> None:
    """Copy these lists from a run or checkpoint, as far as it has them."""
    for name in (TRAINING_HASHES, HELDOUT_HASHES):
        if (source / name).is_file():
            write_text(folder / name, (source / name).read_text(encoding="utf-8"))


def has_hashes(source: Path, folder: Path) -> bool:
    """Say whether a folder has these lists, as far as a run or checkpoint has them."""
    lists = (TRAINING_HASHES, HELDOUT_HASHES)
    return all((folder / name).is_file() or not (source / name).is_file() for name in lists)


def read_hashes(folder: Path, name: str) -> frozenset[str] | None:
    """Read one of these lists; None where there is none, as in a run folder of an older version."""
    path = folder / name
    return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else None


def trim_log(path: Path, last_step: int) -> None:
    """Drop the lines of metrics.jsonl after a step, which a resumed run will write again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and json.loads(line)["step"] <= last_step:
            kept.append(line)
    with draft_of(path) as draft:
        draft.write_text("".join(kept), encoding="utf-8")
