"""Fine-tune PixArt with HLDF: captioned images -> RUN/ (weights, checkpoints, previews, card).

Here a request is read and checked, and a finished run answered: in less than a second, without
torch. What trains is in train.py.
"""

from functools import partial
from pathlib import Path
from typing import Any

from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.output import Output, check_output
from medart_cli.errors import ConfigError
from medart_cli.finetune.options import FinetuneConfig, check_optimizer
from medart_cli.finetune.rows import Data, count_steps, describe_data, hash_base, read_rows
from medart_cli.log import log
from medart_cli.models.bases import find_base
from medart_cli.ranks import ask_first, count_ranks


def run(config: FinetuneConfig) -> dict[str, Any]:
    """Train adapters or all weights on a folder of captioned images; resume where a run stopped."""
    check_optimizer(config.optimizer)
    data = read_rows(config)
    base = find_base(config.base, offline=config.offline)
    output = describe_output(config)
    hashes = hash_base(config, base)
    if check_output(output):
        checkpoints.refuse_lost(config.out)
        facts = ask_first(partial(find_finished, config, data, hashes))
        if facts is not None:
            log.info(
                "%s: is finished, after step %d; nothing to do",
                *(config.out, facts["step"]),
            )
            return {"result": str(config.out), **facts}
    from medart_cli.finetune.train import (
        fine_tune,  # loads torch and diffusers, which takes seconds
    )

    return fine_tune(config, data, (base, hashes), output)


def describe_output(config: FinetuneConfig) -> Output:
    """Say what the run folder belongs to; with a constant rate a run may be made longer.

    The base may have been moved: `resume` compares its weights.
    """
    may_differ = {"base"} | ({"steps", "epochs"} if config.lr_schedule == "constant" else set())
    return Output(
        config.out, "finetune", config.settings(), config.name_run_only() | may_differ,
        config.overwrite, inputs=(config.data, config.base), formerly=config.formerly,
    )  # fmt: skip


def find_finished(
    config: FinetuneConfig, data: Data, hashes: dict[str, str]
) -> dict[str, Any] | None:
    """Return the facts of a run that has made all its steps on the same data; None for any other.

    A run that left out images is not taken for finished: they may be readable by now.
    """
    place = config.out / checkpoints.RUN_NAME
    facts = checkpoints.read_facts(place) if place.is_file() else {}
    total, processes = count_steps(config, len(data.rows), count_ranks()), count_ranks()
    same = (
        (facts.get("status"), facts.get("step"), facts.get("failures")) == ("done", total, 0)
        and data.failures == 0
        and facts["processes"] == processes
        and facts["data"] == describe_data(data.rows)["data"]
        and facts["base_hashes"] == hashes
        and config.precision in ("auto", facts["precision"])
    )
    if not same or not all(path.exists() for path in list_results(config, total)):
        return None
    whole = facts["checkpoint"] == checkpoints.hash_trained(config.out)
    return facts if whole and is_last_whole(config.out) else None


def is_last_whole(out: Path) -> bool:
    """Say whether the newest checkpoint is intact: a longer run would resume there."""
    try:
        checkpoints.read_checkpoint(checkpoints.find_checkpoints(out)[-1])
    except ConfigError:
        return False
    return True


def list_results(config: FinetuneConfig, total: int) -> list[Path]:
    """List what a finished run leaves beside its weights."""
    names = ["README.md", checkpoints.TRAINING_HASHES, checkpoints.METRICS_NAME, "loss.png"]
    names += ["merged/model_index.json"] * config.merge
    if config.preview_every and total % config.preview_every == 0:
        names.append(f"previews/step-{total:06d}.png")
    return [config.out / name for name in names]
