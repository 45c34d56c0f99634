"""Where a fine-tuning resumes: the last intact checkpoint, if nothing has changed since.

A file of its own only so that train.py shows the training loop alone.
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from medart_cli.data import checkpoint as checkpoints
from medart_cli.errors import ConfigError
from medart_cli.finetune.heldout import rank_steps
from medart_cli.finetune.plan import settle_hldf
from medart_cli.finetune.state import deal_out, load_tensors, restore_optimizer
from medart_cli.finetune.work import Work, trained_parts
from medart_cli.log import log
from medart_cli.models import adapters
from medart_cli.ranks import ask_first


def resume(work: Work) -> int:
    """Load the last whole checkpoint of the run folder, if there is one; return its step."""
    found = ask_first(partial(checkpoints.find_last, work.config.out))
    if found is None:
        say_lost_steps(work)
        return 0
    folder, state = found
    if work.auto_hldf and state["run"].get("hldf"):  # what was chosen stays, also in a longer run
        settle_hldf(work, state["run"]["hldf"]["every"])
    check_same(work, state["run"])
    restore_weights(work, folder)
    tensors, facts = load_tensors(folder / checkpoints.OPTIMIZER_NAME)
    restore_optimizer(work.optimizer, tensors, facts)
    work.schedule.load_state_dict(state["schedule"])
    log.info("resuming after step %d, from %s", state["step"], folder)
    return int(state["step"])


def restore_weights(work: Work, folder: Path) -> None:
    """Load the trained weights of a checkpoint, and their average."""
    for name, model in trained_parts(work).items():
        adapters.restore_part(model, folder / name)
    if work.ema is not None:
        tensors, facts = load_tensors(folder / checkpoints.EMA_NAME)
        work.ema.load_state_dict({**work.ema.state_dict(), **facts})
        work.ema.shadow_params = [
            deal_out(tensors[str(i)], parameter) for i, parameter in enumerate(work.parameters)
        ]
        work.ema.to(work.accelerator.device)


def restore_best(work: Work, last: int) -> int:
    """Load the weights with the lowest held-out loss, with --keep-best; return their step.

    Args:
        work: What lives during the run.
        last: The step whose weights are loaded.
    """
    if not work.config.keep_best or work.heldout is None:
        return last
    step = ask_first(partial(find_best, work.config.out, work.heldout.curve))
    if step not in (None, last):
        restore_weights(work, checkpoints.checkpoint_folder(work.config.out, step))
        log.info("the result is step %d, which has the lowest held-out loss", step)
    return last if step is None else int(step)


def find_best(out: Path, curve: Mapping[int, float]) -> int | None:
    """Return the step of the intact checkpoint with the lowest held-out loss."""
    faults = []
    for step in rank_steps(curve):
        folder = checkpoints.checkpoint_folder(out, step)
        try:
            checkpoints.read_checkpoint(folder)
        except ConfigError as error:
            faults.append(str(error))
            continue
        if faults:
            log.warning("%s; the result is %s instead", faults[0], folder.name)
        return step
    return None


def say_lost_steps(work: Work) -> None:
    """Say that steps of a run that was killed before its first checkpoint are made again."""
    out = work.config.out
    steps = ask_first(partial(checkpoints.find_last_step, out))
    if steps:
        if (out / checkpoints.RUN_NAME).is_file():
            check_same(work, checkpoints.read_facts(out / checkpoints.RUN_NAME))
        log.warning("%s: none of its %d steps was saved; it restarts at step 1", out, steps)


def check_same(work: Work, run: dict[str, Any]) -> None:
    """Check that the data and base of the run folder are those that it is resumed with."""
    facts, changes = work.facts, []
    if run.get("data", facts["data"]) != facts["data"]:
        changes.append(f"data ({tell_change(work)})")
    held = [it.get("heldout") for it in (run, facts)]
    if None not in held and held[0] != held[1]:
        changes.append("held-out images or captions")
    known = run.get("base_hashes", {}).items()  # older runs have fewer
    parts = [part for part, digest in known if facts["base_hashes"].get(part, digest) != digest]
    if parts:
        changes.append(f"base weights or settings ({', '.join(parts)})")
    for name in ("precision", "processes", "hldf", "buckets", "masks"):
        if run.get(name, facts[name]) != facts[name]:
            changes.append(name)
    if changes:
        raise ConfigError(
            f"{work.config.out}: was trained with other {changes[0]}; use another folder, or "
            "start over with --overwrite"
        )


def tell_change(work: Work) -> str:
    """Say whether images or what is told of them are others than those of the run folder."""
    path = work.config.out / checkpoints.TRAINING_HASHES
    old = Counter(path.read_text(encoding="utf-8").split() if path.is_file() else ())
    new = Counter(row.sha256 for row in work.rows)
    if old == new:
        return "captions or labels were edited"
    return f"{(new - old).total()} images are new or changed, {(old - new).total()} are missing"
