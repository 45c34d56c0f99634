"""Where the files of a model are: in the package, in a folder, in the hub's cache, or on the hub.

Only JSON, text and safetensors are fetched and used. Pickles are refused, and so is code that a
model brings along: both could do anything on this machine.
"""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from safetensors import SafetensorError, safe_open

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.log import log

TINY = "tiny"  # the name of the models inside the package
# In a captioner's config.json, and with _ before it in a base's model_index.json: not for science.
DEMONSTRATION_KEY = "medart_demonstration"
FETCHED_ENDINGS = ("json", "jinja", "txt", "model", "safetensors")  # of files that are fetched
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def embedded_model(kind: Literal["base", "captioner"]) -> Path:
    """Return the folder of a model that ships inside the package, for demonstrations.

    Raises:
        MissingModelError: This installation does not hold it.
    """
    folder = Path(str(resources.files("medart_cli"))) / TINY / kind
    if not folder.is_dir():
        raise MissingModelError(
            f"{TINY}: this installation lacks its folder {folder}; reinstall medart"
        )
    return folder


def find_model(
    name: str,
    *,
    option: str,
    size: str,
    folders: Sequence[str] = (),
    revision: str | None = None,
    offline: bool = False,
) -> Path:
    """Return the folder of a model: a local one, or a hub id from the cache or the hub.

    Args:
        name: Folder or hub id.
        option: What of the command takes the folder, for the message.
        size: What is to be downloaded, for the message.
        folders: The only folders of the repository that are needed; all of it by default.
        revision: Commit, branch or tag of a hub id.
        offline: Do not ask the hub.

    Raises:
        MissingModelError: It is not there and may not or cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(name):
        raise MissingModelError(
            f"{name}: no such folder, and not a hub id (OWNER/NAME); give the model with {option}"
        )
    patterns = [f"*.{ending}" for ending in FETCHED_ENDINGS]
    if folders:
        patterns = [f"{folder}/{pattern}" for folder in folders for pattern in patterns]
        patterns.append("model_index.json")
    offline = offline or constants.HF_HUB_OFFLINE
    if not has_hub_cache():
        raise MissingModelError(
            f"{name}: no such folder, and this user has no home folder for models from the hub; "
            f"set HF_HOME to a folder for them, or give a model folder with {option}"
        )
    try:
        fetched = snapshot_download(
            name, revision=revision, allow_patterns=patterns, local_files_only=offline
        )
    except (OSError, ValueError, HTTPError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        why = "the hub was not asked (offline)" if offline else f"cannot be fetched ({reason})"
        raise MissingModelError(
            f"{name}: no such folder, not in the local cache, and {why}; on a machine with "
            f"internet run `{download_command(name, folders)}` ({size}), copy FOLDER here and give "
            f"it as {option}"
        ) from error
    return Path(fetched)


def has_hub_cache() -> bool:
    """Say whether there is a folder for models from the hub; a user without a home has none."""
    return not constants.HF_HUB_CACHE.startswith("~")


def is_hub_id(name: str) -> bool:
    """Say whether a name can be that of a model on the hub, OWNER/NAME, and is no file here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).exists()


def public_name(model: str) -> str:
    """Return what outputs call a model: a hub id as it is, but of a folder no path.

    The last part of the path, or the hub id of a folder in the hub's cache.
    """
    parts = re.split(r"[/\\]+", model.rstrip("/\\"))
    for part in parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return parts[-1] if re.match(r"[/\\~.]|\w:[/\\]|.*\\", model) else model


def download_command(name: str, folders: Sequence[str] = ()) -> str:
    """Return the command that fetches a model, or only some folders of it, into FOLDER."""
    only = ["model_index.json", *(f"'{folder}/*'" for folder in folders)] if folders else []
    return " ".join(["hf download", name, *(f"--include {item}" for item in only),
                     "--local-dir FOLDER"])  # fmt: skip


