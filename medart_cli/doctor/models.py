"""What of a model lies on this disk, whether a command could use it, and what memory it needs.

Each model is looked for by the function that the commands find it by, so that what is ready here
can start there. No weights are loaded: their headers tell the numbers.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medart_cli.data.cache import default_cache
from medart_cli.data.checkpoint import find_run
from medart_cli.doctor.options import DoctorConfig
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.metrics.features import (
    INCEPTION_NAME,
    INCEPTION_SHA256,
    INCEPTION_URL,
    find_inception,
)
from medart_cli.models import backbone, captioner, chat, hub
from medart_cli.models.bases import (
    COMPONENTS,
    find_base,
    find_kind,
    guess_size,
    hash_base,
    name_license,
)
from medart_cli.models.device import hush_libraries
from medart_cli.options import DEFAULT_BASE, DEFAULT_CAPTIONER

HASH_AT_ONCE = 500_000_000  # bytes; a larger file is hashed with --hash only
WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}  # bytes of a weight in memory


@dataclass
class Model:
    """A model that a command needs, and what of it is on this disk.

    Attributes:
        kind: What it is for: run, base, tokenizer, captioner or features.
        name: As named on the command line.
        required: Whether doctor was asked about it by name.
        family: Of a base that is here: its name, such as SANA.
        license: Likewise: of those weights on the hub, and what of it a clinic should know.
        folder: Where it is; None where it is not.
        problems: Why it cannot be used; empty if it can.
        pickled_only: Whether there are weights, but as pickles alone.
        fetch: Command that brings it here; None where there is none.
        size: What that downloads.
        files: Each with `path` below the folder, `bytes`, and `sha256` where it is known.
        parameters: Number of weights in each part.
        memory_gb: What the weights take in memory.
        fit: `weights fit`, `does not fit`, or `CPU: slow`; `fits` where training was estimated.
    """

    kind: str
    name: str
    required: bool
    family: str | None = None
    license: str | None = None
    folder: str | None = None
    problems: list[str] = field(default_factory=list)
    pickled_only: bool = False
    fetch: str | None = None
    size: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    memory_gb: float | None = None
    fit: str | None = None


def look_at_models(config: DoctorConfig) -> list[Model]:
    """Look for the models that are asked about, or where none is, for all that medart names."""
    hush_libraries("transformers", "diffusers")
    bases, captioners = [config.base], [config.model]
    features = config.features or []
    if not (config.base or config.model or config.features):
        bases, captioners = [DEFAULT_BASE, hub.TINY], [DEFAULT_CAPTIONER, hub.TINY]
        features = ["inception", backbone.EMBEDDED_BACKBONE]
    models = [model for name in bases if name for model in look_at_base(name, config)]
    models += [look_at_captioner(name, config) for name in captioners if name]
    if config.model and not config.base:  # caption counts tokens by it
        models.append(look_at_pipeline("tokenizer", DEFAULT_BASE, config, ["tokenizer"]))
    return [*models, *(look_at_features(name, config) for name in features)]


def look_at_base(name: str, config: DoctorConfig) -> list[Model]:
    """Look for a base, or for a run of finetune and the base that it was trained on."""
    run = Model("run", name, required=True, folder=name)
    try:
        found = find_run(Path(name))
    except ConfigError as error:
        run.problems = [str(error)]
        return [run]
    if found is None:
        return [look_at_pipeline("base", name, config, COMPONENTS)]
    trained, facts = found
    for part in facts["trained"]:
        run.files += list_model_files(trained, part, config.hash)
    base = look_at_pipeline("base", facts["base"], config, COMPONENTS)
    if base.folder and not base.problems and all(item["sha256"] for item in base.files):
        hashes = hash_base(Path(base.folder))
        for part, known in facts["base_hashes"].items():
            if hashes.get(part, known) != known:
                base.problems.append(f"{base.folder}: its {part} is not that of {name}")
    return [run, base]


def look_at_pipeline(kind: str, name: str, config: DoctorConfig, parts: Sequence[str]) -> Model:
    """Look for a base model's pipeline, or some parts of one."""
    model = _look(kind, name, config, lambda: find_base(name, offline=True, parts=parts))
    if hub.is_hub_id(name):
        model.fetch = hub.download_command(name, [] if kind == "base" else parts)
        model.size = guess_size(name) if kind == "base" else "1 MB"
    if model.problems and model.folder:  # name all that is missing, not only the first
        model.problems = []
        for part in parts:
            try:
                find_base(model.folder, offline=True, parts=[part])
            except (MissingModelError, ConfigError) as error:
                model.problems.append(str(error))
    elif kind == "base" and model.folder:
        model.family = find_kind(Path(model.folder)).name
        about = name_license(Path(model.folder))
        forbids = f"; forbids {about['forbids']}" if about.get("forbids") else ""
        model.license = about["license"] + forbids if about else None
    _describe(model, parts, config.hash)
    return model


