"""Look at this machine and at the model files on its disk -> a report of what is there and missing.

The network is not used, no weights are loaded, and nothing is written.
"""

import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from packaging.requirements import Requirement

from medart_cli import __version__
from medart_cli.doctor.options import DoctorConfig
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.log import log
from medart_cli.options import DEFAULT_BASE
from medart_cli.shell import ask_command

# What medart computes with, in the order that tells best which one is broken.
IMPORTED = ("torch", "torchvision", "transformers", "diffusers", "peft", "timm", "accelerate")
OPTIONAL = {
    "bitsandbytes": (
        "finetune --optimizer adamw8bit and --base-format, caption --load-in 4bit and 8bit",
        "8bit",
    ),
    "prodigyopt": ("finetune --optimizer prodigy", "prodigy"),
    "pylibjpeg": ("DICOM files in JPEG-LS, JPEG 2000 and RLE", "dicom"),
}
USED_BY = {  # options that take the folder of a model
    "base": "--base", "tokenizer": "--base", "captioner": "--model", "features": "--features",
}  # fmt: skip
NAMED_BY = {"medart cache": "MEDART_CACHE", "hub cache": "HF_HOME"}  # environment variables
SHARED_LEAST = 1.0  # GB of shared memory that processes of several GPUs ask for
COLUMN_WIDTH = 16  # of the report's first column


def run(config: DoctorConfig) -> dict[str, Any]:
    """Look at packages, hardware, models and folders, and tell what is missing."""
    versions, problems = read_packages()
    told: list[str] = []
    facts: dict[str, Any] = {
        "format": 1, "stage": "doctor", "python": platform.python_version(),
        "platform": platform.platform(), "cpu": read_cpu(), "cuda": None, "gpus": [],
        "device": None, "precision": None, "packages": versions, "optional": read_optional(),
        "models": [], "folders": [], "estimate": None, "offline": config.offline,
        "hf_hub_offline": bool(constants.HF_HUB_OFFLINE),
    }  # fmt: skip
    if not problems:  # else nothing more could be imported
        hardware, problems = read_hardware(config)
        facts |= hardware
        problems += look_at_disk(config, facts)
        if config.data is not None and facts["device"]:
            told, more = ask_finetune(config, facts)
            problems += more
    facts |= {"problems": problems, "ready": not problems}
    verdict = "ready" if facts["ready"] else "not ready"
    return {"result": verdict if config.json else "\n".join(format_report(facts, told))} | facts


