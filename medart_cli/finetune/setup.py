"""What finetune needs before its first step: rows, models with adapters, caches, optimizer.

A file of its own only so that train.py shows the training loop alone.
"""

import gc
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin
from torch.distributed.fsdp import CPUOffloadPolicy

from medart_cli import stop
from medart_cli.data.buckets import Shape, find_bucket, list_buckets
from medart_cli.data.images import load_image
from medart_cli.data.manifest import HashedRecord, warn_of_demonstration
from medart_cli.data.tensors import open_cache
from medart_cli.diffusion.losses import STATISTICS
from medart_cli.diffusion.process import Times
from medart_cli.errors import ConfigError, ImageError
from medart_cli.finetune.buckets import describe_buckets, say_loss
from medart_cli.finetune.hldf import AUTO, plan_hldf
from medart_cli.finetune.optimizer import build_schedule
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.rows import cache_folder, hash_base_once, name_base
from medart_cli.finetune.work import Work, count_weights, read_latents, reading_autocast
from medart_cli.log import log, progress
from medart_cli.models import adapters, parts
from medart_cli.models.bases import (
    caption_tokens,
    find_kind,
    is_demonstration,
    load_tokenizer,
    name_license,
    read_tokens,
)
from medart_cli.models.compiled import fix_length
from medart_cli.models.device import DTYPES, find_precision, join_processes
from medart_cli.models.families import check_size, find_family
from medart_cli.models.offload import find_reader, load_reader
from medart_cli.models.optimizers import build_optimizer
from medart_cli.models.parts import set_aside
from medart_cli.models.quantized import load_frozen_base, name_format
from medart_cli.ranks import own_part
from medart_cli.versions import read_versions

MOST_UNKNOWN = 0.2  # of all tokens of the captions, before a warning


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
            f"accelerate's settings ask for {kind}, which is not supported; use data parallelism "
            "with torchrun, or FSDP with fsdp_version 2 (docs/cluster.md)"
        )
    if kind != "FSDP":
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            log.warning("accelerate shards on GPUs only: here each process has all weights")
        return
    if config.compile:
        raise ConfigError(
            "--compile: not with FSDP, whose hooks cannot be compiled; leave --compile out, or use "
            "data parallelism with torchrun"
        )
    whole = config.method == "full" and not config.train_text_encoder
    if not (whole and config.optimizer == "adamw"):
        raise ConfigError(
            "FSDP is for full fine-tuning of the transformer: use --method full "
            "--freeze-text-encoder --optimizer adamw; adapters are small, use data parallelism "
            "with torchrun"
        )
    plugin = accelerator.state.fsdp_plugin
    if (
        isinstance(plugin.cpu_offload, CPUOffloadPolicy)
        or plugin.cpu_ram_efficient_loading
        or plugin.activation_checkpointing
    ):
        raise ConfigError(
            "FSDP: accelerate's settings must have fsdp_offload_params, "
            "fsdp_cpu_ram_efficient_loading and fsdp_activation_checkpointing set to false; for "
            "less memory use --gradient-checkpointing"
        )