def look_at_captioner(name: str, config: DoctorConfig) -> Model:
    """Look for a captioner, and ask all of it that is no weights about an image."""

    def find() -> Path:
        folder = captioner.find_captioner(name, offline=True)
        chat.read_chat(folder)
        return folder

    model = _look("captioner", name, config, find)
    if hub.is_hub_id(name):
        model.fetch = hub.download_command(name)
        model.size = captioner.KNOWN_DOWNLOAD_SIZES.get(name, captioner.OTHER_DOWNLOAD_SIZE)
    _describe(model, [""], config.hash)
    return model


def look_at_features(name: str, config: DoctorConfig) -> Model:
    """Look for a network that evaluate or classify takes features from."""
    if name == backbone.EMBEDDED_BACKBONE:
        return _look("features", name, config, backbone.embedded_file)
    if name == "inception":
        return _look_at_inception(config)
    model = _look("features", name, config, lambda: backbone.find_backbone(name, offline=True))
    hub_id = backbone.find_hub_id(name)
    if hub.is_hub_id(hub_id):
        model.fetch, model.size = hub.download_command(hub_id), backbone.BACKBONE_DOWNLOAD_SIZE
    _describe(model, [""], config.hash)
    return model


def _look_at_inception(config: DoctorConfig) -> Model:
    try:
        cache = default_cache()
    except ConfigError:  # without a home folder; the report says that this is to be set
        cache = Path("$MEDART_CACHE")
    model = _look("features", "inception", config, lambda: find_inception(None, cache))
    model.size = "95.6 MB"
    model.fetch = f"curl --create-dirs -o {cache / INCEPTION_NAME} {INCEPTION_URL}"
    if model.files and model.files[0]["sha256"] != INCEPTION_SHA256:
        model.problems = [f"{model.folder}: {INCEPTION_NAME} has the wrong SHA-256; fetch it again"]
    return model


def _look(kind: str, name: str, config: DoctorConfig, find: Callable[[], Path]) -> Model:
    """Find a model by the function that the commands find it by."""
    model = Model(kind, name, bool(config.base or config.model or config.features))
    try:
        found = find()
    except (MissingModelError, ConfigError) as error:
        model.problems = [str(error)]
        model.folder = name if Path(name).is_dir() and name != hub.TINY else None
        return model
    model.folder = str(found if found.is_dir() else found.parent)
    if found.is_file():
        model.files = [read_file(found, found.parent, hashed=True)]
    return model


def _describe(model: Model, parts: Sequence[str], hashed: bool) -> None:
    """Add files and numbers of weights of a model that is there, and what is wrong with them."""
    if model.folder is None:
        return
    for part in parts:
        place = Path(model.folder) / part
        model.files += list_model_files(Path(model.folder), part, hashed)
        if hub.find_pickles(place) and not list(place.glob("*.safetensors")):
            model.pickled_only = True
        try:
            count = sum(hub.count_parameters(path) for path in hub.find_weights(place))
        except MissingModelError as error:
            if str(error) not in model.problems:
                model.problems.append(str(error))
            continue
        if count:
            model.parameters[part or "model"] = count


def list_model_files(folder: Path, part: str, hashed: bool) -> list[dict[str, Any]]:
    """List the files of a part that medart reads, each with size and, where known, SHA-256."""
    paths = [path for ending in hub.FETCHED_ENDINGS for path in (folder / part).glob(f"*.{ending}")]
    return [read_file(path, folder, hashed) for path in sorted(paths)]


def read_file(path: Path, folder: Path, hashed: bool) -> dict[str, Any]:
    """Return path below a folder, size and SHA-256 of a file.

    A large file is read only if `hashed`, unless it lies in the hub's cache, which names the blob
    of a weight file by its SHA-256.
    """
    size, sha256 = path.stat().st_size, path.resolve().name
    if len(sha256) != 64:
        sha256 = ""
        if hashed or size <= HASH_AT_ONCE:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": path.relative_to(folder).as_posix(), "bytes": size, "sha256": sha256 or None}


def count_memory(model: Model, facts: dict[str, Any]) -> None:
    """Count what a model's weights take in memory, and compare it with what there is.

    Weights times the bytes of the number format; the VAE is always fp32. What is computed with them
    comes on top, and only finetune's estimate knows how much that is.

    Args:
        model: Gets `memory_gb` and `fit`, where all its weights are there.
        facts: `device`, `precision`, `cpu` and `gpus` of this machine.
    """
    if model.problems or not model.parameters or facts["device"] is None:
        return
    width = WIDTHS[facts["precision"]]
    counts = model.parameters.items()
    model.memory_gb = round(sum(n * (4 if part == "vae" else width) for part, n in counts) / 1e9, 6)
    model.fit = name_fit(model.memory_gb, facts, "weights fit")


def name_fit(size: float, facts: dict[str, Any], fits: str) -> str:
    """Say whether there is so much memory where models run.

    Args:
        size: In GB.
        facts: `device`, `cpu` and `gpus` of this machine.
        fits: What to say if a GPU has it.
    """
    slow = facts["device"] == "cpu"
    if slow:
        room = facts["cpu"]["memory_gb"]
    else:
        room = facts["gpus"][int(facts["device"].removeprefix("cuda:"))]["free_gb"]
    if size > room:
        return "does not fit"
    return "CPU: slow" if slow else fits