def ask_finetune(config: DoctorConfig, facts: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Add finetune's estimate to the facts; return its lines, and what keeps it from running.

    Whether the base fits is then said of the training's peak, not of the weights.
    """
    from medart_cli.doctor.models import name_fit

    try:
        asked = ask_command(word_finetune(config))
    except MissingModelError as error:
        return [], [str(error)]
    facts["estimate"] = asked["estimate"]
    for model in facts["models"]:
        trained = model["kind"] == "base" and model["name"] == (config.base or DEFAULT_BASE)
        if trained and model["fit"]:
            model["fit"] = name_fit(asked["estimate"]["memory"]["peak_gb"], facts, "fits")
    return asked["result"].splitlines(), asked["estimate"]["problems"]


def word_finetune(config: DoctorConfig) -> list[str]:
    """Write the command that estimates what is asked about."""
    words = ["finetune", str(config.data), "--out", str(config.out or "run"), "--dry-run"]
    words += ["--config", config.config] if config.config else []
    for name, value in (("base", config.base), ("device", config.device)):
        words += [f"--{name}", value] if value not in (None, "auto") else []
    words += ["--precision", config.precision] if config.precision != "auto" else []
    return words


def read_packages() -> tuple[dict[str, str | None], list[str]]:
    """Return the version of each package that medart needs, and what is wrong with them."""
    needed = [Requirement(line) for line in metadata.requires("medart-cli") or ()]
    needed = [item for item in needed if not item.marker or item.marker.evaluate({"extra": ""})]
    versions: dict[str, str | None] = {"medart": __version__}
    problems = []
    for item in needed:
        version = versions[item.name] = _find_version(item.name)
        if version is None or not item.specifier.contains(version, prereleases=True):
            found = f"is {version}" if version else "is not installed"
            problems.append(f"{item.name}: {found}; pip install '{item.name}{item.specifier}'")
    for name in IMPORTED:
        try:
            import_module(name)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            return versions, [*problems, f"{name}: cannot be imported: {reason}; reinstall it"]
    return versions, problems


def _find_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_optional() -> dict[str, dict[str, str | None]]:
    """Return version, use and installing command of the optional packages."""
    return {
        name: {"version": _find_version(name), "use": use,
               "get": f"pip install 'medart-cli[{extra}]'"}
        for name, (use, extra) in OPTIONAL.items()
    }  # fmt: skip


def read_cpu() -> dict[str, Any]:
    """Return the cores that this process may use, the machine's memory, and /dev/shm's size."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage("/dev/shm").total / 1e9 if os.path.isdir("/dev/shm") else None
    return {
        "cores": cores, "memory_gb": round(memory / 1e9, 3),
        "shared_gb": None if shared is None else round(shared, 3),
    }  # fmt: skip


def read_hardware(config: DoctorConfig) -> tuple[dict[str, Any], list[str]]:
    """Return the GPUs, where and in which format models would run, and what is wrong with that."""
    import torch

    from medart_cli.models.device import find_device, find_precision

    gpus = [_read_gpu(index) for index in range(torch.cuda.device_count())]
    facts = {"cuda": torch.version.cuda, "gpus": gpus}
    try:
        device = find_device(config.device)
        precision = find_precision(config.precision, device)
    except ConfigError as error:
        return facts, [str(error)]
    name = f"cuda:{torch.cuda.current_device()}" if device.type == "cuda" else "cpu"
    return facts | {"device": name, "precision": precision}, []


def _read_gpu(index: int) -> dict[str, Any]:
    import torch

    total, free = torch.cuda.get_device_properties(index).total_memory, 0
    try:
        free = torch.cuda.mem_get_info(index)[0]
    except RuntimeError as error:  # another process has it for itself
        log.warning("GPU %d cannot be used: %s", index, str(error).partition("\n")[0])
    return {
        "index": index, "name": torch.cuda.get_device_name(index),
        "total_gb": round(total / 1e9, 3), "free_gb": round(free / 1e9, 3),
    }  # fmt: skip


def look_at_disk(config: DoctorConfig, facts: dict[str, Any]) -> list[str]:
    """Add models and folders to the facts, and return what stands in the way of the named ones."""
    from medart_cli.data.cache import default_cache
    from medart_cli.doctor.models import count_memory, look_at_models
    from medart_cli.models.hub import has_hub_cache

    models = look_at_models(config)
    for model in models:
        count_memory(model, facts)
    facts["models"] = [asdict(model) for model in models]
    cache = None
    with suppress(ConfigError):  # no home folder: the report says so
        cache = default_cache()
    facts["folders"] = [
        look_at_folder("medart cache", cache),
        look_at_folder("hub cache", Path(constants.HF_HUB_CACHE) if has_hub_cache() else None),
        look_at_folder("working folder", Path.cwd()),
    ]
    problems = [problem for model in models if model.required for problem in model.problems]
    if config.out is not None:
        folder = look_at_folder("output", config.out)
        facts["folders"].append(folder)
        if not folder["writable"]:
            problems.append(f"{config.out}: is not writable; use another folder")
    return problems


def look_at_folder(use: str, path: Path | None) -> dict[str, Any]:
    """Say whether a folder, or its first existing parent, is writable, and its free space.

    None stands for a folder in the home of a user who has none.
    """
    if path is None:
        return {"use": use, "path": None, "exists": False, "writable": False, "free_gb": None}
    path = path.absolute()
    there = next(item for item in (path, *path.parents) if item.exists())
    return {
        "use": use, "path": str(path), "exists": path.exists(),
        "writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        "free_gb": round(shutil.disk_usage(there).free / 1e9, 3),
    }  # fmt: skip


def format_report(facts: dict[str, Any], told: Sequence[str] = ()) -> list[str]:
    """Turn the facts into lines to read, with what finetune told of its needs."""
    cpu, gpus = facts["cpu"], facts["gpus"]
    lines = [
        "Machine",
        _line("Python", facts["python"]),
        _line("platform", facts["platform"]),
        _line("CPU", f"{cpu['cores']} cores, {_size(cpu['memory_gb'])} memory"),
    ]
    lines += [
        _line(f"GPU {gpu['index']}", f"{gpu['name']}, {_size(gpu['free_gb'])} free of "
              f"{_size(gpu['total_gb'])}")
        for gpu in gpus
    ]  # fmt: skip
    if not gpus:
        build = "" if facts["cuda"] else " (this PyTorch is built without CUDA)"
        lines.append(_line("GPU", f"none that PyTorch can use{build}"))
    if len(gpus) > 1 and cpu["shared_gb"] is not None:
        lines.append(_format_shared(cpu["shared_gb"]))
    if facts["device"]:
        lines.append(_line("models run on", f"{facts['device']}, in {facts['precision']}"))
    lines += ["", "Packages", *_format_packages(facts)]
    if facts["models"]:
        lines += ["", "Models", *(line for model in facts["models"] for line in _format(model))]
        lines += ["", "Folders", *(_format_folder(folder) for folder in facts["folders"])]
    network = "the commands download missing hub models"
    if facts["offline"] or facts["hf_hub_offline"]:
        network = f"not used ({'--offline' if facts['offline'] else 'HF_HUB_OFFLINE is set'})"
    lines.append(_line("network", network))
    if told:
        lines += ["", "Fine-tuning, estimated", *told]
    return [*lines, "", *_format_verdict(facts)]


def _format_shared(size: float) -> str:
    advice = "; several GPUs need more: docker run --shm-size=1g" if size < SHARED_LEAST else ""
    return _line("shared memory", f"{_size(size)} in /dev/shm{advice}")


def _format_verdict(facts: dict[str, Any]) -> list[str]:
    needed = [model for model in facts["models"] if model["required"]]
    shown = [problem for model in needed for problem in model["problems"]]  # further up
    if not facts["ready"]:
        return [*(line for line in facts["problems"] if line not in shown), "Not ready."]
    if not needed:
        return ["Give a model with --base, --model or --features to check whether it can be used."]
    small = any(model["fit"] == "does not fit" for model in needed)
    return ["Ready, but memory may be insufficient." if small else "Ready."]


def _format_packages(facts: dict[str, Any]) -> list[str]:
    shown = ("medart", *IMPORTED)
    lines = [_line(name, facts["packages"][name] or "missing") for name in shown]
    for name, item in facts["optional"].items():
        lines.append(_line(name, item["version"] or f"not installed; for {item['use']}"))
        if not item["version"]:
            lines.append(_line("", item["get"]))
    return lines


def _format(model: dict[str, Any]) -> list[str]:
    name, folder, fetch = model["name"], model["folder"], model["fetch"]
    if not model["problems"]:
        lines = [_line(model["kind"], f"{name}: ready")]
    elif fetch and not folder:  # the problem is only that it is not here
        lines = [_line(model["kind"], f"{name}: missing"), _line("  to get it", fetch)]
        lines.append(_line("  size", model["size"]))
        if "FOLDER" in fetch:
            lines.append(_line("  to use it", f"{USED_BY[model['kind']]} FOLDER"))
    else:
        lines = [_line(model["kind"], f"{name}: cannot be used")]
        lines += [_line("  because", problem) for problem in model["problems"]]
    if model["family"]:
        lines.append(_line("  family", model["family"]))
    if model["license"]:
        lines.append(_line("  license", model["license"]))
    if folder and folder != name:
        lines.append(_line("  folder", folder))
    lines += _format_files(model["files"])
    if model["memory_gb"] is not None:
        weights = sum(model["parameters"].values()) / 1e6
        need = f"{_size(model['memory_gb'])} for {weights:,.1f} million weights"
        lines.append(_line("  memory", f"{need}: {model['fit']}"))
    return lines


def _format_files(files: list[dict[str, Any]]) -> list[str]:
    """Show the weights, one a line; the small files beside them are counted only."""
    weights = [item for item in files if item["path"].endswith((".safetensors", ".pt", ".pth"))]
    width = max((len(item["path"]) for item in weights), default=0)
    lines = []
    for item in weights:
        known = f"sha256 {item['sha256'][:12]}" if item["sha256"] else "not hashed (--hash)"
        size = _size(item["bytes"] / 1e9)
        lines.append(_line("", f"{item['path']:<{width}}  {size:>8}  {known}"))
    return lines


def _format_folder(folder: dict[str, Any]) -> str:
    use = folder["use"]
    advice = "" if folder["writable"] or use not in NAMED_BY else f"; set {NAMED_BY[use]}"
    if folder["path"] is None:
        return _line(use, f"none, because this user has no home folder{advice}")
    state = "writable" if folder["writable"] else "NOT writable"
    return _line(use, f"{folder['path']}, {state}, {_size(folder['free_gb'])} free{advice}")


def _line(label: str, text: str) -> str:
    return f"  {label:<{COLUMN_WIDTH}}{text}".rstrip()


def _size(gigabytes: float) -> str:
    if gigabytes >= 0.1:
        return f"{gigabytes:.1f} GB"
    return f"{gigabytes * 1000:.1f} MB" if gigabytes >= 0.0001 else f"{gigabytes * 1e6:.1f} kB"
