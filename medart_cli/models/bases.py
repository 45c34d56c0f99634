"""Where a base model lies, what it is, and the hashes that tell it from others; loads nothing."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.models.hub import (
    DEMONSTRATION_KEY,
    TINY,
    check_weights,
    embedded_model,
    find_model,
    find_weights,
)

COMPONENTS = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
WEIGHTS = ("text_encoder", "transformer", "vae")
# What model_index.json of a merged run says of its training.
RESOLUTION = "_medart_resolution"  # image side, pixels
BUCKETS = "_medart_buckets"  # as run.json has them
# In configs, who wrote them and in which number format; those that begin with _ are such too.
NOTES = ("architectures", "dtype", "torch_dtype", "transformers_version")
VOCABULARY = (".json", ".jinja", ".model", ".txt")  # endings of a tokenizer's files
DISTILLED = ("Sprint", "LCM", "Turbo", "DMD")  # in the names of pipeline classes
NEED_BITSANDBYTES = ("int8", "nf4")  # of the formats that a frozen base is stored in


def normalize_prompt(text: str) -> str:
    """Bring a caption to the form that training, HLDF and sampling all use, for most bases.

    The same as `PixArtAlphaPipeline` with `clean_caption=False`: its cleaning was made for captions
    from the web and would cut clinical ones.
    """
    return text.lower().strip()


def keep_prompt(text: str) -> str:
    """Leave a caption as it is, where the base's own pipeline does."""
    return text


@dataclass(frozen=True)
class Kind:
    """What can be said of a kind of base models without loading one.

    Attributes:
        name: As people call it.
        module: Its file in models/, which ends in its `FAMILY`.
        tokens: Length of prompts that its pipeline uses by default, and it was made for.
        tokenizer: Class of transformers.
        text_encoder: As people call it.
        size: What is to be downloaded.
        license: Of the weights on the hub, at the time of writing.
        forbids: What of that license a clinic should know; empty where that is nothing.
        call: Options with which its pipeline draws what medart draws.
        normalize: A caption -> the form of it that the base reads, and caches know it by.
        chat: Whether it stands in the tokenizer's chat template, which takes of `tokens` too.
        taken: How many of `tokens` are not for the caption otherwise.
        flow: Whether it learns a flow, and not DDPM's chain.
        reads_trained: Whether its text encoder may be trained.
        half: Whether its text encoder can be run in fp16.
    """

    name: str
    module: str
    tokens: int
    tokenizer: str
    text_encoder: str
    size: str
    license: str
    forbids: str
    call: str
    normalize: Callable[[str], str] = normalize_prompt
    chat: bool = False
    taken: int = 0
    flow: bool = True
    reads_trained: bool = False
    half: bool = False


_PIXART: dict[str, Any] = {
    "module": "pixart", "flow": False, "reads_trained": True, "half": True,
    "tokenizer": "T5Tokenizer", "text_encoder": "T5",
    "size": "transformer 2.4 GB, T5 text encoder 19 GB, VAE 0.3 GB",
    "license": "CreativeML Open RAIL++-M",
    "forbids": "medical advice and the interpretation of medical results",
    "call": "prompt=prompt, clean_caption=False, use_resolution_binning=False",
}  # fmt: skip
# By the class that model_index.json names.
KINDS = {
    "PixArtAlphaPipeline": Kind(name="PixArt-alpha", tokens=120, **_PIXART),
    "PixArtSigmaPipeline": Kind(name="PixArt-Sigma", tokens=300, **_PIXART),
    "SanaPipeline": Kind(
        name="SANA", module="sana", tokens=300, taken=1,
        tokenizer="GemmaTokenizer", text_encoder="Gemma",
        size="transformer 1.2 to 3.2 GB, Gemma text encoder 5.2 GB, autoencoder 0.6 to 1.2 GB",
        license="NSCL v2-custom (NVIDIA), and the Gemma terms of use",
        forbids="commercial use of the model, the unlicensed practice of medicine, and automated "
        "decisions in healthcare",
        call="prompt=prompt, clean_caption=False, use_resolution_binning=False",
    ),
    "PRXPipeline": Kind(
        name="PRX", module="prx", tokens=256, tokenizer="GemmaTokenizer", text_encoder="T5Gemma",
        size="transformer 4.7 GB, T5Gemma text encoder 10.5 GB, autoencoder 0.3 to 1.2 GB",
        license="Apache-2.0, and the Gemma terms of use",
        forbids="the unlicensed practice of medicine, and automated decisions in healthcare",
        call="prompt=prompt.lower(), skip_text_cleaning=True, use_resolution_binning=False",
    ),
    "Flux2KleinPipeline": Kind(
        name="FLUX.2-klein-base", module="klein", tokens=512, tokenizer="Qwen2Tokenizer",
        text_encoder="Qwen3", size="transformer 7.8 GB, Qwen3 text encoder 8 GB, VAE 0.2 GB",
        license="Apache-2.0 (4B only; that of 9B is another, non-commercial one)", forbids="",
        call="prompt=prompt, max_sequence_length=512", normalize=keep_prompt, chat=True,
    ),
}  # fmt: skip