def check_blocks(accelerator: Accelerator, transformer: torch.nn.Module) -> None:
    """Refuse accelerate's settings for another base, which name blocks that this one has not.

    Raises:
        ConfigError: Names those of this base.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    named = set(getattr(plugin, "transformer_cls_names_to_wrap", None) or ())
    lists = (it for it in transformer.children() if isinstance(it, torch.nn.ModuleList))
    known = {type(block).__name__ for blocks in lists for block in blocks}
    unknown = named - {type(module).__name__ for module in transformer.modules()}
    if unknown:
        raise ConfigError(
            f"FSDP: this base has no {min(unknown)}; in accelerate's settings, set "
            f"fsdp_transformer_layer_cls_to_wrap to {','.join(sorted(known))}"
        )


def build_work(
    config: FinetuneConfig,
    named: tuple[Path, dict[str, str] | None],
    rows: list[HashedRecord],
    accelerator: Accelerator,
) -> Work:
    """Load the models, put the adapters on, and open the caches.

    Args:
        config: The options.
        named: Folder of the base, and its hashes where they are known.
        rows: The training images.
        accelerator: Of this process.
    """
    base, hashes = named[0], named[1] or hash_base_once(config, named[0])
    family = find_family(base)
    about = find_kind(base)
    cache = cache_folder(config)
    device = accelerator.device
    precision = find_precision(config.precision, device)
    frozen_dtype = DTYPES[precision]
    torch.manual_seed(config.seed)  # the start of the adapters
    transformer = load_frozen_base(
        family.load_transformer, base, torch.float32 if config.method == "full" else frozen_dtype,
        device, config.base_format,
    )  # fmt: skip
    check_blocks(accelerator, transformer)
    kind = "lora" if config.method == "full" else config.method
    add = partial(adapters.add_adapter, kind=kind, rank=config.rank, alpha=config.alpha)
    if config.method == "full":
        transformer.requires_grad_(True)
    else:
        targets = config.target or family.targets
        transformer = adapters.spare_draws(add(transformer, targets=targets))
    text_encoder: Any = None
    if config.train_text_encoder or not config.use_cache:
        check_text_device(config, accelerator)
        text_encoder = load_text_encoder(config, base, device, frozen_dtype)
    if config.train_text_encoder:  # in training mode, or it would not recompute its blocks
        text_targets = config.text_target or family.text_targets
        text_encoder = adapters.spare_draws(add(text_encoder, targets=text_targets).train())
    vae = family.load_vae(base, device)
    resolution = config.resolution or family.native_size(base, transformer, vae)
    unit = check_size(family, resolution, transformer, vae)
    image_cache = None if config.crop == "random" else cache  # no two crops are the same
    reader = " ".join(hashes[part] for part in ("text_encoder", "text_encoder config", "tokenizer"))
    text_facts = f"{reader} {about.tokens} {precision}{name_format(config.base_format)}"
    coder = " ".join(hashes[part] for part in ("vae", "vae config"))
    image_facts = f"{coder} {resolution} {config.crop} {' '.join(STATISTICS)}"
    buckets = [(resolution, resolution)]
    if config.buckets:
        buckets = list_buckets(resolution, unit)
        image_facts += f" {buckets}"
    work = Work(
        config=config, accelerator=accelerator, base=base, kind=about, family=family, rows=rows,
        facts={
            "format": 1, "stage": "finetune", "versions": read_versions(),
            **name_base(config, base),
            "base_hashes": hashes, "method": config.method, "precision": precision,
            "base_format": config.base_format,
            "family": about.name,
            **name_license(base),
            "resolution": resolution, "demonstration": is_demonstration(base),
            "processes": accelerator.num_processes,
            "trained": ["transformer", "text_encoder"][: 1 + config.train_text_encoder],
        },
        transformer=transformer, text_encoder=text_encoder, vae=vae,
        tokenizer=load_tokenizer(base), scheduler=family.load_scheduler(base),
        latents=open_cache(image_cache, "latents", image_facts),
        texts=open_cache(cache, "text", text_facts),
        recompute=config.hldf_checkpoint, auto_hldf=config.hldf_every == AUTO,
        unit=unit, buckets=buckets,
    )  # fmt: skip
    work.times = choose_times(work)
    if work.facts["demonstration"]:
        warn_of_demonstration(work.facts["base_name"], rows)
    if config.gradient_checkpointing:
        for model in (transformer, text_encoder, vae if family.blockwise_decoder(vae) else None):
            if model is not None:
                parts.recompute_blocks(model, True)
    return work


def check_text_device(config: FinetuneConfig, accelerator: Accelerator) -> None:
    """Refuse what several processes cannot do: they exchange gradients between GPUs alone.

    Raises:
        ConfigError: The text encoder is to be trained on the CPU by several processes.
    """
    trained = config.offload == "text-encoder" and config.train_text_encoder
    if trained and accelerator.num_processes > 1:
        raise ConfigError(
            "--offload text-encoder: several processes cannot train it on the CPU; add "
            "--freeze-text-encoder"
        )


def load_text_encoder(
    config: FinetuneConfig, base: Path, device: torch.device, dtype: torch.dtype
) -> Any:  # noqa: ANN401 - of the family's class
    """Load the text encoder for where `--offload` lets it compute, on a device or on the CPU."""

    def load(place: torch.device) -> Any:  # noqa: ANN401
        return load_frozen_base(
            find_family(base).load_text_encoder, base, dtype, place, config.base_format, dropout=0.0
        )

    return load_reader(load, config.offload, device)


def choose_times(work: Work) -> Times:
    """Return how noisy the rows of a step are: as the options say, else as the base was trained."""
    kind, shift = work.family.recipe(work.scheduler, work.side)
    config = work.config
    return Times(
        config.timesteps or kind, shift if config.timestep_shift is None else config.timestep_shift
    )


def check_captions(work: Work) -> None:
    """Say what of the captions the text encoder does not see: words, ends, differences."""
    unknown = total = 0
    kind = work.kind
    limit, long = caption_tokens(kind, work.tokenizer), []
    labels: dict[tuple[int, ...], set[str]] = {}
    for caption, row in {row.text or "": row for row in work.rows}.items():
        ids = read_tokens(kind, work.tokenizer, caption)
        unknown += sum(token == work.tokenizer.unk_token_id for token in ids)
        total += len(ids)
        labels.setdefault(tuple(ids), set()).add(row.label or "(none)")
        if len(ids) > limit:
            long.append((row.file_name, len(ids)))
    if long:
        log.warning(
            "%d captions are longer than the %d tokens that the text encoder reads, such as that "
            "of %s (%d); they are truncated; medart caption keeps to the limit",
            len(long), limit, *long[0],
        )  # fmt: skip
    if unknown > MOST_UNKNOWN * total:
        log.warning(
            "%.0f %% of the captions' tokens are unknown to the text encoder, which cannot use "
            "them; write the captions in English", 100 * unknown / total,
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


def encode_rows(
    work: Work, rows: Sequence[HashedRecord], *, flips: Sequence[bool]
) -> list[HashedRecord]:
    """Encode the images of some rows once; return those that can be read, and name the others.

    Of those that can be, the shapes are noted.
    """
    good = set()
    with progress("images", len(rows)) as bar:
        for place in own_first(len(rows)):
            row = rows[place]
            stop.check()
            try:
                work.shapes[row.sha256] = encode_row(work, row, flips)
                good.add(place)
            except ImageError as error:
                log.warning("%s; skipped", error)
            bar.advance()
    return [row for place, row in enumerate(rows) if place in good]


def encode_row(work: Work, row: HashedRecord, flips: Sequence[bool]) -> Shape:
    """Encode an image once, or read it where nothing is cached; return its shape in pixels."""
    if work.latents.folder is None:
        return find_bucket(load_image(row.path).size, work.buckets)
    shape = work.buckets[0]
    for flip in flips:
        # Which bucket it has is known from its latents; the square is known without.
        if len(work.buckets) > 1 or not work.latents.has(row.sha256, str(flip)):
            sides = read_latents(work, row, flip, (0.5, 0.5))["mean"].shape[1:]
            scale = work.family.latent_scale(work.vae)
            shape = (scale * sides[0], scale * sides[1])
    return shape


def cache_images(work: Work) -> int:
    """Encode all images once; leave out and count those that cannot be read."""
    good = encode_rows(work, work.rows, flips=(False, True)[: 1 + work.config.flip])
    failures = len(work.rows) - len(good)
    if not good:
        raise ConfigError(f"{work.config.data}: none of its {failures} images can be read")
    work.rows = good
    work.facts["buckets"] = describe_buckets(work)
    say_loss(work)
    return failures


def cache_captions(work: Work) -> None:
    """With the text encoder frozen, run it once on each distinct caption and unload it."""
    if work.text_encoder is not None:
        return
    normalize = work.kind.normalize
    rows = [*work.rows, *(work.heldout.rows if work.heldout else ())]
    captions = sorted({normalize(row.text or "") for row in rows} | {""})
    missing = [caption for caption in captions if work.texts.find(caption) is None]
    if not missing:
        return
    device, precision = work.accelerator.device, work.facts["precision"]
    on_gpu = find_reader(work.config.offload, device).type == "cuda"
    aside = (work.transformer, work.vae) if on_gpu else ()
    with (
        set_aside(*aside),
        progress("captions", len(missing)) as bar,
        torch.no_grad(),
    ):
        text_encoder = load_text_encoder(work.config, work.base, device, DTYPES[precision])
        for place in own_first(len(missing)):
            stop.check()
            bar.advance()
            if work.texts.find(missing[place]) is not None:  # by another process
                continue
            with reading_autocast(work):
                embeds, _ = work.family.read_prompts(
                    work.tokenizer, text_encoder, [missing[place]], pad=False,
                    limit=work.kind.tokens,
                )  # fmt: skip
            work.texts.keep({"embeds": embeds[0]}, missing[place])
        del text_encoder
        gc.collect()  # hooks that move layers point to these, and these to the hooks


def find_text_length(work: Work) -> int:
    """Return the length that all prompts have where blocks are compiled: enough for any caption."""
    held = work.heldout.rows if work.heldout else ()
    captions = sorted({row.text or "" for row in (*work.rows, *held)} | {""})
    limit = work.kind.tokens
    return fix_length(max(work.family.count_embeds(work.tokenizer, captions, limit)), limit)


def prepare_training(work: Work, total: int) -> None:
    """Make optimizer, schedule and average, and hand the models to accelerate."""
    config = work.config
    work.optimizer = build_optimizer(
        config.optimizer, work.parameters, config.peak_rate, config.weight_decay
    )
    work.schedule = build_schedule(work.optimizer, config.lr_schedule, config.warmup_steps, total)
    work.transformer, work.optimizer = work.accelerator.prepare(work.transformer, work.optimizer)
    if config.train_text_encoder:
        reader = find_reader(config.offload, work.accelerator.device)
        moved = reader != work.accelerator.device
        work.text_encoder = work.accelerator.prepare_model(
            work.text_encoder, device_placement=not moved
        )
    if work.sharded:
        share = count_weights(work) / sum(parameter.numel() for parameter in work.parameters)
        log.info("FSDP: this process has %.0f %% of the trained weights", 100 * share)
    if config.ema:
        work.ema = adapters.build_ema(work.parameters, config.ema, sharded=work.sharded)
    frugal = config.gradient_checkpointing or work.accelerator.device.type != "cuda"
    if work.recompute == "auto" and (frugal or not plan_hldf(config).every):
        work.recompute = "step"  # where blocks are recomputed, the size of a pass says nothing
