"""What images are generated with: a run, one of its checkpoints, or a base."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medart_cli import stop
from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.cache import try_cache
from medart_cli.data.card import build_merged_card
from medart_cli.data.hashes import hash_all
from medart_cli.data.output import write_text
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.log import log
from medart_cli.models import bases
from medart_cli.models.hub import TINY, is_hub_id
from medart_cli.ranks import ask_first
from medart_cli.sample.options import SampleConfig


@dataclass
class Source:
    """What the images are generated with.

    Attributes:
        base: Pipeline folder of the base model.
        trained: Folder with trained parts; the base itself where nothing was trained.
        facts: The run's facts; empty for a plain base.
        mark: What `run` says in each manifest line: the checkpoint's hash.
    """

    base: Path
    trained: Path
    facts: dict[str, Any]
    mark: str

    @property
    def resolution(self) -> int | None:
        """Side of the square, in pixels, that the run was trained at; None for a plain base."""
        side: int | None = self.facts.get("resolution")
        return side


def find_source(config: SampleConfig) -> Source:
    """Find the run, checkpoint or base that is asked for, and check that its base is the same.

    One process reads large files for their hashes, and tells the others.
    """
    found = ask_first(partial(checkpoints.find_run, Path(config.run)))
    if found is None:
        if config.base is not None:
            raise ConfigError(f"--base {config.base}: {config.run} is a base itself, not a run")
        known = config.run == TINY or is_hub_id(config.run) or Path(config.run).is_dir()
        if not known:
            raise MissingModelError(
                f"{config.run}: no such folder; RUN is a run folder that medart finetune wrote, "
                "one of its checkpoints, a pipeline folder, a hub id (OWNER/NAME), or tiny"
            )
        base = bases.find_base(config.run, offline=config.offline, option="RUN")
        bases.check_half(bases.find_kind(base), config.precision)
        files = hash_all(bases.find_unhashed(base, ["transformer"]), try_cache())
        return Source(base, base, {}, bases.hash_weights(base / "transformer", files))
    trained, facts = found
    base = bases.find_base(config.base or facts["base"], offline=config.offline)
    bases.check_half(bases.find_kind(base), config.precision)
    hashes = bases.hash_base(base, hash_all(bases.find_unhashed(base), try_cache()))
    bases.check_same_base(base, hashes, facts["base_hashes"], trained)
    mark = facts.get("checkpoint")  # a checkpoint of a run has none
    mark = mark or ask_first(partial(checkpoints.hash_trained, trained))
    return Source(base, trained, facts, mark)


def choose_format(config: SampleConfig, source: Source) -> str | None:
    """Return how the base is stored while images are drawn: as it was trained, or as asked for."""
    chosen = config.base_format or source.facts.get("base_format")
    return None if chosen == "full" else chosen


def merge(source: Source, out: Path) -> None:
    """Write run and base as one pipeline folder that plain diffusers opens, in full precision."""
    if out.exists():
        raise ConfigError(f"{out}: exists already; use a new folder")
    if source.facts.get("base_format"):
        log.warning(
            "trained on a base in %s, merged into the base in full precision; images may differ",
            source.facts["base_format"],
        )
    with stop.at_once():  # loads torch, peft and diffusers, which takes seconds
        from medart_cli.models import adapters

    def write(folder: Path) -> None:
        adapters.merge_run(
            source.base, source.trained, folder,
            resolution=source.resolution, buckets=source.facts.get("buckets"),
        )  # fmt: skip
        checkpoints.copy_hashes(source.trained, folder)
        if source.facts:
            card = build_merged_card(
                source.facts, bases.pipeline_class(folder), bases.find_kind(folder).call
            )
            write_text(folder / "README.md", card)

    checkpoints.write_folder(out, write)
    log.info("%s: complete pipeline written", out)


def demonstration_mark(source: Source) -> dict[str, Any]:
    """Return what images of a demonstration model say of themselves; nothing for real models."""
    return {"demonstration": True} if bases.is_demonstration(source.base) else {}
