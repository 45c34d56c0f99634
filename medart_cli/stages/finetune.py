"""Fine-tune PixArt with HLDF: captioned images -> RUN/ (weights, checkpoints, metrics, previews).

The order of this file is the order of the work: read the rows, build the models and what feeds
them, train, write the result. All randomness of a row comes from the seed and the row's place in
the endless sequence of rows, so a resumed run draws what an uninterrupted one would have drawn.
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medart_cli.config import (
    FORMERLY,
    RUN_ONLY,
    FinetuneConfig,
    choose_every,
    plan_hldf,
    settings_of,
)
from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.files import named_errors
from medart_cli.data.images import save_png, tensor_to_image, tile_images
from medart_cli.data.report import (
    Output,
    build_card,
    build_merged_card,
    check_output,
    open_output,
    plot_losses,
    write_json,
    write_text,
)
from medart_cli.diffusion.losses import (
    color_statistics,
    energy_score,
    min_snr_weights,
    noise_loss,
    squared_gap,
)
from medart_cli.diffusion.noise import add_noise, mix_velocity, signal_to_noise
from medart_cli.diffusion.solver import solve
from medart_cli.errors import RunError, Stopped
from medart_cli.log import log, progress
from medart_cli.models import adapters, pixart
from medart_cli.models.device import (
    build_generator,
    hush_libraries,
    peak_memory,
    used_memory,
)
from medart_cli.models.optimizer import balance_gradients, check_optimizer, take_gradients
from medart_cli.stages.finetune_plan import (
    plan_recompute,
    rehearsal_due,
    say_how_often,
    settle_hldf,
)
from medart_cli.stages.finetune_resume import resume
from medart_cli.stages.finetune_setup import (
    Work,
    build_accelerator,
    build_optimizer,
    build_work,
    cache_captions,
    cache_images,
    check_captions,
    check_stop,
    count_steps,
    denoiser,
    describe_data,
    embed,
    gather_parts,
    public_settings,
    read_latents,
    read_rows,
    trained_parts,
    unsynced,
)

PREVIEW_STEPS = 20


@dataclass
class Batch:
    """Rows of one training step, with every random number they need."""

    captions: list[str]
    dropped: list[bool]  # rows that the noise loss shows the empty caption
    positions: list[int]
    latents: Tensor  # (B, C, h, w), drawn from the posterior
    noise: Tensor  # (B, C, h, w)
    timesteps: Tensor  # (B,)
    statistics: Tensor  # (B, S), of the real images' colors


def run(config: FinetuneConfig) -> dict[str, Any]:
    """Train adapters or all weights on a folder of captioned images; go on where a run stopped."""
    hush_libraries()
    check_optimizer(config.optimizer)
    accelerator = build_accelerator(config)
    check_optimizer(config.optimizer, accelerator.device)
    rows, failures, account = read_rows(config)
    base = pixart.find_base(config.base, offline=config.offline)
    output = describe_output(config)
    if check_output(output):
        checkpoints.refuse_lost(config.out)

    work = build_work(config, base, rows, accelerator)
    check_captions(work)
    failures += cache_images(work)
    total = count_steps(config, len(work.rows), accelerator.num_processes)
    work.facts |= describe_data(work.rows) | {"settings": output.settings}
    work.facts["inputs"] = [account.facts()]
    settle_hldf(work, choose_every(plan_hldf(config), total))
    cache_captions(work)
    build_optimizer(work, total)
    # Only now: nothing is wiped for a request that cannot work.
    with open_output(output) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        first = resume(work)
        announce(work, first)

        say_how_often(work, total)
        log.info("training %s: steps %d to %d", config.method, first + 1, total)
        train(work, first, total)
        return finish(work, max(first, total), failures)


def describe_output(config: FinetuneConfig) -> Output:
    """Say what the run folder belongs to; with a constant rate a run may be made longer.

    The base may have been moved: `resume` compares its weights.
    """
    may_differ = {"base"} | ({"steps", "epochs"} if config.lr_schedule == "constant" else set())
    return Output(
        config.out, "finetune", settings_of(config), RUN_ONLY | may_differ, config.overwrite,
        inputs=(config.data, config.base), formerly=FORMERLY,
    )  # fmt: skip


def train(work: Work, first: int, total: int) -> None:
    """Run the optimizer steps after `first`; a stop or a fault leaves a checkpoint that resumes."""
    config, done, saved, saved_at = work.config, first, first, time.monotonic()
    rehearsed = not rehearsal_due(work, first, total)
    with progress("finetune", total, done=first) as bar:
        try:
            if first:  # what a kill right after the checkpoint has prevented
                plot(work)
                draw_preview(work, first)
            for step in range(first + 1, total + 1):
                late = check_stop(work, time.monotonic() - saved_at >= 60 * config.save_minutes)
                started, rate = time.monotonic(), work.schedule.get_last_lr()[0]
                losses = take_step(work, step)
                done = step
                bar.advance(losses)
                seconds = round(time.monotonic() - started, 4)
                write_metrics(work, step, losses | {"learning_rate": rate, "seconds": seconds})
                if step % config.save_every == 0 or step == total or late:
                    save(work, step)
                    saved, saved_at = step, time.monotonic()
                draw_preview(work, step)
                if not rehearsed:
                    rehearse(work, step)
                    rehearsed = True
        except Stopped:
            if done > saved:  # a step in work has changed nothing yet and is left out
                save(work, done)
            work.accelerator.wait_for_everyone()  # or the launcher would end who still writes
            raise
        except torch.OutOfMemoryError as error:
            error.add_note(f"step {done + 1}")
            raise


def rehearse(work: Work, step: int) -> None:
    """Make a color loss and its gradients once, early, so that too small a GPU shows at once.

    After the first step, when the optimizer has its memory too. Changes no weight and no result.
    """
    state = torch.get_rng_state(), torch.cuda.get_rng_state_all()
    batches = [draw_batch(work, step * work.config.accumulate)]
    add_gradients(work, batches, loss_of=latent_loss)
    noise = take_gradients(work.parameters) if plan_hldf(work.config).loss == "score" else []
    add_gradients(work, batches, loss_of=pixel_loss)
    del noise
    work.optimizer.zero_grad(set_to_none=True)
    torch.set_rng_state(state[0])
    torch.cuda.set_rng_state_all(state[1])
    log.info("HLDF fits: %.1f GB in use at most", peak_memory(work.accelerator.device))


def take_step(work: Work, step: int) -> dict[str, float]:
    """Make one optimizer step: the noise loss on each batch, every N steps the color loss too."""
    config, hldf = work.config, plan_hldf(work.config)
    color_due = hldf.every > 0 and step % hldf.every == 0
    work.optimizer.zero_grad(set_to_none=True)
    first = (step - 1) * config.accumulate
    batches = [draw_batch(work, first + part) for part in range(config.accumulate)]
    losses = {"loss": add_gradients(work, batches, loss_of=latent_loss)}
    if color_due and hldf.loss == "published":
        losses["color_loss"] = add_gradients(work, batches, loss_of=pixel_loss, weight=hldf.weight)
    elif color_due:
        noise = take_gradients(work.parameters)
        losses["color_loss"] = add_gradients(work, batches, loss_of=pixel_loss)
        balance_gradients(work.parameters, noise, hldf.weight)
    update_weights(work, step, losses)
    return losses


def add_gradients(
    work: Work, batches: list[Batch], *, loss_of: Callable[[Work, Batch], Tensor], weight: float = 1
) -> float:
    """Add the gradients of the mean loss of some batches, times a weight; return the mean loss."""
    total = 0.0
    for batch in batches:
        with nullcontext() if batch is batches[-1] else unsynced(work):
            loss = loss_of(work, batch)
            work.accelerator.backward(weight * loss / len(batches))  # frees what it remembered
        total += work.accelerator.reduce(loss.detach(), "mean").item() / len(batches)
    return total


def update_weights(work: Work, step: int, losses: dict[str, float]) -> None:
    """Clip the gradients and step, unless a number is not finite."""
    norm = work.accelerator.clip_grad_norm_(work.parameters, work.config.max_grad_norm or math.inf)
    losses["grad_norm"] = float(norm)
    for name, value in losses.items():
        if not math.isfinite(value):
            saved = checkpoints.find_checkpoints(work.config.out)
            kept = f"{saved[-1]} is the last good checkpoint" if saved else "no checkpoint yet"
            raise RunError(f"step {step}: {name} is {value}; {kept}; try a lower --learning-rate")
    work.optimizer.step()
    work.schedule.step()
    if work.ema is not None:
        work.ema.step(work.parameters)


def draw_batch(work: Work, number: int) -> Batch:
    """Draw the batch of a number, counted over micro-batches; each row from its own generator."""
    config, accelerator = work.config, work.accelerator
    start = (number * accelerator.num_processes + accelerator.process_index) * config.batch_size
    steps, names = len(work.scheduler.alphas_cumprod), plan_hldf(config).statistics
    drawn = []
    for position in range(start, start + config.batch_size):
        row = work.rows[work.order[position]]
        generator = build_generator(config.seed, "train", position)
        chances = torch.rand(4, generator=generator).tolist()
        flip = config.flip and chances[0] < 0.5
        tensors = read_latents(work, row, flip, (chances[1], chances[2]))
        mean = tensors["mean"]
        latents = mean + tensors["std"] * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        timestep = torch.randint(steps, (), generator=generator)
        dropped = chances[3] < config.caption_dropout
        told = torch.cat([tensors[name] for name in names])  # (S,)
        drawn.append((row.caption, dropped, position, latents, noise, timestep, told))
    captions, drops, positions, *stacks = zip(*drawn, strict=True)
    stacked = [torch.stack(stack).to(accelerator.device) for stack in stacks]
    return Batch(list(captions), list(drops), list(positions), *stacked)


def latent_loss(work: Work, batch: Batch) -> Tensor:
    """Return the loss of predicting noise, or for some bases velocity, of a batch."""
    alpha_bar = work.scheduler.alphas_cumprod
    noisy = add_noise(batch.latents, batch.noise, batch.timesteps, alpha_bar)
    pairs = zip(batch.captions, batch.dropped, strict=True)
    captions = ["" if dropped else caption for caption, dropped in pairs]
    with work.accelerator.autocast():
        embeds, mask = embed(work, captions)
        before = used_memory(work.accelerator.device)
        predicted = pixart.predict_noise(work.transformer, noisy, batch.timesteps, embeds, mask)
    if work.recompute == "auto":
        work.recompute = plan_recompute(work, used_memory(work.accelerator.device) - before, embeds)
    weights, target = None, batch.noise
    velocity = work.scheduler.config.prediction_type == "v_prediction"
    if velocity:
        target = mix_velocity(batch.latents, batch.noise, batch.timesteps, alpha_bar)
    if work.config.min_snr is not None:
        ratio = signal_to_noise(batch.timesteps, alpha_bar)
        weights = min_snr_weights(ratio, work.config.min_snr, velocity=velocity)
    return noise_loss(predicted, target, weights)


def pixel_loss(work: Work, batch: Batch) -> Tensor:
    """Return the color loss of HLDF: images from noise for each row, against its real one.

    Gradients pass the solver and the VAE decoder to the transformer and to T5.
    """
    config, hldf = work.config, plan_hldf(work.config)
    blockwise = work.recompute == "block" or config.gradient_checkpointing
    pixart.recompute_blocks(work.transformer, blockwise)
    pixart.recompute_blocks(work.vae, True)  # one pass among M, and large at full size
    with work.accelerator.autocast():
        denoise = denoiser(work, batch.captions, config.hldf_guidance)
    drawn = []
    for draw in reversed(range(hldf.draws)):  # those without gradient first: they hold no memory
        with torch.set_grad_enabled(draw < hldf.with_gradient):
            drawn.append(draw_statistics(work, batch, denoise=denoise, draw=draw))
    pixart.recompute_blocks(work.transformer, config.gradient_checkpointing)
    if hldf.loss == "published":
        return squared_gap(drawn[0], batch.statistics)
    return energy_score(torch.stack(drawn), batch.statistics)


def draw_statistics(
    work: Work, batch: Batch, *, denoise: Callable[[Tensor, Tensor], Tensor], draw: int
) -> Tensor:
    """Draw an image for each row from fresh noise, and return its color statistics, (B, S)."""
    hldf, stepwise = plan_hldf(work.config), work.recompute == "step" and torch.is_grad_enabled()
    words = ("hldf",) if draw == 0 else ("hldf", f"draw-{draw}")
    generators = [build_generator(work.config.seed, *words, place) for place in batch.positions]
    noise = torch.stack([torch.randn(batch.noise.shape[1:], generator=it) for it in generators])
    with work.accelerator.autocast():
        latents = solve(
            denoise,
            noise.to(work.accelerator.device),
            pixart.renew_scheduler(work.scheduler),
            hldf.steps,
            grad_steps=hldf.grad_steps,
            recompute=stepwise,
        )

        def tell(latents: Tensor) -> Tensor:
            return color_statistics(pixart.decode_latents(work.vae, latents), hldf.statistics)

        # The decoder runs again in the backward pass, so that it is remembered for one draw alone.
        again = torch.is_grad_enabled() and (stepwise or hldf.with_gradient > 1)
        return checkpoint(tell, latents, use_reentrant=False) if again else tell(latents)


def draw_preview(work: Work, step: int) -> None:
    """Draw the same few captions from the same noise, where that is due and not done yet."""
    path = work.config.out / "previews" / f"step-{step:06d}.png"
    if not work.config.preview_every or step % work.config.preview_every:
        return
    wanted = work.accelerator.is_main_process and not path.is_file()
    if work.sharded:  # every process has a part in each pass; process 0 decides for all
        mark = torch.tensor(float(wanted), device=work.accelerator.device)
        wanted = bool(work.accelerator.reduce(mark, "sum") > 0)
    if not wanted:
        return
    # Without the wrapper for several processes: it would wait for the others, who draw nothing.
    work = replace(work, **trained_parts(work))
    config, images = work.config, []
    captions = list(dict.fromkeys(row.caption for row in work.rows))
    chosen = captions[:: max(1, len(captions) // config.preview_count)][: config.preview_count]
    shape = read_latents(work, work.rows[0], False, (0.5, 0.5))["mean"].shape
    for index in range(config.preview_count):
        noise = torch.randn(shape, generator=build_generator(config.seed, "preview", index))
        with torch.no_grad(), work.accelerator.autocast():
            latents = solve(
                denoiser(work, [chosen[index % len(chosen)]], config.hldf_guidance),
                noise[None].to(work.accelerator.device),
                pixart.renew_scheduler(work.scheduler),
                PREVIEW_STEPS,
            )
            images.append(tensor_to_image(pixart.decode_latents(work.vae, latents)[0]))
    adapters.reshard(work.transformer)
    if work.accelerator.is_main_process:
        path.parent.mkdir(exist_ok=True)
        save_png(path, tile_images(images))


def announce(work: Work, first: int) -> None:
    """Write what is known from the start: the run's facts, and what it is trained on."""
    out = work.config.out
    if work.config.log_with:
        shown = {name: str(value) for name, value in public_settings(work.config).items()}
        work.accelerator.init_trackers("medart", config=shown)
    if work.accelerator.is_main_process:
        checkpoints.trim_log(out / checkpoints.METRICS_NAME, first)
        write_text(out / checkpoints.TRAINING_HASHES, training_hashes(work))
        write_status(work, first)


