"""What a run leaves on the disk: facts, metrics, checkpoints, and at the end its result."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.card import build_card, build_merged_card
from medart_cli.data.files import named_errors
from medart_cli.data.finished import note_finished
from medart_cli.data.output import write_json, write_text
from medart_cli.finetune.curve import plot_losses
from medart_cli.finetune.heldout import conclude, rank_steps
from medart_cli.finetune.page import write_training_page
from medart_cli.finetune.resume import restore_best
from medart_cli.finetune.rows import public_settings
from medart_cli.finetune.state import flatten_optimizer, gather, save_tensors
from medart_cli.finetune.work import Work, gather_parts
from medart_cli.log import log
from medart_cli.models import adapters
from medart_cli.models.bases import find_kind, pipeline_class
from medart_cli.models.device import (
    peak_memory,
)


def announce(work: Work, first: int) -> None:
    """Write what is known from the start: the run's facts, and what it is trained on."""
    out = work.config.out
    if work.config.log_with:
        shown = {name: str(value) for name, value in public_settings(work.config).items()}
        work.accelerator.init_trackers("medart", config=shown)
    if work.accelerator.is_main_process:
        # Before step 1 there is one more line, with the held-out loss; it is written again.
        checkpoints.trim_log(out / checkpoints.METRICS_NAME, first or -1)
        write_hash_lists(work, out)
        write_status(work, first)


def write_status(work: Work, saved: int) -> None:
    """Write what is known of a run at work; with the step of its last checkpoint, if it has one."""
    step = {"step": saved} if saved else {}
    facts = work.facts | step | {"status": "running"}
    write_json(work.config.out / checkpoints.RUN_NAME, facts)


def write_hash_lists(work: Work, folder: Path) -> None:
    """List what is trained on and what is held out, by which later stages find leaks."""
    checkpoints.write_hashes(folder, (row.sha256 for row in work.rows), work.held)


def save(work: Work, step: int) -> None:
    """Write a checkpoint, the loss curve, and drop the oldest checkpoints."""
    parts = gather_parts(work)  # before rank 0 continues alone
    tensors, facts = flatten_optimizer(work.optimizer)
    shadow = [gather(tensor) for tensor in work.ema.shadow_params] if work.ema else []
    if not work.accelerator.is_main_process:
        return
    state = {
        "step": step,
        "run": work.facts | {"step": step},
        "schedule": work.schedule.state_dict(),
        "sums": checkpoints.SUMS_NAME,
    }

    def write(folder: Path) -> None:
        for name, model in parts.items():
            adapters.save_part(model, folder / name)
        save_tensors(folder / checkpoints.OPTIMIZER_NAME, tensors, facts)
        if work.ema is not None:
            averages = {str(i): tensor for i, tensor in enumerate(shadow)}
            count = {"optimization_step": work.ema.optimization_step}
            save_tensors(folder / checkpoints.EMA_NAME, averages, count)
        write_hash_lists(work, folder)
        write_json(folder / checkpoints.STATE_NAME, state)
        checkpoints.write_sums(folder)

    checkpoints.write_folder(checkpoints.checkpoint_folder(work.config.out, step), write)
    write_status(work, step)
    curve = work.heldout.curve if work.heldout and work.config.keep_best else {}
    best = next(iter(rank_steps(curve)), None)
    checkpoints.prune_checkpoints(work.config.out, work.config.keep, step, spare=best)
    plot(work)


def plot(work: Work) -> None:
    """Draw the loss curve up to the last step, and write the page that shows it."""
    if work.accelerator.is_main_process:
        plot_losses(work.config.out / checkpoints.METRICS_NAME, work.config.out / "loss.png")
        show_run(work, work.facts | {"status": "running"})


def show_run(work: Work, facts: dict[str, Any]) -> None:
    """Write the page of the run."""
    out, settings = work.config.out, public_settings(work.config)
    write_training_page(out, facts | {"settings": settings}, read_metrics(out))


def write_metrics(work: Work, step: int, figures: dict[str, float]) -> None:
    """Append one line to metrics.jsonl and to the trackers."""
    memory = round(peak_memory(work.accelerator.device), 3)
    row = {"step": step, **figures, "memory_gb": memory}
    if work.accelerator.is_main_process:
        path = work.config.out / checkpoints.METRICS_NAME
        with named_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    if work.config.log_with:
        work.accelerator.log(row, step=step)


def read_curve(out: Path) -> dict[int, float]:
    """Return the held-out loss of each step that the log of a run tells of, but not step 0."""
    rows = [row for row in read_metrics(out) if "val_loss" in row]
    return {row["step"]: row["val_loss"] for row in rows if row["step"] > 0}


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl: a line of each step, and one of each measurement of held-out images."""
    with (out / checkpoints.METRICS_NAME).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def finish(work: Work, step: int, failures: int) -> dict[str, Any]:
    """Write the result of the run beside its checkpoints, and return the summary."""
    config = work.config
    work.accelerator.wait_for_everyone()  # the first process has written its last line
    rows = read_metrics(config.out)
    losses = [row["loss"] for row in rows if "loss" in row]
    recent = losses[-max(1, len(losses) // 10) :]
    colors = [row["color_loss"] for row in rows if "color_loss" in row]
    figures = {
        "loss": sum(recent) / max(1, len(recent)),
        "color_loss_first": colors[0] if colors else None,
        "color_loss_last": colors[-1] if colors else None,
        "color_losses": len(colors),
        "seconds": sum(row.get("seconds", 0) for row in rows),
        "memory_gb": max((row["memory_gb"] for row in rows), default=None),
        "heldout": conclude(work, restore_best(work, step)),
    }
    facts = work.facts | {"step": step, "status": "done", "failures": failures, "figures": figures}
    if work.ema is not None:  # the result is the average; checkpoints keep both
        work.ema.copy_to(work.parameters)
    parts = gather_parts(work)
    if work.accelerator.is_main_process:
        for name, model in parts.items():
            checkpoints.write_folder(config.out / name, partial(adapters.save_part, model))
        facts["checkpoint"] = checkpoints.hash_trained(config.out)
        write_hash_lists(work, config.out)
        card = build_card(facts | {"settings": public_settings(config)})
        write_text(config.out / "README.md", card)
        write_json(config.out / checkpoints.RUN_NAME, facts)
        show_run(work, facts)
        if config.merge:
            if config.base_format:
                log.warning(
                    "trained on a base in %s, merged into the base in full precision; images may "
                    "differ", config.base_format,
                )  # fmt: skip

            def merge(folder: Path) -> None:
                adapters.merge_run(
                    work.base, config.out, folder,
                    resolution=work.facts["resolution"], buckets=work.facts["buckets"],
                )  # fmt: skip
                write_hash_lists(work, folder)
                kind, call = pipeline_class(folder), find_kind(folder).call
                write_text(folder / "README.md", build_merged_card(facts, kind, call))

                note_finished(folder, facts["checkpoint"], {})  # of which weights it is

            checkpoints.write_folder(config.out / "merged", merge)
    if config.log_with:
        work.accelerator.end_training()
    work.accelerator.wait_for_everyone()
    return {"result": str(config.out), **facts}
