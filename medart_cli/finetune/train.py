"""Fine-tune with HLDF: captioned images -> RUN/ (weights, checkpoints, metrics, previews).

The order of this file is the order of the work: read the rows, build the models and what feeds
them, train, write the result. All randomness of a row comes from the seed and the row's place in
the endless sequence of rows, so a resumed run draws what an uninterrupted one would have drawn.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medart_cli import stop
from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.cache import make_cache
from medart_cli.data.images import save_png, tile_images
from medart_cli.data.output import Output, open_output
from medart_cli.data.tensors import tensor_to_image
from medart_cli.diffusion.losses import (
    color_statistics,
    energy_score,
    noise_loss,
    squared_gap,
)
from medart_cli.diffusion.solver import solve
from medart_cli.errors import RunError, Stopped
from medart_cli.finetune.batches import Batch, draw_ahead, draw_batch
from medart_cli.finetune.estimate.needs import say_memory
from medart_cli.finetune.heldout import (
    is_due,
    measure_heldout,
    plan_heldout,
    rank_steps,
    take_means,
)
from medart_cli.finetune.hldf import choose_every, plan_hldf
from medart_cli.finetune.keep import announce, finish, plot, read_curve, save, write_metrics
from medart_cli.finetune.masks import describe_masks
from medart_cli.finetune.optimizer import balance_gradients, take_gradients, whole
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.plan import plan_recompute, rehearsal_due, say_how_often, settle_hldf
from medart_cli.finetune.previews import PREVIEW_STEPS, preview_due
from medart_cli.finetune.region import prepare_region
from medart_cli.finetune.remaining import Remaining
from medart_cli.finetune.resume import resume
from medart_cli.finetune.rows import TrainingData, describe_data, plan_steps
from medart_cli.finetune.setup import (
    build_accelerator,
    build_work,
    cache_captions,
    cache_images,
    check_captions,
    find_text_length,
    prepare_training,
)
from medart_cli.finetune.work import Work, embed_captions, trained_parts
from medart_cli.log import log, progress
from medart_cli.models import adapters, compiled, parts
from medart_cli.models.device import (
    build_generator,
    hush_libraries,
    peak_memory,
    send,
    used_memory,
)
from medart_cli.models.families import build_denoiser
from medart_cli.models.optimizers import check_optimizer, read_rate
from medart_cli.ranks import ask_first


def fine_tune(
    config: FinetuneConfig,
    data: TrainingData,
    base: tuple[Path, dict[str, str] | None],
    output: Output,
) -> dict[str, Any]:
    """Build the models and what feeds them, train, and write the result.

    Args:
        config: The options.
        data: The training rows.
        base: Folder of the base, and its hashes where they are known.
        output: The run folder, which has been checked.
    """
    hush_libraries("transformers", "diffusers")
    accelerator = build_accelerator(config)
    check_optimizer(config.optimizer, accelerator.device.type)
    if config.compile:
        compiled.check_compiler(accelerator.device, make_cache(config.cache) / "compiled")
    if accelerator.is_main_process:
        say_memory(config, data, base[0], accelerator.device)
    work = build_work(config, base, data.rows, accelerator)
    check_captions(work)
    failures = data.failures + cache_images(work) + plan_heldout(work, data.held)
    work.masks = data.masks
    prepare_region(work)
    total = plan_steps(config, len(work.rows), accelerator.num_processes)
    work.facts |= describe_data(work.rows) | {"wording": data.wording}
    work.facts |= {"settings": output.settings, "masks": describe_masks(work.rows, work.masks)}
    work.facts["inputs"] = [data.account.facts()]
    work.held = [row.sha256 for row in data.held]
    settle_hldf(work, choose_every(plan_hldf(config), total))
    cache_captions(work)
    if config.compile:
        work.text_length = find_text_length(work)
        compiled.compile_blocks(work.transformer)
        work.graphs = compiled.Graphs()
    prepare_training(work, total)
    # Only now: nothing is wiped for a request that cannot work.
    with open_output(output) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        if work.heldout is not None:  # before anything is trained or loaded
            work.heldout.before = measure_heldout(work, partial(check_stop, work, False))
        first = resume(work)
        announce(work, first)
        say_how_often(work, total)
        log.info("training %s: steps %d to %d", config.method, first + 1, total)
        train(work, first, total)
        return finish(work, max(first, total), failures)


def train(work: Work, first: int, total: int) -> None:
    """Run the optimizer steps after `first`; a stop or a fault leaves a checkpoint that resumes."""
    config, done, saved, saved_at = work.config, first, first, time.monotonic()
    rehearsed = not rehearsal_due(work, first, total)
    remaining = Remaining(plan_hldf(config).every, first, total)
    feed = closing(draw_ahead(work, first, total))
    with progress("finetune", total, done=first) as bar, feed as batches:
        try:
            catch_up(work, first, total)
            for step in range(first + 1, total + 1):
                late = check_stop(work, time.monotonic() - saved_at >= 60 * config.save_minutes)
                started, rate = time.monotonic(), read_rate(work.optimizer)
                losses = take_step(work, step, list(islice(batches, config.accumulate)))
                done = step
                bar.advance(losses)
                seconds = round(time.monotonic() - started, 4)
                write_metrics(work, step, losses | {"learning_rate": rate, "seconds": seconds})
                best = watch(work, step, total) and config.keep_best
                if step % config.save_every == 0 or step == total or late or best:
                    save(work, step)
                    saved, saved_at = step, time.monotonic()
                draw_preview(work, step, total)
                if not rehearsed:
                    rehearse(work, step)
                    rehearsed = True
                fresh = work.graphs is not None and work.graphs.say(f"step {step}")
                remaining.note(step, seconds, compiled=bool(fresh))
        except Stopped:
            if done > saved:  # a step in work has changed nothing yet and is left out
                save(work, done)
            work.accelerator.wait_for_everyone()  # or the launcher would end who still writes
            raise
        except torch.OutOfMemoryError as error:
            error.add_note(f"step {done + 1}")
            raise


def catch_up(work: Work, first: int, total: int) -> None:
    """Do what comes before the steps after `first`; of a resumed run, what a kill has prevented."""
    plan = work.heldout
    if first:
        plot(work)
        draw_preview(work, first, total)
    if plan is not None and first:
        plan.curve = ask_first(partial(read_curve, work.config.out))
    elif plan is not None and plan.before is not None:
        write_metrics(work, 0, take_means(plan.before))
    watch(work, first, total)


def watch(work: Work, step: int, total: int) -> bool:
    """Measure the held-out loss where it is due; say whether it is the lowest so far."""
    plan = work.heldout
    if plan is None or not is_due(work, step, total):
        return False
    started = time.monotonic()
    plan.last = measure_heldout(work, partial(check_stop, work, False))
    means = take_means(plan.last)
    check_finite(work, step, means)
    if step not in plan.curve:
        plan.curve[step] = means["val_loss"]
        seconds = round(time.monotonic() - started, 4)
        write_metrics(work, step, means | {"seconds": seconds})
    return rank_steps(plan.curve)[0] == step


def rehearse(work: Work, step: int) -> None:
    """Make a color loss and its gradients once, early, so that too small a GPU shows at once.

    After the first step, when the optimizer has its memory too. Changes no weight and no result.
    """
    state = torch.get_rng_state(), torch.cuda.get_rng_state_all()
    batches = [draw_batch(work, step * work.config.accumulate).to(work.accelerator.device)]
    add_gradients(work, batches, loss_of=latent_loss)
    noise = take_gradients(work.parameters) if plan_hldf(work.config).loss == "score" else []
    add_gradients(work, batches, loss_of=pixel_loss)
    del noise
    work.optimizer.zero_grad(set_to_none=True)
    torch.set_rng_state(state[0])
    torch.cuda.set_rng_state_all(state[1])
    log.info("HLDF fits: %.1f GB peak memory", peak_memory(work.accelerator.device))


def take_step(work: Work, step: int, drawn: list[Batch]) -> dict[str, float]:
    """Make one optimizer step: the noise loss on each batch, every N steps the color loss too."""
    hldf = plan_hldf(work.config)
    color_due = hldf.every > 0 and step % hldf.every == 0
    work.optimizer.zero_grad(set_to_none=True)
    batches = [batch.to(work.accelerator.device) for batch in drawn]
    losses = {"loss": add_gradients(work, batches, loss_of=latent_loss)}
    if color_due and hldf.loss == "published":
        losses["color_loss"] = add_gradients(work, batches, loss_of=pixel_loss, weight=hldf.weight)
    elif color_due:
        noise = take_gradients(work.parameters)
        losses["color_loss"] = add_gradients(work, batches, loss_of=pixel_loss)
        balance_gradients(work.parameters, noise, hldf.weight)
    return update_weights(work, step, losses)


def add_gradients(
    work: Work, batches: list[Batch], *, loss_of: Callable[[Work, Batch], Tensor], weight: float = 1
) -> list[Tensor]:
    """Add the gradients of the mean loss of some batches, times a weight; return their losses.

    The losses stay on the device: to read one is to wait until it is computed.
    """
    losses = []
    for batch in batches:
        with nullcontext() if batch is batches[-1] else unsynced(work):
            loss = loss_of(work, batch)
            work.accelerator.backward(weight * loss / len(batches))  # frees what it stored
        losses.append(loss.detach())
    return losses


def update_weights(work: Work, step: int, losses: dict[str, list[Tensor]]) -> dict[str, float]:
    """Clip the gradients and step, unless a number is not finite; return the numbers.

    Here is the one wait for the device in a step: all numbers come in one transfer.

    Args:
        work: What lives during the run.
        step: Of the optimizer.
        losses: By name, this process's own of each batch.
    """
    norm = work.accelerator.clip_grad_norm_(work.parameters, work.config.max_grad_norm or math.inf)
    own = torch.stack([loss for parts in losses.values() for loss in parts])
    shared = work.accelerator.reduce(own, "mean")  # over the processes
    *values, norm = torch.cat([shared, whole(norm).reshape(1).to(shared)]).tolist()
    rest = iter(values)
    means = {name: sum(value / len(parts) for value in islice(rest, len(parts)))
             for name, parts in losses.items()}  # fmt: skip
    means["grad_norm"] = norm
    check_finite(work, step, means)
    work.optimizer.step()
    work.schedule.step()
    if work.ema is not None:
        work.ema.step(work.parameters)
    return means


def check_finite(work: Work, step: int, losses: dict[str, float]) -> None:
    """End a run that has gone astray.

    Raises:
        RunError: A number is not finite.
    """
    for name, value in losses.items():
        if not math.isfinite(value):
            saved = checkpoints.find_checkpoints(work.config.out)
            kept = f"{saved[-1]} is the last good checkpoint" if saved else "no checkpoint yet"
            raise RunError(f"step {step}: {name} is {value}; {kept}; try a lower --learning-rate")


def latent_loss(work: Work, batch: Batch) -> Tensor:
    """Return the loss of predicting noise, or for some bases velocity, of a batch."""
    with work.accelerator.autocast():
        embeds, mask = batch.text or embed_captions(work, batch.shown)
        before = used_memory(work.accelerator.device)
        predicted = work.family.predict(
            work.transformer, batch.noisy, batch.timesteps, embeds, mask
        )
    if work.recompute == "auto":
        work.recompute = plan_recompute(work, used_memory(work.accelerator.device) - before, embeds)
    return noise_loss(predicted, batch.target, batch.weights, batch.pixels)


def pixel_loss(work: Work, batch: Batch) -> Tensor:
    """Return the color loss of HLDF: images from noise for each row, against its real one.

    Gradients pass the solver and the VAE decoder to the transformer and to the text encoder.
    """
    config, hldf = work.config, plan_hldf(work.config)
    blockwise = work.recompute == "block" or config.gradient_checkpointing
    parts.recompute_blocks(work.transformer, blockwise)
    if work.family.blockwise_decoder(work.vae):
        parts.recompute_blocks(work.vae, True)  # one pass among M, and large at full size
    with work.accelerator.autocast():
        denoise = denoiser(work, batch.captions, config.hldf_guidance, batch.prompts)
    drawn = []
    for draw in reversed(range(hldf.draws)):  # those without gradient first: they hold no memory
        with torch.set_grad_enabled(draw < hldf.with_gradient):
            drawn.append(draw_statistics(work, batch, denoise=denoise, draw=draw))
    parts.recompute_blocks(work.transformer, config.gradient_checkpointing)
    if hldf.loss == "published":
        return squared_gap(drawn[0], batch.statistics)
    return energy_score(torch.stack(drawn), batch.statistics)


def draw_statistics(
    work: Work, batch: Batch, *, denoise: Callable[[Tensor, Tensor], Tensor], draw: int
) -> Tensor:
    """Generate an image for each row from fresh noise; return its color statistics, (B, S)."""
    hldf, stepwise = plan_hldf(work.config), work.recompute == "step" and torch.is_grad_enabled()
    regions = {} if work.region is None else work.region.weights
    words = ("hldf",) if draw == 0 else ("hldf", f"draw-{draw}")
    generators = [build_generator(work.config.seed, *words, place) for place in batch.positions]
    noise = torch.stack([torch.randn(batch.noisy.shape[1:], generator=it) for it in generators])
    with work.accelerator.autocast():
        latents = solve(
            denoise,
            send(noise, work.accelerator.device),
            work.family.renew_scheduler(work.scheduler, noise.shape[2:].numel()),
            hldf.steps,
            grad_steps=hldf.grad_steps,
            recompute=stepwise,
        )

        def tell(latents: Tensor) -> Tensor:
            images = work.family.decode_latents(work.vae, latents)
            region = regions[images.shape[2], images.shape[3]] if regions else None
            return color_statistics(images, hldf.statistics, region)

        # The decoder runs again in the backward pass, so that it is stored for one image alone.
        blockwise = work.family.blockwise_decoder(work.vae)
        whole = stepwise or hldf.with_gradient > 1 or not blockwise
        again = torch.is_grad_enabled() and whole
        images = torch.split(latents, 1) if stepwise else [latents]  # the least memory: one by one
        told = [checkpoint(tell, it, use_reentrant=False) if again else tell(it) for it in images]
        return torch.cat(told)


def denoiser(
    work: Work,
    captions: list[str],
    guidance: float,
    read: tuple[Tensor, Tensor] | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the solver's denoise function for captions; it polls for a stop before each pass.

    One of several processes does not: they leave together, between two steps.

    Args:
        work: What lives during the run.
        captions: Of the images.
        guidance: Scale of classifier-free guidance.
        read: Embeddings and mask of the captions and the empty one, where they are read already.
    """
    embeds, mask = read or embed_captions(work, [*captions, ""])
    text, empty = (embeds[:-1], mask[:-1]), (embeds[-1:], mask[-1:])
    if work.accelerator.num_processes > 1:
        return build_denoiser(work.family, work.transformer, text, empty, guidance)
    return build_denoiser(work.family, work.transformer, text, empty, guidance, poll=stop.check)


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
        raise Stopped("stopped by a signal; run the same command again to resume")
    return bool(any_late)