def write_status(work: Work, saved: int) -> None:
    """Write what is known of a run at work; with the step of its last checkpoint, if it has one."""
    step = {"step": saved} if saved else {}
    facts = work.facts | step | {"status": "running"}
    write_json(work.config.out / checkpoints.RUN_NAME, facts)


def training_hashes(work: Work) -> str:
    """List the SHA-256 of each training image's bytes, by which later stages find leaks."""
    return "".join(f"{row.sha256}\n" for row in work.rows)


def save(work: Work, step: int) -> None:
    """Write a checkpoint, the loss curve, and drop the oldest checkpoints."""
    parts = gather_parts(work)  # before process 0 goes on alone
    tensors, facts = checkpoints.flatten_optimizer(work.optimizer)
    shadow = [checkpoints.gather(tensor) for tensor in work.ema.shadow_params] if work.ema else []
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
        checkpoints.save_tensors(folder / checkpoints.OPTIMIZER_NAME, tensors, facts)
        if work.ema is not None:
            averages = {str(i): tensor for i, tensor in enumerate(shadow)}
            count = {"optimization_step": work.ema.optimization_step}
            checkpoints.save_tensors(folder / checkpoints.EMA_NAME, averages, count)
        write_text(folder / checkpoints.TRAINING_HASHES, training_hashes(work))
        write_json(folder / checkpoints.STATE_NAME, state)
        checkpoints.write_sums(folder)

    checkpoints.write_folder(checkpoints.checkpoint_folder(work.config.out, step), write)
    write_status(work, step)
    checkpoints.prune_checkpoints(work.config.out, work.config.keep, step)
    plot(work)