def find_base(
    base: str, *, offline: bool = False, parts: Sequence[str] = COMPONENTS, option: str = "--base"
) -> Path:
    """Return the folder of a pipeline: a local one, the embedded one, or a hub id's.

    Args:
        base: Folder, `tiny`, or hub id, which is taken from the cache or the hub.
        offline: Do not ask the hub.
        parts: Folders of the pipeline that are needed; no other is fetched or missed.
        option: What of the command names it, for the message.

    Raises:
        MissingModelError: It is not there and may not or cannot be fetched, or lacks a file.
        ConfigError: It is a pipeline of another kind, or a distilled one.
    """
    if base == TINY:
        folder = embedded_model("base")
    else:
        some = [] if set(parts) == set(COMPONENTS) else parts
        size = "1 MB" if list(parts) == ["tokenizer"] else guess_size(base)
        folder = find_model(base, option=option, size=size, folders=some, offline=offline)
    _check_base(folder, parts)
    return folder


def _check_base(folder: Path, parts: Sequence[str]) -> None:
    find_kind(folder)
    for part in parts:
        if not (folder / part).is_dir():
            raise MissingModelError(f"{folder}: the folder {part} is missing; copy it too")
    for part in parts:
        if part in WEIGHTS:
            check_weights(folder / part)


def guess_size(name: str) -> str:
    """Say what a base of that name downloads; of one that is not here only the name is known."""
    alike = (kind for kind in KINDS.values() if kind.module in name.lower())
    return next(alike, KINDS["PixArtAlphaPipeline"]).size


def find_kind(folder: Path) -> Kind:
    """Return what kind of base a pipeline folder holds.

    Raises:
        ConfigError: medart trains none of that kind, or it is distilled.
        MissingModelError: There is no model_index.json of diffusers.
    """
    name = pipeline_class(folder)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    known = ", ".join(kind.name for kind in KINDS.values())
    if _is_distilled(folder, name, index):
        raise ConfigError(
            f"{folder}: is a distilled {name}, which has no guidance to train against; name the "
            f"base that it was made from ({known})"
        )
    if name not in KINDS:
        raise ConfigError(f"{folder}: is a {name}; use a base of one of these: {known}")
    return KINDS[name]


def _is_distilled(folder: Path, name: str, index: Mapping[str, Any]) -> bool:
    """Say whether a pipeline is of few steps without guidance, as far as its files tell."""
    if index.get("is_distilled") or any(word in name for word in DISTILLED):
        return True
    if "LCMScheduler" in index.get("scheduler", ()):
        return True
    # PRX's distilled ones say so in their name on the hub alone.
    place = folder.resolve()
    hub = place.parents[1].name if place.parent.name == "snapshots" else place.name
    names = (hub, str(index.get("_name_or_path", "")))
    return name == "PRXPipeline" and any(own.endswith("-distilled") for own in names)


def pipeline_class(folder: Path) -> str:
    """Return the class name in a pipeline folder's model_index.json.

    Raises:
        MissingModelError: There is no such file, or it is not one of diffusers.
    """
    index = folder / "model_index.json"
    try:
        return str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingModelError(
            f"{folder}: no readable model_index.json; is this a diffusers pipeline folder?"
        ) from error


def name_license(folder: Path) -> dict[str, str]:
    """Return the license of a base's kind; the embedded base has medart's own."""
    if is_demonstration(folder):
        return {}
    kind = find_kind(folder)
    return {"license": kind.license, "forbids": kind.forbids}


def read_buckets(folder: Path) -> dict[str, Any] | None:
    """Return the aspect buckets that a merged run was trained with; None for other bases."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    found: dict[str, Any] | None = index.get(BUCKETS)
    return found


def is_demonstration(folder: Path) -> bool:
    """Say whether a pipeline was made for demonstrations and knows drawn phantoms only."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return index.get(f"_{DEMONSTRATION_KEY}") is True


def hash_base(folder: Path, known: Mapping[Path, str] | None = None) -> dict[str, str]:
    """Return a SHA-256 over each thing of a base that training and drawing depend on.

    Those are the weights of its parts, the tokenizer, and the settings of parts and noise schedule,
    which hold the autoencoder's scaling factor.

    Args:
        folder: Pipeline folder.
        known: Hashes of weight files; others are read.
    """
    hashes = {part: hash_weights(folder / part, known) for part in WEIGHTS}
    for part in WEIGHTS:
        hashes[f"{part} config"] = _hash_files([folder / part / "config.json"])
    hashes["scheduler"] = _hash_files([folder / "scheduler" / "scheduler_config.json"])
    words = (folder / "tokenizer").iterdir()
    hashes["tokenizer"] = _hash_files(sorted(path for path in words if path.suffix in VOCABULARY))
    return hashes


