"""What finetune needs before its first step: rows, models with adapters, caches, optimizer.

A file of its own only so that finetune.py can be read as the story of the training.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor
from torch.distributed.fsdp import CPUOffloadPolicy

from medart_cli import stop
from medart_cli.config import (
    AUTO,
    RUN_ONLY,
    FinetuneConfig,
    parse_levels,
    plan_hldf,
    settings_of,
)
from medart_cli.data.account import Account
from medart_cli.data.dataset import open_data
from medart_cli.data.hashes import hash_files
from medart_cli.data.images import fit_image, image_to_tensor, load_image
from medart_cli.data.latents import TensorCache, make_cache, open_cache
from medart_cli.data.manifest import Record, warn_of_demonstration
from medart_cli.data.order import RowOrder
from medart_cli.data.profiles import read_profile
from medart_cli.data.splits import refuse_synthetic, warn_of_two_labels
from medart_cli.diffusion.losses import STATISTICS, color_statistics
from medart_cli.errors import ConfigError, ImageError, RunError, Stopped
from medart_cli.log import log, progress
from medart_cli.models import adapters, pixart
from medart_cli.models import optimizer as optimizers
from medart_cli.models.device import DTYPES, ask_first, find_precision, join_processes
from medart_cli.ranks import own_part
from medart_cli.versions import read_versions

MOST_UNKNOWN = 0.2  # of all tokens of the captions, before a warning


@dataclass
class Row:
    """One training image: its record, the hash of its bytes, and its caption."""

    record: Record
    sha256: str
    caption: str


@dataclass
class Work:
    """What lives during a run: models, caches, optimizer."""

    config: FinetuneConfig
    accelerator: Accelerator
    base: Path
    rows: list[Row]
    facts: dict[str, Any]
    transformer: Any
    text_encoder: Any  # None where T5 is frozen and its embeddings are cached
    tokenizer: Any
    vae: Any
    scheduler: Any
    latents: TensorCache
    texts: TensorCache
    optimizer: Any = None
    schedule: Any = None
    ema: Any = None
    recompute: str = "step"
    auto_hldf: bool = False  # whether N is to be chosen

    @cached_property
    def order(self) -> RowOrder:
        """The order in which rows are trained on, once no more are left out."""
        labels = [row.record.label or "" for row in self.rows]
        return RowOrder(labels, self.config.seed, balance=self.config.balance)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The weights that are trained, in a fixed order."""
        models = [self.transformer, self.text_encoder]
        return [p for model in models if model for p in model.parameters() if p.requires_grad]

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the transformer's weights (FSDP)."""
        return bool(self.accelerator.is_fsdp2)


def read_rows(config: FinetuneConfig) -> tuple[list[Row], int, Account]:
    """Read the training rows: those without text get the simple caption, lost files are counted.

    Returns:
        The rows, how many files were lost, and what was found in the data set.
    """
    profile = read_profile(config.profile)
    rows, failures, plain = [], 0, 0
    found = open_data(config.data, root=config.root, levels=parse_levels(config.folders))
    records = [record for record in found if record.split in (None, "train")]
    refuse_synthetic(records, "the training images", allowed=config.allow_synthetic)
    hashes, faults = hash_once(config, sorted({record.path for record in records}))
    for record in records:
        caption = record.text
        if caption is None:
            caption, plain = profile.simple_caption(record.label), plain + 1
        if record.path in hashes:
            rows.append(Row(record, hashes[record.path], caption))
        else:
            reason = faults[record.path].strerror
            log.warning("%s: %s: %s; left out", record.place, record.path, reason)
            failures += 1
    if not records:
        raise ConfigError(f"{config.data}: no training image; rows need split train or none at all")
    if not rows:
        raise ConfigError(
            f"{config.data}: none of its {len(records)} training images can be opened, as said "
            "above; see --root"
        )
    warn_of_two_labels([row.record for row in rows], [row.sha256 for row in rows])
    if plain:
        example = next(row.caption for row in rows if row.record.text is None)
        log.warning(
            '%d of %d images have no caption; they get the simple one, such as "%s"; --profile '
            "words it, medart caption writes better ones", plain, len(rows), example,
        )  # fmt: skip
    return rows, failures, found.account


