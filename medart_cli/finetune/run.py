"""Fine-tune with HLDF: captioned images -> RUN/ (weights, checkpoints, previews, card).

Here a request is read and checked, and a finished run answered: in less than a second, without
torch. What trains is in train.py.
"""

from functools import partial
from pathlib import Path
from typing import Any

from medart_cli import stop
from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.finished import find_finished
from medart_cli.data.output import Output, check_output
from medart_cli.errors import ConfigError
from medart_cli.finetune.masks import describe_masks
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.rows import (
    TrainingData,
    describe_data,
    hash_base_once,
    name_base,
    plan_steps,
    read_training_rows,
)
from medart_cli.log import log
from medart_cli.models.bases import Kind, check_format, find_base, find_kind
from medart_cli.models.optimizers import check_optimizer
from medart_cli.ranks import ask_first, count_ranks


def run(config: FinetuneConfig) -> dict[str, Any]:
    """Train adapters or all weights on a folder of captioned images; resume where a run stopped."""
    if config.fit is not None:
        config = choose_options(config)
    if config.dry_run:
        return estimate(config)
    check_optimizer(config.optimizer)
    check_format(config.base_format)
    data = read_training_rows(config)
    base = find_base(config.base, offline=config.offline)
    check_kind(config, find_kind(base))
    output = describe_output(config)
    hashes = None
    if check_output(output):
        checkpoints.refuse_lost(config.out)
        hashes = hash_base_once(config, base)
        facts = ask_first(partial(find_finished_run, config, data, (base, hashes)))
        if facts is not None:
            log.info(
                "%s: already finished, at step %d; nothing to do",
                *(config.out, facts["step"]),
            )
            return {"result": str(config.out), **facts}
    with stop.at_once():  # loads torch and diffusers, which takes seconds
        from medart_cli.finetune.train import fine_tune

    return fine_tune(config, data, (base, hashes), output)


def choose_options(config: FinetuneConfig) -> FinetuneConfig:
    """Return the options with which the run fits the card that --fit names."""
    with stop.at_once():
        from medart_cli.finetune.estimate.fit import fit_card
    return fit_card(config)


def estimate(config: FinetuneConfig) -> dict[str, Any]:
    """Say what the run would need; nothing is fetched, written or trained."""
    with stop.at_once():
        from medart_cli.finetune.estimate.needs import estimate_run, format_estimate
    facts = estimate_run(config)
    return {"result": "\n".join(format_estimate(facts)), "estimate": facts}


def check_kind(config: FinetuneConfig, kind: Kind) -> None:
    """Refuse what this kind of base cannot do.

    Raises:
        ConfigError: Names the option.
    """
    if config.train_text_encoder and not kind.reads_trained:
        raise ConfigError(
            f"--train-text-encoder: {kind.name} is trained with its text encoder "
            f"({kind.text_encoder}) frozen; add --freeze-text-encoder"
        )
    if config.min_snr is not None and kind.flow:
        raise ConfigError(f"--min-snr: means nothing for the flow of {kind.name}; leave it out")


def describe_output(config: FinetuneConfig) -> Output:
    """Say what the run folder belongs to; with a constant rate a run may be made longer.

    The base may have been moved: `resume` compares its weights.
    """
    may_differ = {"base"} | ({"steps", "epochs"} if config.lr_schedule == "constant" else set())
    return Output(
        config.out, "finetune", config.settings(), config.name_run_only() | may_differ,
        config.overwrite, inputs=(config.data, config.base), formerly=config.formerly,
    )  # fmt: skip


def find_finished_run(
    config: FinetuneConfig, data: TrainingData, base: tuple[Path, dict[str, str]]
) -> dict[str, Any] | None:
    """Return the facts of a run that has made all its steps on the same data; None for any other.

    A run that left out images is not taken for finished: they may be readable by now.

    Args:
        config: The options.
        data: The training rows.
        base: Folder of the base, and its hashes.
    """
    try:
        facts = checkpoints.read_facts(config.out / checkpoints.RUN_NAME)
    except ConfigError:  # none yet, or corrupt: it is written anew
        return None
    total, processes = plan_steps(config, len(data.rows), count_ranks()), count_ranks()
    now: dict[str, Any] = {
        "status": "done", "step": total, "failures": 0, "processes": processes,
        "base_hashes": base[1], **describe_data(data.rows),
        "masks": describe_masks(data.rows, data.masks), **name_base(config, base[0]),
    }  # fmt: skip
    same = data.failures == 0 and all(facts.get(name) == value for name, value in now.items())
    same = same and config.precision in ("auto", facts.get("precision"))
    if not same or not all(path.exists() for path in list_results(config, total)):
        return None
    trained = facts.get("checkpoint")
    if config.merge and find_finished(config.out / "merged", str(trained)) is None:
        return None
    whole = trained == checkpoints.hash_trained(config.out)
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
    lists = [checkpoints.TRAINING_HASHES, checkpoints.HELDOUT_HASHES]
    names = ["README.md", *lists, checkpoints.METRICS_NAME, "loss.png"]
    if config.preview_every:
        names.append(f"previews/step-{total:06d}.png")
    return [config.out / name for name in names]