def check_same_base(
    base: Path, hashes: Mapping[str, str], trained_on: Mapping[str, str], trained: Path
) -> None:
    """Check that a base is the one that a run was trained on.

    Args:
        base: Pipeline folder of the base.
        hashes: Its hashes, from `hash_base`.
        trained_on: Those that run.json has; older runs have fewer.
        trained: The run, for the message.

    Raises:
        ConfigError: A part is another.
    """
    for part, known in trained_on.items():
        if hashes.get(part, known) != known:
            raise ConfigError(f"{base}: its {part} is not the one that {trained} was trained on")


def check_half(kind: Kind, precision: str) -> None:
    """Refuse fp16 for a base whose text encoder overflows in it.

    Raises:
        ConfigError: It does.
    """
    if precision == "fp16" and not kind.half:
        raise ConfigError(
            f"--precision fp16: overflows in {kind.text_encoder}, the text encoder of {kind.name}; "
            "use bf16 or fp32"
        )


def check_format(base_format: str | None) -> None:
    """Refuse a format of the frozen base whose package is not installed.

    Raises:
        ConfigError: It is not.
    """
    if base_format in NEED_BITSANDBYTES and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"--base-format {base_format}: bitsandbytes is not installed; pip install bitsandbytes"
        )


def hash_weights(folder: Path, known: Mapping[Path, str] | None = None) -> str:
    """Return a SHA-256 over a part's weights; arguments as `hash_base`."""
    digest = hashlib.sha256()
    for path in find_weights(folder):
        digest.update((_blob_hash(path) or (known or {}).get(path) or _hash_file(path)).encode())
    return digest.hexdigest()


def find_unhashed(folder: Path, parts: Sequence[str] = WEIGHTS) -> list[Path]:
    """Return the weight files of a pipeline's parts that must be read for their hash."""
    files = [path for part in parts for path in find_weights(folder / part)]
    return [path for path in files if not _blob_hash(path)]


def _blob_hash(path: Path) -> str:
    """Return the SHA-256 by which the hub's cache names the file; empty elsewhere."""
    name = path.resolve().name
    return name if len(name) == 64 else ""


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_files(paths: Sequence[Path]) -> str:
    """Hash small files by what they say: of JSON neither layout nor notes of the libraries."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".json" and content:
            content = _canonical(content)
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _canonical(content: bytes) -> bytes:
    try:
        facts = json.loads(content)
    except ValueError:
        return content
    if isinstance(facts, dict):
        facts = {key: facts[key] for key in facts if key[0] != "_" and key not in NOTES}
    return json.dumps(facts, sort_keys=True).encode()


def read_tokens(kind: Kind, tokenizer: Any, prompt: str) -> list[int]:  # noqa: ANN401
    """Return the token ids of a prompt as it is read, the end mark included."""
    ids: list[int] = tokenizer(kind.normalize(prompt)).input_ids
    return ids


def count_tokens(kind: Kind, tokenizer: Any, prompt: str) -> int:  # noqa: ANN401
    """Count the tokens of a prompt as it is read, the end mark included."""
    return len(read_tokens(kind, tokenizer, prompt))


def caption_tokens(kind: Kind, tokenizer: Any) -> int:  # noqa: ANN401 - of several classes
    """Return how many tokens of its own a caption may have, before its end is cut.

    Where captions stand in a chat template, those of the template around nothing are taken off;
    SANA keeps one embedding of its instruction.
    """
    around = tokenizer(write_chat(tokenizer, "")).input_ids if kind.chat else ()
    return kind.tokens - kind.taken - len(around)


def write_chat(tokenizer: Any, prompt: str) -> str:  # noqa: ANN401 - of several classes
    """Put a prompt into the chat template, up to where an answer without thinking would begin."""
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False, add_generation_prompt=True, enable_thinking=False,
    )  # fmt: skip
    return text


def load_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - of several classes
    """Load the tokenizer of a pipeline folder."""
    import transformers  # takes most of a second, but not torch

    kind, place = find_kind(folder), folder / "tokenizer"
    try:
        tokenizer = getattr(transformers, kind.tokenizer).from_pretrained(
            place, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise MissingModelError(f"{place}: cannot be read: {error}") from error
    if kind.chat and not tokenizer.chat_template:
        raise MissingModelError(f"{place}: there is no chat template; copy its .jinja file too")
    return tokenizer