def hash_once(
    config: FinetuneConfig, paths: Sequence[Path]
) -> tuple[dict[Path, str], dict[Path, OSError]]:
    """Hash files in one of the processes, with the memory of `hash_files`."""
    return ask_first(partial(hash_files, paths, cache=cache_folder(config), poll=stop.check))


def cache_folder(config: FinetuneConfig) -> Path | None:
    """Return where latents, embeddings and hashes are kept; None where nothing is."""
    return make_cache(config.cache) if config.use_cache else None


def hash_base(config: FinetuneConfig, base: Path) -> dict[str, str]:
    """Return the hashes of the base; large files are read once."""
    hashes, faults = hash_once(config, pixart.find_unhashed(base))
    for error in faults.values():
        raise error
    return pixart.hash_base(base, hashes)


def describe_data(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what run.json says of the training rows: counts, a hash of images and captions."""
    lines = (f"{row.sha256} {row.record.label} {row.caption}" for row in rows)
    digest = hashlib.sha256("\n".join(lines).encode())
    labels = Counter(row.record.label or "(none)" for row in rows)
    groups = {row.record.group for row in rows} - {None}
    facts = {"images": len(rows), "labels": dict(labels), "hash": digest.hexdigest()}
    return {"data": facts, "patients": len(groups) or None}


def build_accelerator(config: FinetuneConfig) -> Accelerator:
    """Set up accelerate: device, number format, trackers."""
    lacking = set(config.log_with or ()) - {str(name) for name in get_available_trackers()}
    if lacking:
        raise ConfigError(
            f"--log-with {sorted(lacking)[0]}: accelerate knows no such tracker, or its package is "
            "not installed"
        )
    device = join_processes(config.device)
    precision = find_precision(config.precision, device)
    # Said in full, since accelerate would take what is left open from its settings and environment.
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop divides
        dynamo_backend="no",
        log_with=config.log_with,
        project_dir=str(config.out) if config.log_with else None,
    )
    check_sharding(config, accelerator)
    return accelerator


def check_sharding(config: FinetuneConfig, accelerator: Accelerator) -> None:
    """Refuse what accelerate's settings ask for and medart, or accelerate, does not do.

    Raises:
        ConfigError: Sharding by anything but FSDP 2, or of more than the transformer's weights.
    """
    kind = accelerator.distributed_type.name
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() == "true":
        kind = "PARALLELISM_CONFIG"
    others = ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
    if kind in others or (kind == "FSDP" and not accelerator.is_fsdp2):
        raise ConfigError(
            f"accelerate's settings ask for {kind}, which medart does not do; use plain processes, "
            "as torchrun starts them, or FSDP with fsdp_version 2 (docs/cluster.md)"
        )
    if kind != "FSDP":
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            log.warning("accelerate shards on GPUs only: here each process holds all weights")
        return
    whole = config.method == "full" and not config.train_text_encoder
    if not (whole and config.optimizer == "adamw"):
        raise ConfigError(
            "FSDP is for all weights of the transformer: give --method full "
            "--freeze-text-encoder --optimizer adamw; adapters are small, use plain processes, as "
            "torchrun starts them"
        )
    plugin = accelerator.state.fsdp_plugin
    if (
        isinstance(plugin.cpu_offload, CPUOffloadPolicy)
        or plugin.cpu_ram_efficient_loading
        or plugin.activation_checkpointing
    ):
        raise ConfigError(
            "FSDP: accelerate's settings must have fsdp_offload_params, "
            "fsdp_cpu_ram_efficient_loading and fsdp_activation_checkpointing at false; for less "
            "memory give --gradient-checkpointing"
        )


def build_work(
    config: FinetuneConfig, base: Path, rows: list[Row], accelerator: Accelerator
) -> Work:
    """Load the models, put the adapters on, and open the caches."""
    cache = cache_folder(config)
    device = accelerator.device
    precision = find_precision(config.precision, device)
    frozen_dtype = DTYPES[precision]
    torch.manual_seed(config.seed)  # the start of the adapters
    transformer = pixart.load_transformer(
        base, torch.float32 if config.method == "full" else frozen_dtype, device
    )
    kind = "lora" if config.method == "full" else config.method
    add = partial(adapters.add_adapter, kind=kind, rank=config.rank, alpha=config.alpha)
    if config.method == "full":
        transformer.requires_grad_(True)
    else:
        transformer = add(transformer, targets=config.target or adapters.TRANSFORMER_TARGETS)
    text_encoder: Any = None
    if config.train_text_encoder or not config.use_cache:
        text_encoder = pixart.load_text_encoder(base, frozen_dtype, device, dropout=0.0)
    if config.train_text_encoder:  # in training mode, or it would not recompute its blocks
        text_targets = config.text_target or adapters.TEXT_TARGETS
        text_encoder = add(text_encoder, targets=text_targets).train()
    vae = pixart.load_vae(base, device)
    resolution = config.resolution or pixart.native_size(base, transformer, vae)
    pixart.check_size(resolution, transformer, vae)
    hashes = hash_base(config, base)
    image_cache = None if config.crop == "random" else cache  # no two crops are the same
    reader = " ".join(hashes[part] for part in ("text_encoder", "text_encoder config", "tokenizer"))
    text_facts = f"{reader} {pixart.max_tokens(base)} {precision}"
    coder = " ".join(hashes[part] for part in ("vae", "vae config"))
    image_facts = f"{coder} {resolution} {config.crop} {' '.join(STATISTICS)}"
    work = Work(
        config=config, accelerator=accelerator, base=base, rows=rows,
        facts={
            "format": 1, "stage": "finetune", "versions": read_versions(),
            "base": str(base.resolve()) if Path(config.base).is_dir() else config.base,
            "base_name": base.resolve().name if Path(config.base).is_dir() else config.base,
            "base_hashes": hashes, "method": config.method, "precision": precision,
            "resolution": resolution, "demonstration": pixart.is_demonstration(base),
            "processes": accelerator.num_processes,
            "trained": ["transformer", "text_encoder"][: 1 + config.train_text_encoder],
        },
        transformer=transformer, text_encoder=text_encoder, vae=vae,
        tokenizer=pixart.load_tokenizer(base), scheduler=pixart.load_scheduler(base),
        latents=open_cache(image_cache, "latents", image_facts),
        texts=open_cache(cache, "text", text_facts),
        recompute=config.hldf_checkpoint, auto_hldf=config.hldf_every == AUTO,
    )  # fmt: skip
    if work.facts["demonstration"]:
        warn_of_demonstration(work.facts["base_name"], [row.record for row in rows])
    if config.gradient_checkpointing:
        for model in (transformer, text_encoder, vae):
            if model is not None:
                pixart.recompute_blocks(model, True)
    return work


def check_captions(work: Work) -> None:
    """Say what of the captions the text encoder does not see: words, ends, differences."""
    unknown = total = 0
    limit, long = pixart.max_tokens(work.base), []
    labels: dict[tuple[int, ...], set[str]] = {}
    for caption, row in {row.caption: row for row in work.rows}.items():
        ids = work.tokenizer(pixart.normalize_prompt(caption)).input_ids
        unknown += sum(token == work.tokenizer.unk_token_id for token in ids)
        total += len(ids)
        labels.setdefault(tuple(ids), set()).add(row.record.label or "")
        if len(ids) > limit:
            long.append((row.record.file_name, len(ids)))
    if long:
        log.warning(
            "%d captions are longer than the %d tokens that the text encoder reads, as that of %s "
            "(%d); their ends are cut off; medart caption keeps to the limit",
            len(long), limit, *long[0],
        )  # fmt: skip
    if unknown > MOST_UNKNOWN * total:
        log.warning(
            "%.0f %% of the captions' tokens are unknown to the text encoder, which sees nothing "
            "of them; write the captions in English", 100 * unknown / total,
        )  # fmt: skip
    alike = next((names for names in labels.values() if len(names) > 1), None)
    if alike:
        log.warning(
            "captions of the labels %s are the same tokens to the text encoder: it cannot tell "
            "them apart", " and ".join(sorted(alike)),
        )  # fmt: skip


def own_first(count: int) -> list[int]:
    """Order the places of a list that several processes go through: this process's part first.

    The results meet in a cache, so that a process finds the others' parts finished, or nearly.
    """
    part = own_part((1, 1))
    return sorted(range(count), key=lambda place: place % part.count != part.index)


def cache_images(work: Work) -> int:
    """Encode all images once; leave out, name and count those that cannot be read."""
    good = set()
    with progress("images", len(work.rows)) as bar:
        for place in own_first(len(work.rows)):
            row = work.rows[place]
            stop.check()
            try:
                for flip in (False, True)[: 1 + work.config.flip]:
                    if work.latents.folder is None:
                        load_image(row.record.path)
                    elif not work.latents.has(row.sha256, str(flip)):
                        read_latents(work, row, flip, (0.5, 0.5))
                good.add(place)
            except ImageError as error:
                log.warning("%s; left out", error)
            bar.advance()
    failures = len(work.rows) - len(good)
    if not good:
        raise ConfigError(f"{work.config.data}: none of its {failures} images can be read")
    work.rows = [row for place, row in enumerate(work.rows) if place in good]
    return failures


def read_latents(work: Work, row: Row, flip: bool, place: tuple[float, float]) -> dict[str, Tensor]:
    """Return mean and std of a row's latents (C, h, w), and its color statistics by name."""

    def encode() -> dict[str, Tensor]:
        image = load_image(row.record.path)
        fitted = fit_image(image, work.facts["resolution"], work.config.crop, place)
        tensor = image_to_tensor(fitted)[None]  # (1, 3, H, W)
        tensor = tensor.flip(3) if flip else tensor
        mean, std = pixart.encode_images(work.vae, tensor)
        colors = {name: color_statistics(tensor, [name])[0] for name in STATISTICS}
        return {"mean": mean[0].cpu(), "std": std[0].cpu(), **colors}

    return work.latents.get(encode, row.sha256, str(flip))


def cache_captions(work: Work) -> None:
    """With T5 frozen, run it once on each distinct caption and let it go."""
    if work.text_encoder is not None:
        return
    captions = sorted({pixart.normalize_prompt(row.caption) for row in work.rows} | {""})
    missing = [caption for caption in captions if work.texts.find(caption) is None]
    if not missing:
        return
    device = work.accelerator.device
    precision = work.facts["precision"]
    text_encoder = pixart.load_text_encoder(work.base, DTYPES[precision], device)
    with progress("captions", len(missing)) as bar, torch.no_grad():
        for place in own_first(len(missing)):
            stop.check()
            bar.advance()
            if work.texts.find(missing[place]) is not None:  # by another process
                continue
            limit = pixart.max_tokens(work.base)
            ids, mask = pixart.tokenize(work.tokenizer, [missing[place]], limit, pad=False)
            with work.accelerator.autocast():
                embeds = pixart.encode_tokens(text_encoder, ids.to(device), mask.to(device))
            work.texts.keep({"embeds": embeds[0]}, missing[place])


def embed(work: Work, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Return embeddings (B, L, D) and mask (B, L) of captions, padded to the longest of them."""
    device = work.accelerator.device
    if work.text_encoder is None:
        rows = [work.texts.find(pixart.normalize_prompt(caption)) for caption in captions]
        if any(row is None for row in rows):
            raise RunError("the text cache lost an entry while in use; run the same command again")
        return pixart.pad_embeds([row["embeds"].to(device) for row in rows if row])
    limit = pixart.max_tokens(work.base)
    ids, mask = pixart.tokenize(work.tokenizer, captions, limit, pad=False)
    mask = mask.to(device)
    return pixart.encode_tokens(work.text_encoder, ids.to(device), mask), mask


def denoiser(
    work: Work, captions: list[str], guidance: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the solver's denoise function for captions; it polls for a stop before each pass.

    One of several processes does not: they leave together, between two steps.
    """
    embeds, mask = embed(work, [*captions, ""])
    text, empty = (embeds[:-1], mask[:-1]), (embeds[-1:], mask[-1:])
    if work.accelerator.num_processes > 1:
        return pixart.build_denoiser(work.transformer, text, empty, guidance)
    return pixart.build_denoiser(work.transformer, text, empty, guidance, poll=stop.check)


def check_stop(work: Work, late: bool) -> bool:
    """Leave all processes at the same step if a stop signal has reached any of them.

    Args:
        work: What lives during the run.
        late: Whether this process finds it time for a checkpoint.

    Returns:
        Whether any process does.

    Raises:
        Stopped: In all processes.
    """
    if work.accelerator.num_processes == 1:
        stop.check()
        return late
    marks = torch.tensor([stop.received(), late], device=work.accelerator.device).float()
    stopped, any_late = (work.accelerator.reduce(marks, "sum") > 0).tolist()
    if stopped:
        raise Stopped("stopped by a signal; run the same command again to go on")
    return bool(any_late)


def build_optimizer(work: Work, total: int) -> None:
    """Make optimizer, schedule and average, and hand the models to accelerate."""
    config = work.config
    work.optimizer = optimizers.build_optimizer(
        config.optimizer, work.parameters, config.learning_rate, config.weight_decay
    )
    work.schedule = optimizers.build_schedule(
        work.optimizer, config.lr_schedule, config.warmup_steps, total
    )
    work.transformer, work.optimizer = work.accelerator.prepare(work.transformer, work.optimizer)
    if config.train_text_encoder:
        work.text_encoder = work.accelerator.prepare(work.text_encoder)
    if work.sharded:
        share = count_weights(work) / sum(parameter.numel() for parameter in work.parameters)
        log.info("FSDP: this process holds %.0f %% of the trained weights", 100 * share)
    if config.ema:
        work.ema = adapters.build_ema(work.parameters, config.ema, sharded=work.sharded)
    frugal = config.gradient_checkpointing or work.accelerator.device.type != "cuda"
    if work.recompute == "auto" and (frugal or not plan_hldf(config).every):
        work.recompute = "step"  # where blocks are recomputed, the size of a pass says nothing


def count_weights(work: Work) -> int:
    """Count the trained weights that this process holds."""
    parameters: list[Any] = work.parameters  # DTensors, where they are sharded
    return sum((item.to_local() if work.sharded else item).numel() for item in parameters)


def public_settings(config: FinetuneConfig) -> dict[str, Any]:
    """Return the settings that may be published: those without places on this machine."""
    private = RUN_ONLY | {"base", "profile"}
    return {name: value for name, value in settings_of(config).items() if name not in private}


def count_steps(config: FinetuneConfig, rows: int, processes: int) -> int:
    """Return the number of optimizer steps of the whole run."""
    if config.steps is not None:
        return config.steps
    return max(
        1, math.ceil(config.epochs * rows / (config.batch_size * config.accumulate * processes))
    )


def trained_parts(work: Work) -> dict[str, Any]:
    """Return the models whose weights the run saves, without the wrapper for several processes."""
    models = {"transformer": work.transformer, "text_encoder": work.text_encoder}
    return {name: work.accelerator.unwrap_model(models[name]) for name in work.facts["trained"]}


def gather_parts(work: Work) -> dict[str, Any]:
    """Return the models to save, with whole weights; of several processes all must call it."""
    parts = trained_parts(work)
    if work.sharded:
        state = work.accelerator.get_state_dict(work.transformer)  # process 0 alone gets it
        if work.accelerator.is_main_process:
            parts["transformer"] = adapters.gather_transformer(parts["transformer"], state)
    return parts


def unsynced(work: Work) -> ExitStack:
    """Keep several processes from exchanging gradients until the last backward pass of a step.

    With FSDP they do exchange them: to wait, each process would need room for all gradients.
    """
    stack = ExitStack()
    for name in () if work.sharded else work.facts["trained"]:
        stack.enter_context(work.accelerator.no_sync(getattr(work, name)))
    return stack
