"""The held-out loss: how well a run predicts images that it is not trained on, while it trains.

The loss of one step says little: its noises and times are drawn anew each time. Here they are the
same in each measurement, whatever was drawn before and however many processes share the work. The
same noises and times measure as many training images, since two curves say what was memorized only
if they compare like with like. A measurement changes nothing of what is trained.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medart_cli.data.buckets import Shape, batch_alike
from medart_cli.data.manifest import HashedRecord
from medart_cli.data.splits import groups_of
from medart_cli.diffusion.denoising import denoising_losses
from medart_cli.errors import ConfigError
from medart_cli.finetune.rows import describe_data
from medart_cli.finetune.setup import encode_rows
from medart_cli.finetune.work import Heldout, Work, embed_captions, read_latents, trained_parts
from medart_cli.log import log
from medart_cli.models import adapters
from medart_cli.models.device import build_generator

EVERY, COUNT = 200, 64  # steps between measurements, images, where no option says otherwise
LEAST_DRAWS = 64  # noises in all: few images get several each, or their curve would be all chance
LEVEL = 0.95  # of the interval


def plan_heldout(work: Work, held: Sequence[HashedRecord]) -> int:
    """Choose what will be measured; leave out and count images that cannot be read.

    Args:
        work: What lives during the run; its training rows can be read.
        held: The rows that are held out.

    Returns:
        How many cannot be read.

    Raises:
        ConfigError: None can.
    """
    generator = build_generator(work.config.seed, "held-out images")
    order = torch.randperm(len(held), generator=generator)[: work.config.val_count or COUNT]
    chosen = [held[place] for place in order.sort().values.tolist()]
    rows = encode_rows(work, chosen, flips=(False,)) if chosen else []
    if rows:
        trained = match_rows(work.rows, rows, generator)
        work.heldout = Heldout(rows, trained, draws=math.ceil(LEAST_DRAWS / len(rows)))
        work.facts["heldout"] = describe_data(rows)
        log.info("held-out loss: of %d of the %d held-out images", len(rows), len(held))
    elif chosen:
        raise ConfigError(
            f"{work.config.data}: none of its {len(chosen)} held-out images can be read; mend "
            "them, or use --val-every 0"
        )
    return len(chosen) - len(rows)


def match_rows(
    rows: Sequence[HashedRecord], held: Sequence[HashedRecord], generator: torch.Generator
) -> list[HashedRecord]:
    """Draw a training row for each held-out row, of its label where there is one.

    A row is taken again only where its label has no other left.
    """
    shuffled = [rows[place] for place in torch.randperm(len(rows), generator=generator).tolist()]
    labels: dict[str | None, list[HashedRecord]] = defaultdict(list)
    for row in shuffled:
        labels[row.label].append(row)
    pools = {label: cycle(own) for label, own in labels.items()}
    others = cycle(shuffled)
    return [next(pools.get(row.label, others)) for row in held]


def is_due(work: Work, step: int, total: int) -> bool:
    """Say whether the held-out loss is to be measured after a step.

    After the last one it is also where a run that is resumed there has the means alone.
    """
    plan, every = work.heldout, work.config.val_every or EVERY
    if plan is None or step == 0 or (step % every and step != total):
        return False
    return step not in plan.curve or (step == total and plan.last is None)


def measure_heldout(work: Work, poll: Callable[[], object]) -> Tensor:
    """Measure the loss of each held-out image, and of as many training images.

    Each process measures its share. All make as many passes, as FSDP needs: one that has none left
    repeats another's. The weights are those that the run would end with: with EMA, the average.

    Args:
        work: What lives during the run.
        poll: Called before each pass; may raise to leave.

    Returns:
        (2, n), float64, on the CPU: held-out images, then training images; equal in all processes.
    """
    plan, accelerator = work.heldout, work.accelerator
    assert plan is not None
    sides = (plan.rows, plan.trained)
    shape = (len(sides), len(plan.rows), plan.draws)

    def find_shape(place: tuple[int, ...]) -> Shape:
        return work.shapes[sides[place[0]][place[1]].sha256]

    parts = batch_alike(list(product(*map(range, shape))), find_shape, work.config.batch_size)
    losses = torch.zeros(shape, dtype=torch.float64, device=accelerator.device)
    with averaged_weights(work), evaluation_mode(work):
        # Without the wrapper for several processes, which would wait where others have less to do.
        plain = replace(work, **trained_parts(work))
        for turn in range(math.ceil(len(parts) / accelerator.num_processes)):
            poll()
            number = turn * accelerator.num_processes + accelerator.process_index
            places = parts[number % len(parts)]
            # Compiled blocks are for whole batches; what is made twice is the same.
            count = work.config.batch_size if work.config.compile else len(places)
            places = list(islice(cycle(places), count))
            rows = [sides[side][place] for side, place, _ in places]
            found = predict_rows(plain, rows, [f"{place}/{draw}" for _, place, draw in places])
            if number < len(parts):
                for place, loss in zip(places, found, strict=True):
                    losses[place] = loss
    whole: Tensor = accelerator.reduce(losses, "sum")
    return whole.mean(dim=2).cpu()  # (2, n, draws) -> (2, n)


def predict_rows(work: Work, rows: Sequence[HashedRecord], names: Sequence[str]) -> Tensor:
    """Return the loss of each row, (B,), with noise and time from a generator of its name alone.

    Neither caption dropout nor weights: it is the plain loss that is compared.
    """

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        device = work.accelerator.device
        with work.accelerator.autocast():
            embeds, mask = embed_captions(work, [row.text or "" for row in rows])
            noisy, timesteps = noisy.to(device), timesteps.to(device)
            return work.family.predict(work.transformer, noisy, timesteps, embeds, mask)

    posteriors = [read_latents(work, row, False, (0.5, 0.5)) for row in rows]
    generators = [build_generator(work.config.seed, "held-out", name) for name in names]
    scheduler, times = work.scheduler, work.times
    return denoising_losses(work.process, scheduler, times, posteriors, generators, predict)


@contextmanager
def evaluation_mode(work: Work) -> Iterator[None]:
    """Take the trained models out of training mode; afterwards all is as it was, generators too."""
    device = work.accelerator.device
    models = trained_parts(work).values()
    modes = {module: module.training for model in models for module in model.modules()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for model in models:
            model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


@contextmanager
def averaged_weights(work: Work) -> Iterator[None]:
    """Let the weights be their average where there is one; afterwards they are as they were."""
    adapters.reshard(work.transformer)
    _swap_average(work)
    try:
        yield
    finally:
        adapters.reshard(work.transformer)
        _swap_average(work)


def _swap_average(work: Work) -> None:
    """Exchange the weights for their average, one by one, which takes the memory of one."""
    if work.ema is None:
        return
    for weights, average in zip(work.parameters, work.ema.shadow_params, strict=True):
        kept = weights.detach().clone()
        weights.data.copy_(average)
        average.copy_(kept)


def take_means(losses: Tensor) -> dict[str, float]:
    """Name the means over images of the losses (2, n) as metrics.jsonl does."""
    held, trained = losses.mean(dim=1).tolist()
    return {"val_loss": held, "train_loss": trained}


def rank_steps(curve: Mapping[int, float]) -> list[int]:
    """Order the steps by their held-out loss, lowest first, and of equals the earlier."""
    return sorted(curve, key=lambda step: (curve[step], step))


def conclude(work: Work, kept: int) -> dict[str, Any] | None:
    """Return what the two curves say at the end, and log it; None where nothing was measured.

    Args:
        work: What lives during the run.
        kept: The step whose weights are the result.
    """
    plan = work.heldout
    if plan is None or plan.before is None or plan.last is None:
        return None
    lowest = rank_steps(plan.curve)[0]
    found = {
        "images": len(plan.rows), "draws": plan.draws,
        **{f"{name}_before": value for name, value in take_means(plan.before).items()},
        **take_means(plan.last),
        "val_loss_lowest": plan.curve[lowest], "lowest_step": lowest, "kept_step": kept,
        **find_memorized(plan),
    }  # fmt: skip
    log.info(
        "held-out loss: %.4f before training, %.4f now, lowest %.4f at step %d; of training images "
        "%.4f before, %.4f now",
        *(found[name] for name in ("val_loss_before", "val_loss", "val_loss_lowest", "lowest_step",
                                   "train_loss_before", "train_loss")),
    )  # fmt: skip
    say_memorized(found, last=max(plan.curve))
    return found


def find_memorized(plan: Heldout) -> dict[str, Any]:
    """Compare what training images and held-out images have gained by the training.

    Before training the model knows neither, so that a gap there is only that some images are
    harder than others. What the gap has grown by since is what was learned of the training images
    alone. Noises and times are the same place by place, and cancel.

    Returns:
        `memorized`: the gain of the training images minus that of the held-out ones; its 95 %
        `interval`, None below two patients (images, where those are unknown) on a side.

    Source:
        Cameron, Gelbach and Miller 2011, equation 2.6: places that share a patient on either side
        are not independent.
    """
    from scipy.stats import t as student  # half a second, and only needed here

    assert plan.before is not None
    assert plan.last is not None
    changes = plan.last - plan.before  # (2, n)
    gaps = (changes[0] - changes[1]).numpy()  # (n,)
    found: dict[str, Any] = {"memorized": float(gaps.mean()), "interval": None}
    held, trained = groups_of(plan.rows), groups_of(plan.trained)
    fewest = min(len({*held}), len({*trained}))
    if fewest > 1:
        both = [f"{one} {other}" for one, other in zip(held, trained, strict=True)]
        one, other, shared = (_find_variance(gaps, groups) for groups in (held, trained, both))
        variance = max(one, other, one + other - shared)
        half = student.ppf((1 + LEVEL) / 2, fewest - 1) * math.sqrt(variance)
        found["interval"] = [found["memorized"] - half, found["memorized"] + half]
    return found


def _find_variance(values: np.ndarray[Any, Any], groups: Sequence[str]) -> float:
    """Return the variance of the mean of values that depend on each other within groups."""
    _, places = np.unique(groups, return_inverse=True)
    sums = np.bincount(places, weights=values - values.mean())
    return float(len(sums) / (len(sums) - 1) * (sums**2).sum() / len(values) ** 2)


def say_memorized(found: Mapping[str, Any], last: int) -> None:
    """Say what the gap between the curves is, and what can be done about it."""
    if found["interval"] is None:
        log.info("memorizing cannot be judged: there are fewer than two patients on a side")
        return
    low, high = found["interval"]
    told = f"{found['memorized']:.4f} (95 % interval {low:.4f} to {high:.4f})"
    if low <= 0:
        log.info("the gap between both grew by %s: no memorizing shown, of so many images", told)
    elif found["lowest_step"] == last:
        log.info(
            "the gap between both grew by %s: part of what was learned is memory of the training "
            "images; the held-out loss is still at its lowest", told,
        )  # fmt: skip
    else:
        log.warning(
            "the gap between both grew by %s: the model memorizes its training images; the "
            "held-out loss was lowest at step %d: use fewer steps, more images, or --keep-best",
            told, found["lowest_step"],
        )  # fmt: skip