def unsynced(work: Work) -> ExitStack:
    """Keep several processes from exchanging gradients until the last backward pass of a step.

    With FSDP they do exchange them: to wait, each process would need room for all gradients.
    """
    stack = ExitStack()
    for name in () if work.sharded else work.facts["trained"]:
        stack.enter_context(work.accelerator.no_sync(getattr(work, name)))
    return stack


def draw_preview(work: Work, step: int, total: int) -> None:
    """Generate images of the same few captions and noises, where due and not done yet."""
    path = work.config.out / "previews" / f"step-{step:06d}.png"
    if not preview_due(work.config, step, total):
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
    captions = list(dict.fromkeys(row.text or "" for row in work.rows))
    chosen = captions[:: max(1, len(captions) // config.preview_count)][: config.preview_count]
    shapes = {row.text or "": work.shapes[row.sha256] for row in reversed(work.rows)}
    channels, scale = work.family.latent_channels(work.vae), work.family.latent_scale(work.vae)
    for index in range(config.preview_count):
        sides = [side // scale for side in shapes[chosen[index % len(chosen)]]]
        generator = build_generator(config.seed, "preview", index)
        noise = torch.randn((channels, *sides), generator=generator)
        with torch.no_grad(), work.accelerator.autocast():
            latents = solve(
                denoiser(work, [chosen[index % len(chosen)]], config.hldf_guidance),
                noise[None].to(work.accelerator.device),
                work.family.renew_scheduler(work.scheduler, noise.shape[1:].numel()),
                PREVIEW_STEPS,
            )
            images.append(tensor_to_image(work.family.decode_latents(work.vae, latents)[0]))
    adapters.reshard(work.transformer)
    if work.accelerator.is_main_process:
        path.parent.mkdir(exist_ok=True)
        drawn = [chosen[index % len(chosen)] for index in range(config.preview_count)]
        facts = {"synthetic": True, "step": step, "seed": config.seed, "captions": drawn}
        save_png(path, tile_images(images), facts)
