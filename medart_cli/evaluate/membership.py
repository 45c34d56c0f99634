"""Whether the weights of `--run` tell which images they were trained on.

The score of an image is by how much the training lowered its denoising loss: that of the base less
that of the run, at the same noises and times for all images. The base takes out that some images
are harder than others. Both sides have the same share of each label and captions of one kind, so
that neither passes for membership.
"""

import gc
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medart_cli import stop
from medart_cli.data.buckets import Shape, batch_alike, find_bucket, list_buckets
from medart_cli.data.images import fit_image, load_image
from medart_cli.data.manifest import Record
from medart_cli.data.profiles import DEFAULT_PROFILE, as_worded, read_profile
from medart_cli.data.tensors import image_to_tensor
from medart_cli.diffusion.denoising import denoising_losses
from medart_cli.diffusion.process import PROCESSES, Times
from medart_cli.evaluate.options import MEMBERS, EvaluateConfig
from medart_cli.evaluate.sets import ImageSet, find_heldout, find_training
from medart_cli.evaluate.training import TrainedRun, find_known_patients
from medart_cli.log import log, progress
from medart_cli.metrics.membership import LEAST_TO_RECOGNIZE, choose_alike, judge_membership
from medart_cli.models import adapters, parts
from medart_cli.models.bases import find_kind, load_tokenizer
from medart_cli.models.device import (
    DTYPES,
    build_generator,
    find_device,
    find_precision,
    hush_libraries,
)
from medart_cli.models.families import Family, find_family
from medart_cli.models.offload import load_reader

NOISES = 16  # noises and times, the same for each image
LEAST_COMPARED = 2  # images a side


def measure_membership(
    config: EvaluateConfig, sets: list[ImageSet], run: TrainedRun | None
) -> dict[str, Any] | None:
    """Compare the losses of training images and held-out ones; None without `--run`.

    Returns:
        Content of `membership` in metrics.json. Where no images can be compared, `reason` says why
        and all else is None.
    """
    training = find_training(config, sets)
    if run is None or training is None:
        return None
    log.info("membership: how much the training lowered the loss of images")
    held = find_heldout(config, sets)
    if held.patients is not None and training.patients is not None:
        held = held.pick(np.flatnonzero(~find_known_patients(held, training)))
    generator = np.random.default_rng([config.seed, 3])
    sides = (training, held)
    chosen = choose_alike(
        (name_labels(training), name_labels(held)),
        (training.clusters, held.clusters),
        config.member_count or MEMBERS,
        generator,
    )
    sides = training.pick(chosen[0]), held.pick(chosen[1])
    if min(map(len, sides)) < LEAST_COMPARED:
        return _describe(sides) | {
            "reason": f"{training.name} and {held.name} have too few images of the same labels and "
            "of different patients"
        }
    texts, wording = word_alike(run, sides)
    losses = measure_losses(config, run, [*sides[0], *sides[1]], texts)  # (2, N)
    gains = (losses[0] - losses[1]).numpy()
    split = len(sides[0])
    found = judge_membership(
        (gains[:split], gains[split:]),
        (sides[0].clusters, sides[1].clusters),
        (name_labels(sides[0]), name_labels(sides[1])),
        generator,
    )
    means = {
        side: {"base": float(losses[0, rows].mean()), "run": float(losses[1, rows].mean())}
        for side, rows in (("training", slice(split)), ("heldout", slice(split, None)))
    }
    return _describe(sides) | found | {"reason": None, "captions": wording, "losses": means}


def _describe(sides: tuple[ImageSet, ImageSet]) -> dict[str, Any]:
    told = {
        name: {"set": side.name, "n": len(side), "patients": side.count_patients(),
               "labels": side.count_labels()}
        for name, side in zip(("training", "heldout"), sides, strict=True)
    }  # fmt: skip
    nothing = ("auc", "interval", "p_value", "shown", "recognized", "captions", "losses")
    return told | {"draws": NOISES} | dict.fromkeys(nothing)


def name_labels(item: ImageSet) -> list[str | None]:
    """Return the label of each image of a set."""
    names = {code: name for name, code in item.labels.items()}
    return [names.get(int(code)) for code in item.codes]