def find_weights(folder: Path) -> list[Path]:
    """Return the safetensors files of a model that the libraries load; empty where it has none.

    Those of a variant, as `model.fp16.safetensors`, are passed over, as the libraries do.

    Raises:
        MissingModelError: A file that the model's index names is missing.
    """
    indexes = [
        path for path in folder.glob("*.safetensors.index.json") if path.name.count(".") == 3
    ]
    for index in indexes:
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MissingModelError(f"{index}: cannot be read; copy it again") from error
        missing = ", ".join(sorted(name for name in names if not (folder / name).is_file()))
        if missing:
            raise MissingModelError(f"{folder}: {missing} missing, which {index.name} names")
        return sorted(folder / name for name in names)
    return [path for path in sorted(folder.glob("*.safetensors")) if path.name.count(".") == 1][:1]


def count_parameters(path: Path) -> int:
    """Return the number of weights in a safetensors file, from its header alone.

    Raises:
        MissingModelError: The file is truncated, or not safetensors at all.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    except (SafetensorError, OSError) as error:
        raise MissingModelError(
            f"{path}: is not a complete safetensors file ({error}); copy it again"
        ) from error


def check_weights(folder: Path) -> None:
    """Check that a model folder has weights, all of them, whole, and as safetensors.

    Raises:
        MissingModelError: It has none, not all, truncated ones, or pickled ones only.
    """
    paths = find_weights(folder)
    for path in paths:
        count_parameters(path)
    if paths:
        return
    variants = sorted(path.name for path in folder.glob("*.safetensors"))
    if variants:
        raise MissingModelError(
            f"{folder}: has only variants of its weights ({variants[0]}); put the plain "
            "safetensors file there too, or rename the variant"
        )
    pickles = find_pickles(folder)
    if pickles:
        raise MissingModelError(
            f"{folder}: has only pickled weights ({pickles[0]}), which can run code when loaded; "
            "medart loads no pickles; use the model's safetensors files"
        )
    raise MissingModelError(f"{folder}: no weights; put the model's safetensors files there")


def check_loaded(place: Path, report: Mapping[str, Any], *, spare: Collection[str] = ()) -> None:
    """Refuse weights that do not fit their model one to one.

    The libraries fill what a file lacks with random numbers and leave out what they do not know.
    What they tie to other weights or recompute at each start they do not count as missing.

    Args:
        place: Folder of the model, for the message.
        report: `missing_keys`, `unexpected_keys` and `mismatched_keys`, as `from_pretrained` of
            diffusers and transformers gives them with `output_loading_info`.
        spare: Keys that a file may hold besides.

    Raises:
        MissingModelError: A weight is missing, of another shape, or has no place in the model.
    """
    missing = sorted(report["missing_keys"])
    shapes = sorted((key, list(found), list(own)) for key, found, own in report["mismatched_keys"])
    extra = sorted(set(report["unexpected_keys"]) - set(spare))
    if missing:
        fault = f"{len(missing)} weights are missing, such as {missing[0]}"
    elif shapes:
        key, found, own = shapes[0]
        fault = f"{len(shapes)} weights have another shape, such as {key} ({found}; config: {own})"
    elif extra:
        fault = f"{len(extra)} weights are unexpected, such as {extra[0]}"
    else:
        return
    raise MissingModelError(
        f"{place}: {fault}; copy the model again, weights and config.json from one source"
    )


def find_pickles(folder: Path) -> list[str]:
    """Return the names of pickled weights in a folder, which are never loaded."""
    return sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))


def check_code(folder: Path) -> None:
    """Check that a model of transformers needs no code of its own; what it offers is not run.

    Raises:
        ConfigError: It does.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingModelError(f"{folder}: no readable config.json; is it a model?") from error
    if not isinstance(config, dict) or "auto_map" not in config:
        return
    from transformers import CONFIG_MAPPING  # takes most of a second, and is seldom needed

    if config.get("model_type") not in CONFIG_MAPPING:
        raise ConfigError(
            f"{folder}: needs custom code (auto_map in its config.json), which medart never runs; "
            "use a model that transformers supports"
        )
    log.info("%s: has custom code (auto_map), which is not run", folder)