def plot(work: Work) -> None:
    """Draw the loss curve up to the last step."""
    if work.accelerator.is_main_process:
        plot_losses(work.config.out / checkpoints.METRICS_NAME, work.config.out / "loss.png")


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


def finish(work: Work, step: int, failures: int) -> dict[str, Any]:
    """Write the result of the run beside its checkpoints, and return the summary."""
    config = work.config
    work.accelerator.wait_for_everyone()  # the first process has written its last line
    with (config.out / checkpoints.METRICS_NAME).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    recent = rows[-max(1, len(rows) // 10) :]
    colors = [row["color_loss"] for row in rows if "color_loss" in row]
    figures = {
        "loss": sum(row["loss"] for row in recent) / max(1, len(recent)),
        "color_loss_first": colors[0] if colors else None,
        "color_loss_last": colors[-1] if colors else None,
        "color_losses": len(colors),
        "seconds": sum(row["seconds"] for row in rows),
        "memory_gb": max((row["memory_gb"] for row in rows), default=None),
    }
    facts = work.facts | {"step": step, "status": "done", "failures": failures, "figures": figures}
    if work.ema is not None:  # the result is the average; checkpoints keep both
        work.ema.copy_to(work.parameters)
    parts = gather_parts(work)
    if work.accelerator.is_main_process:
        for name, model in parts.items():
            checkpoints.write_folder(config.out / name, partial(adapters.save_part, model))
        facts["checkpoint"] = checkpoints.hash_trained(config.out)
        write_text(config.out / checkpoints.TRAINING_HASHES, training_hashes(work))
        card = build_card(facts | {"settings": public_settings(config)})
        write_text(config.out / "README.md", card)
        write_json(config.out / checkpoints.RUN_NAME, facts)
        if config.merge:

            def merge(folder: Path) -> None:
                side = work.facts["resolution"]
                adapters.merge_run(work.base, config.out, folder, resolution=side)
                write_text(folder / checkpoints.TRAINING_HASHES, training_hashes(work))
                kind = pixart.pipeline_class(folder)
                write_text(folder / "README.md", build_merged_card(facts, kind))

            checkpoints.write_folder(config.out / "merged", merge)
    if config.log_with:
        work.accelerator.end_training()
    work.accelerator.wait_for_everyone()
    return {"result": str(config.out), **facts}