def word_alike(
    run: TrainedRun, sides: tuple[Iterable[Record], Iterable[Record]]
) -> tuple[list[str], str]:
    """Choose captions of one kind for both sides.

    A caption that is worded as those of training lowers the loss as well, whatever its image. So
    each image has its own caption only where all have one and one captioner wrote those of both
    sides; else all have the template caption of the run.

    Returns:
        The captions of both sides, in order; and `own` or `template`.
    """
    rows = [record for side in sides for record in side]
    makers = [{_name_maker(record) for record in side} - {None} for side in sides]
    if all(record.text is not None for record in rows) and makers[0] == makers[1]:
        return [record.text or "" for record in rows], "own"
    known = run.facts.get("wording")
    profile = as_worded(known) if known else read_profile(DEFAULT_PROFILE)
    return [profile.simple_caption(record.label) for record in rows], "template"


def _name_maker(record: Record) -> tuple[str, ...] | None:
    """Say what wrote a caption, empty where nobody says; None for a template caption."""
    made = record.fields.get("caption")
    if not isinstance(made, dict):
        return ()
    if made.get("status") in ("simple", "rejected"):
        return None
    return tuple(str(made.get(key)) for key in ("model", "revision", "profile"))


def measure_losses(
    config: EvaluateConfig, run: TrainedRun, rows: Sequence[Record], texts: Sequence[str]
) -> Tensor:
    """Measure the loss of each image with the base, then with the run.

    Args:
        config: Device, number format, batch size and seed.
        run: The run.
        rows: The images.
        texts: Their captions.

    Returns:
        (2, N), float64, on the CPU: means over the noises.
    """
    hush_libraries("transformers", "diffusers")
    device = find_device(config.device)
    # As for features: figures to compare, whatever the device.
    name = find_precision("fp32" if config.precision == "auto" else config.precision, device)
    format_ = DTYPES[name], device
    family = find_family(run.base)
    scheduler = family.load_scheduler(run.base)
    posteriors, scale = read_posteriors(run, rows, device)
    times = find_times(run, scheduler, run.facts["resolution"] // scale)
    losses = torch.zeros(2, len(rows), dtype=torch.float64)
    embeds: dict[str, Tensor] = {}
    with progress("membership", losses.numel() * NOISES) as bar:
        for side, folder in enumerate((run.base, run.folder)):
            if side == 0 or (folder / "text_encoder").is_dir():
                embeds = embed_texts(run, folder, sorted({*texts}), format_, config.offload)
            transformer = adapters.load_trained_transformer(run.base, folder, *format_)
            for draw, places in _list_batches(posteriors, config.batch_size):
                stop.check()
                stack = [embeds[texts[place]].to(device) for place in places]
                losses[side, places] += denoising_losses(
                    PROCESSES[family.process], scheduler, times,
                    [posteriors[place] for place in places],
                    [build_generator(config.seed, "membership", draw) for _ in places],
                    partial(predict_batch, family, transformer, stack, name),
                ).cpu() / NOISES  # fmt: skip
                bar.advance(count=len(places))
            del transformer  # the next one needs its room
    return losses


def _list_batches(
    posteriors: Sequence[dict[str, Tensor]], size: int
) -> Iterator[tuple[int, list[int]]]:
    """List which noise is put on which rows, batch by batch; those of a batch have one shape."""

    def find_shape(place: int) -> Shape:
        height, width = posteriors[place]["mean"].shape[1:]
        return height, width

    batches = batch_alike(range(len(posteriors)), find_shape, size)
    for draw in range(NOISES):
        for batch in batches:
            yield draw, batch


def predict_batch(
    family: Family,
    transformer: Any,  # noqa: ANN401 - of its family's class
    embeds: Sequence[Tensor],
    precision: str,
    noisy: Tensor,
    timesteps: Tensor,
) -> Tensor:
    """Predict the noise, or velocity, of a batch from unpadded embeddings of its captions."""
    device = embeds[0].device
    padded, mask = parts.pad_embeds(embeds)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return family.predict(transformer, noisy.to(device), timesteps.to(device), padded, mask)


def read_posteriors(
    run: TrainedRun, rows: Sequence[Record], device: torch.device
) -> tuple[list[dict[str, Tensor]], int]:
    """Return mean and deviation of the latents of each image, at the run's shape and crop.

    And how many pixels of a side one latent stands for.
    """
    family = find_family(run.base)
    vae = family.load_vae(run.base, device)
    side, told = run.facts["resolution"], run.facts.get("buckets")
    buckets = list_buckets(side, told["unit"]) if told else [(side, side)]
    crop = run.facts.get("settings", {}).get("crop", "center")
    found = []
    with progress("images", len(rows)) as bar, torch.no_grad():
        for record in rows:
            stop.check()
            image = load_image(record.path)
            image = fit_image(image, find_bucket(image.size, buckets), crop, (0.5, 0.5))
            mean, std = family.encode_images(vae, image_to_tensor(image)[None])
            found.append({"mean": mean[0].cpu(), "std": std[0].cpu()})
            bar.advance()
    return found, family.latent_scale(vae)


def find_times(
    run: TrainedRun,
    scheduler: Any,  # noqa: ANN401 - of diffusers
    side: int,
) -> Times:
    """Return how the run drew the times of its training.

    Args:
        run: The run.
        scheduler: Of its base.
        side: Of the latents.
    """
    kind, shift = find_family(run.base).recipe(scheduler, side)
    settings = run.facts.get("settings", {})
    return Times(settings.get("timesteps", kind), settings.get("timestep_shift", shift))


def embed_texts(
    run: TrainedRun,
    folder: Path,
    texts: Sequence[str],
    format_: tuple[torch.dtype, torch.device],
    offload: str,
) -> dict[str, Tensor]:
    """Return the unpadded embedding (L, D) of each text, on the CPU.

    Args:
        run: Has the base.
        folder: Has the trained text encoder, if one was trained: the run, or the base itself.
        texts: Distinct texts.
        format_: Number format and device.
        offload: Where the text encoder waits and computes: as `load_reader` takes it.
    """
    family, tokenizer = find_family(run.base), load_tokenizer(run.base)
    load = partial(adapters.load_trained_text_encoder, run.base, folder, format_[0])
    text_encoder = load_reader(load, offload, format_[1])
    found = {}
    with torch.no_grad():
        for text in texts:
            stop.check()
            embeds, _ = family.read_prompts(
                tokenizer, text_encoder, [text], pad=False, limit=find_kind(run.base).tokens
            )
            found[text] = embeds[0].cpu()
    del text_encoder
    gc.collect()  # hooks that move layers point to these, and these to the hooks
    return found


def tell_membership(found: dict[str, Any] | None) -> list[str]:
    """Say whether the weights tell what they were trained on, and what that means for sharing."""
    if found is None:
        return []
    if found["reason"]:
        return [f"membership: cannot be tested: {found['reason']}."]
    ours, others = found["training"], found["heldout"]
    behind = f"{_count(ours)} of {ours['set']}, {_count(others)} of {others['set']}"
    area = f"AUC {found['auc']:.2f}"
    if found["interval"]:
        area += f", 95% interval {found['interval'][0]:.2f} to {found['interval'][1]:.2f}"
    figures = f"({area}; .5 is guessing; p = {found['p_value']:.2g}; {behind})"
    if found["shown"]:
        lines = [
            f"membership: the weights tell which images they were trained on {figures}: whoever "
            "has them and an image of a patient can tell, better than by guessing, whether it was "
            "used. Treat them as you treat the images; fewer steps or more images leave less."
        ]
    else:
        reach = ""
        if found["interval"]:
            reach = f" An AUC up to {found['interval'][1]:.2f} is not ruled out."
        lines = [
            f"membership: not shown that the weights tell which images they were trained on "
            f"{figures}.{reach} Stronger tests than this one may tell: it is no proof that the "
            "weights are safe to share."
        ]
    return [*lines, _tell_recognized(found["recognized"], others)]


def _count(side: dict[str, Any]) -> str:
    told = f"{side['n']} images"
    return told if side["patients"] is None else f"{told} of {side['patients']} patients"


def _tell_recognized(recognized: dict[str, Any] | None, others: dict[str, Any]) -> str:
    if recognized is None:
        return (
            f"membership: how many are recognized at 1% false alarms cannot be said from "
            f"{_count(others)} that are held out; {LEAST_TO_RECOGNIZE} are needed, of as many "
            "patients."
        )
    low, high = (100 * end for end in recognized["interval"])
    return (
        f"membership: at {100 * recognized['false_rate']:.1f}% false alarms "
        f"{100 * recognized['share']:.1f}% (95% interval {low:.1f} to {high:.1f}%) of the training "
        "images are recognized."
    )
