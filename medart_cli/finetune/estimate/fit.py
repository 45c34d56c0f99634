"""`--fit`: the fastest memory options with which a run fits a card, by the estimate.

Only options that have their default, or what a settings file says, are chosen; the command line's
stay. What is chosen stands in the run's settings like any other option.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, cast

from medart_cli.errors import ConfigError
from medart_cli.finetune.estimate.footprint import Reckoner
from medart_cli.finetune.estimate.needs import USABLE, find_native, find_shape, list_modes
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.log import log
from medart_cli.models.device import find_device, find_precision, hush_libraries
from medart_cli.models.offload import BY_LAYERS, OffloadName

SAME_RESULTS = "results stay the same, but for rounding"
OTHER_RESULTS = "the quantized base changes results (docs/benchmarks.md, A quantized base)"


@dataclass(frozen=True)
class Rung:
    """A step of the ladder, taken on top of those before.

    Attributes:
        changes: Options and their values.
        note: What it does to the results.
    """

    changes: dict[str, Any]
    note: str = SAME_RESULTS


def list_rungs(config: FinetuneConfig, offload: OffloadName) -> Iterator[Rung]:
    """List the steps down to the least memory, fastest first; what changes results comes last.

    A frozen text encoder goes by layers before it goes to the CPU: its weights reach a GPU in less
    time than most CPUs need to compute with them (by bytes and operations, not timed), and its
    embeddings are still those of the GPU.

    Args:
        config: The options.
        offload: What the captions' one reading needs, from `find_offload`: it comes first, since
            nothing else helps there, and training is as fast as without.
    """
    trained = config.train_text_encoder
    if offload != config.offload:
        yield Rung({"offload": offload})
    yield Rung({"gradient_checkpointing": True})
    if config.batch_size > 1:
        yield Rung({"batch_size": 1, "accumulate": config.accumulate * config.batch_size})
    if not trained and not config.use_cache:  # it stays in memory
        for further in list_offloads(config):
            yield Rung({"offload": further})
    elif trained and not config.ema and config.optimizer != "adamw8bit":
        yield Rung({"offload": "text-encoder"})
    if config.method != "full" and find_spec("bitsandbytes") is not None:
        yield Rung({"base_format": "int8"}, OTHER_RESULTS)
        # By layers nf4 cannot be; in nf4 most text encoders fit as they are.
        by_layers = BY_LAYERS in (offload, config.offload)
        for moved in ({"offload": "none"}, {"offload": "text-encoder"}) if by_layers else ({},):
            yield Rung({"base_format": "nf4"} | moved, OTHER_RESULTS)


def list_offloads(config: FinetuneConfig) -> list[OffloadName]:
    """List the values of `--offload` that take less than the chosen one, fastest first."""
    values: list[OffloadName] = ["none", BY_LAYERS, "text-encoder"]
    further = values[values.index(config.offload) + 1 :]
    return [it for it in further if it != BY_LAYERS or config.base_format != "nf4"]


def find_offload(
    reckoner: Reckoner, config: FinetuneConfig, precision: str, room: float
) -> OffloadName:
    """Return the fastest `--offload` with which the captions can be read once, before training."""
    for offload in (config.offload, *list_offloads(config)):
        reading = reckoner.reckon(replace(config, offload=offload), precision, "step").reading
        if reading is None or reading < room:
            return offload
    raise AssertionError("a text encoder on the CPU takes nothing of a GPU")


def fit_card(config: FinetuneConfig) -> FinetuneConfig:
    """Return the options with which a run fits the card of `--fit`.

    Raises:
        ConfigError: Not even the most frugal ones do.
    """
    assert config.fit is not None
    hush_libraries("transformers", "diffusers")
    shape, folder = find_shape(config)
    device = find_device(config.device)
    gpu = device.type == "cuda"
    precision = find_precision(config.precision, device)
    if not gpu and config.precision == "auto":
        precision = "bf16"  # as on the card
    resolution = config.resolution or find_native(shape, folder)
    reckoner = Reckoner(shape, resolution, shape.kind.tokens, gpu=True)
    room, chosen = USABLE * config.fit, config
    found, note = None, SAME_RESULTS
    offload = find_offload(reckoner, config, precision, room)
    for rung in [Rung({}), *list_rungs(config, offload)]:
        if not all(is_free(config, name) for name in rung.changes):
            continue
        chosen, note = replace(chosen, **rung.changes), rung.note
        for mode in list_modes(chosen):
            found = reckoner.reckon(chosen, precision, mode)
            if found.peak < room:
                fastest = replace(chosen, hldf_checkpoint=cast(Any, mode) if found.hldf else "auto")
                say_chosen(config, fastest, found.peak, note)
                return fastest
    assert found is not None
    raise ConfigError(
        f"--fit {config.fit}: an estimated {found.peak / 1e9:.1f} GB is needed with the most "
        f"frugal options, {(found.peak - room) / 1e9:.1f} GB more than such a GPU has to give; use "
        f"{name_further(config)}"
    )


def is_free(config: FinetuneConfig, name: str) -> bool:
    """Say whether an option may be chosen: the command line does not give it."""
    value = getattr(config, name)
    default = type(config).__dataclass_fields__[name].default
    return bool(value == default or value == config.find_in_file(name))


def say_chosen(config: FinetuneConfig, chosen: FinetuneConfig, peak: float, note: str) -> None:
    """Say which options `--fit` stands for."""
    words = []
    for name in (
        *("hldf_checkpoint", "gradient_checkpointing", "batch_size", "accumulate", "offload"),
        "base_format",
    ):
        value = getattr(chosen, name)
        if value != getattr(config, name):
            words.append("--" + name.replace("_", "-") + ("" if value is True else f" {value}"))
    log.info(
        "--fit %d: %s; an estimated %.1f GB; %s", config.fit,
        " ".join(words) or "no other options are needed", peak / 1e9, note,
    )  # fmt: skip
    if chosen.offload != config.offload and config.train_text_encoder:
        log.warning(
            "--offload text-encoder: a text encoder that is trained on the CPU makes each step "
            "wait for it; --freeze-text-encoder is faster, but changes what is trained"
        )


def name_further(config: FinetuneConfig) -> str:
    """Name what would take less memory and change the results."""
    hints = ["a smaller --resolution"]
    if config.batch_size > 1:
        hints.insert(0, "--batch-size 1")
    if config.train_text_encoder:
        hints.insert(0, "--freeze-text-encoder")
    return " or ".join(hints)
