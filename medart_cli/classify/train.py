"""Does synthetic data help: real, synthetic and test images -> CLF/ (classifier, scores, report).

With `--checkpoint` it only predicts: images -> OUT/predictions.jsonl.
"""

import copy
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medart_cli import stop
from medart_cli.classify.duplicates import drop_same
from medart_cli.classify.images import Images, build_extractor, load_sets
from medart_cli.classify.network import augment, build_network, draw_order, fit_probe, weigh_classes
from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.results import write_results
from medart_cli.classify.sets import Sets, describe_rows
from medart_cli.classify.splits import draw_per_class, labels_of
from medart_cli.data.cache import make_cache, try_cache
from medart_cli.data.checkpoint import write_folder
from medart_cli.data.files import draft_of
from medart_cli.data.finished import forget_finished, note_finished
from medart_cli.data.manifest import write_manifest
from medart_cli.data.output import Output, open_output, write_text
from medart_cli.data.profiles import read_profile
from medart_cli.data.splits import groups_of, split_groups
from medart_cli.errors import ConfigError, RunError
from medart_cli.log import log, progress
from medart_cli.models.backbone import Backbone, load_backbone
from medart_cli.models.classifier import check_backbone, resize_input, save_classifier
from medart_cli.models.device import (
    DTYPES,
    build_generator,
    find_device,
    find_precision,
    hush_libraries,
)

LEAST_VAL = 10  # images (or groups) a class; fewer cannot tell which epoch is best
WARM_UP = 0.1  # share of the steps in which the learning rate rises


SPLIT_NAME = "split.jsonl"


@dataclass(frozen=True)
class Setup:
    """What every training of a run shares."""

    config: ClassifyConfig
    classes: list[str]
    backbone: Backbone
    device: torch.device
    precision: str
    flips: bool


@dataclass(frozen=True)
class Phase:
    """One training, or the first or second half of one.

    Attributes:
        train: The images to learn from.
        val: The images for early stopping, if there are enough.
        size: How many images an epoch draws.
    """

    train: Images
    val: Images | None
    size: int


def train_regimes(
    config: ClassifyConfig, sets: Sets, output: Output, made_of: str | None
) -> dict[str, Any]:
    """Train each regime with each seed, test all on the same images, and write the results.

    Args:
        config: The options.
        sets: The images, kept apart.
        output: The folder.
        made_of: A hash over all that the results depend on, where it can be told.
    """
    hush_libraries("transformers")
    device = find_device(config.device)
    precision = find_precision(config.precision, device)
    flips = read_profile(config.profile).flips
    cache = make_cache(config.cache) if config.freeze or config.cache else try_cache()
    backbone = load_backbone(
        config.backbone, device=device, offline=config.offline, option="--backbone"
    )
    backbone = resize_input(backbone, config.image_size)
    check_backbone(backbone)
    also = [build_extractor(backbone)] if config.freeze else []
    sets, same = drop_same(config, sets, cache, also)
    with open_output(output):
        forget_finished(config.out)
        keep_split(config, sets)
        write_manifest(config.out / "duplicates.jsonl", same)
        images, lost = load_sets(config, sets, backbone, cache if config.freeze else None)
        setup = Setup(config, sets.classes, backbone, device, precision, flips)
        for regime in config.chosen_regimes:
            for seed in config.chosen_seeds:
                stop.check()
                if is_done(result_path(config.out, regime, seed), images["test"]):
                    log.info("%s, seed %d: already done", regime, seed)
                else:
                    train_and_test(setup, regime, seed, images)
        summary = finish(setup, sets, images, lost)
        if made_of is not None and not lost:
            note_finished(config.out, made_of, summary)
        return summary


def keep_split(config: ClassifyConfig, sets: Sets) -> None:
    """Write which image belongs to which set; a folder made from other images is refused."""
    path, rows = config.out / SPLIT_NAME, describe_rows(sets)
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            old = [json.loads(line) for line in file]
        for number, (then, now) in enumerate(zip(old, rows, strict=False)):
            if then != now:
                raise _changed(config.out, f"row {number + 1} was {then}, is now {now}")
        if len(old) != len(rows):
            raise _changed(config.out, f"there were {len(old)} rows, now there are {len(rows)}")
    write_manifest(path, rows)


def _changed(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{folder}: was written with other images: {what}; use another folder, or start over with "
        "--overwrite"
    )


def result_path(out: Path, regime: str, seed: int) -> Path:
    """Return where the test of one training is kept."""
    return out / "regimes" / regime / f"seed-{seed}.json"


def is_done(path: Path, test: Images) -> bool:
    """Say whether a training was finished and tested on exactly these images."""
    if not path.is_file():
        return False
    tested: list[str] = json.loads(path.read_text(encoding="utf-8"))["test_images"]
    return tested == [row.sha256 for row in test.rows]


def train_and_test(setup: Setup, regime: str, seed: int, images: dict[str, Images]) -> None:
    """Train one regime with one seed, and write what it makes of the test images."""
    config = setup.config
    phases = plan_phases(config, regime, seed, images)
    first = phases[0].train
    head = fit_probe(
        first.features,
        first.labels.numpy(),
        len(setup.classes),
        balance=config.balance != "none",
        worth=plan_phases(config, "real", seed, images)[0].size,
    )
    network = build_network(setup.backbone, head)
    facts: list[dict[str, Any]] = []
    if config.freeze:
        with torch.inference_mode():
            logits = head(torch.from_numpy(images["test"].features))  # (N, K)
    else:
        for number, phase in enumerate(phases):
            generator = build_generator(seed, "classify", regime, number)
            name = f"{regime}, seed {seed}"
            with torch.backends.cudnn.flags(enabled=True, deterministic=True):
                facts.append(train_phase(setup, network, phase, generator, name))
        logits = compute_logits(setup, network, images["test"])
    path = result_path(config.out, regime, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    if seed == config.seed:
        save = partial(_save_network, setup, network)
        write_folder(path.parent / "model", save)
    result = {
        "regime": regime,
        "seed": seed,
        "train_images": [len(phase.train.labels) for phase in phases],
        "val_images": [0 if phase.val is None else len(phase.val.labels) for phase in phases],
        "steps": [] if config.freeze else [count_phase_steps(config, phase) for phase in phases],
        "training": facts,
        "test_images": [row.sha256 for row in images["test"].rows],
        "probabilities": logits.double().softmax(dim=1).tolist(),
    }
    write_text(path, json.dumps(result))
    right = (logits.argmax(dim=1) == images["test"].labels).float().mean().item()
    log.info("%s, seed %d: accuracy %.3f", regime, seed, right)


def _save_network(setup: Setup, network: nn.Sequential, folder: Path) -> None:
    save_classifier(folder, setup.backbone, network, setup.classes)


def plan_phases(
    config: ClassifyConfig, regime: str, seed: int, images: dict[str, Images]
) -> list[Phase]:
    """Say what a regime learns from, in order, and how many images its epochs draw.

    `real` is what it is without synthetic images. With `--equal steps` the epochs of all other
    regimes are as long as those of `mix`; those of the halves of `pretrain` are so together.
    """
    real = images["train"]
    if config.label_budget is not None:
        real = real.pick(draw_per_class(labels_of(real.rows), config.label_budget, seed))
    train, val = hold_out(config, real, seed)
    own = Phase(train, val, len(train.labels))
    if regime == "real":
        return [own]
    synthetic = added = images["synthetic"]
    if config.ratio is not None:
        counts = Counter(labels_of(real.rows))
        wanted = {name: math.ceil(config.ratio * count) for name, count in counts.items()}
        added = synthetic.pick(draw_per_class(labels_of(synthetic.rows), wanted, seed))
    both = own.size + len(added.labels)
    if regime == "mix":
        return [Phase(train.join(added), val, both)]
    if regime == "control":
        return [Phase(train, val, both)]
    drawn, drawn_val = hold_out(config, synthetic, seed)
    alone = regime == "synthetic"
    size = both if alone else len(added.labels)
    first = Phase(drawn, drawn_val, size if config.equal == "steps" else len(drawn.labels))
    return [first] if alone else [first, own]


def count_phase_steps(config: ClassifyConfig, phase: Phase) -> int:
    """Count the optimizer steps of a phase that is not stopped early."""
    return config.epochs * math.ceil(phase.size / config.batch_size)


def hold_out(config: ClassifyConfig, images: Images, seed: int) -> tuple[Images, Images | None]:
    """Hold whole groups out for early stopping, where each class has enough of them."""
    labels, groups = labels_of(images.rows), groups_of(images.rows)
    pairs = set(zip(labels, groups, strict=True))
    rarest = min(Counter(label for label, _ in pairs).values())
    if config.freeze or config.val_fraction * rarest < LEAST_VAL:
        return images, None
    train, val = split_groups(labels, groups, config.val_fraction, seed)
    return images.pick(train), images.pick(val)


def train_phase(
    setup: Setup,
    network: nn.Sequential,
    phase: Phase,
    generator: torch.Generator,
    name: str,
) -> dict[str, Any]:
    """Train all weights; the best state on the held-out images is kept, that of the start too."""
    config, train, val = setup.config, phase.train, phase.val
    weights = None
    if config.balance == "weights":
        weights = weigh_classes(train.labels, len(setup.classes)).to(setup.device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    total = count_phase_steps(config, phase)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate_at, total=total))
    scaler = torch.amp.GradScaler(setup.device.type, enabled=setup.precision == "fp16")
    best = Best(network, validate(setup, network, val))
    losses: list[float] = []
    with progress(name, total) as bar:
        for epoch in range(1, config.epochs + 1):
            running = 0.0
            for inputs, labels in draw_batches(setup, phase, generator):
                stop.check()
                with autocast(setup):
                    loss = functional.cross_entropy(
                        network(inputs), labels, weights, label_smoothing=config.label_smoothing
                    )
                torch.autograd.backward(scaler.scale(loss))
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(network.parameters(), 1.0, error_if_nonfinite=False)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
                running += loss.item() * len(labels) / phase.size
                bar.advance({"loss": loss.item()})
            if not math.isfinite(running):
                raise RunError(f"the loss is {running} in epoch {epoch}; lower --learning-rate")
            losses.append(running)
            if best.is_over(network, validate(setup, network, val), config.patience):
                break
    best.restore(network)
    return {
        "epochs": len(losses),
        "best_epoch": best.epoch,
        "losses": losses,
        "val_accuracy": None if best.score is None else best.score[0],
    }


def learning_rate_at(step: int, *, total: int) -> float:
    """Give the share of the highest learning rate: a short rise, then half a cosine."""
    rise = min(1.0, (step + 1) / max(1.0, WARM_UP * total))
    return rise * 0.5 * (1 + math.cos(math.pi * step / total))


def autocast(setup: Setup) -> torch.autocast:
    """Compute in the run's number format; weights stay float32."""
    dtype = DTYPES[setup.precision]
    return torch.autocast(setup.device.type, dtype=dtype, enabled=dtype != torch.float32)


def draw_batches(
    setup: Setup, phase: Phase, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the batches of one epoch, varied where that is safe."""
    config, images = setup.config, phase.train
    order = draw_order(
        *(images.labels, len(setup.classes), generator, phase.size),
        balance=config.balance == "sampling",
    )
    for picks in torch.split(order, config.batch_size):
        inputs = images.pixels[picks].to(setup.device).float()  # (B, 3, S, S)
        if config.augment:
            inputs = augment(inputs, generator, flips=setup.flips)
        inputs = inputs.to(memory_format=torch.channels_last)
        yield inputs, images.labels[picks].to(setup.device)


class Best:
    """The state with the best validation score so far; without validation, the last one."""

    def __init__(self, network: nn.Module, score: tuple[float, float] | None) -> None:
        """Begin with the untrained network."""
        self.score, self.epoch, self._seen = score, 0, 0
        self._state = copy.deepcopy(network.state_dict()) if score is not None else None

    def is_over(self, network: nn.Module, score: tuple[float, float] | None, patience: int) -> bool:
        """Take note of an epoch; say whether `patience` of them brought nothing better."""
        self._seen += 1
        if score is None or self.score is None:
            self.epoch = self._seen
        elif score > self.score:
            self.score, self.epoch = score, self._seen
            self._state = copy.deepcopy(network.state_dict())
        return self._seen - self.epoch >= patience

    def restore(self, network: nn.Module) -> None:
        """Put the best state back."""
        if self._state is not None:
            network.load_state_dict(self._state)


def validate(
    setup: Setup, network: nn.Sequential, images: Images | None
) -> tuple[float, float] | None:
    """Score held-out images: balanced accuracy, and for ties the loss, negative; None for none."""
    if images is None:
        return None
    logits = compute_logits(setup, network, images)
    right = (logits.argmax(dim=1) == images.labels).float()
    weights = weigh_classes(images.labels, len(setup.classes))
    accuracy = (right * weights[images.labels]).mean().item()
    return accuracy, -functional.cross_entropy(logits, images.labels, weight=weights).item()


def compute_logits(setup: Setup, network: nn.Sequential, images: Images) -> Tensor:
    """Run the network over images as they are: (N, K) float32 on the CPU."""
    parts = []
    with torch.inference_mode(), autocast(setup):
        for batch in torch.split(images.pixels, setup.config.batch_size):
            stop.check()
            inputs = batch.to(setup.device).float().to(memory_format=torch.channels_last)
            parts.append(network(inputs).float().cpu())
    return torch.cat(parts)


def finish(setup: Setup, sets: Sets, images: dict[str, Images], lost: int) -> dict[str, Any]:
    """Compare the regimes, write results, and put the recommended classifier at the top."""
    config = setup.config
    results = {
        regime: [
            json.loads(result_path(config.out, regime, seed).read_text(encoding="utf-8"))
            for seed in config.chosen_seeds
        ]
        for regime in config.chosen_regimes
    }
    facts = {
        "classes": sets.classes,
        "backbone": setup.backbone.name,
        "trained": "last layer" if config.freeze else "all weights",
        "image_size": setup.backbone.image_size,
        "label_budget": config.label_budget,
        "equal": None if config.freeze or config.synthetic is None else config.equal,
        "inputs": [account.facts() for account in sets.accounts],
        "checks": sets.checks,
        "failures": sets.failures + lost,
        "demonstration": any(row.demonstration for part in images.values() for row in part.rows),
    }
    summary = write_results(config, results, images, facts, sets.cuts)
    source = config.out / "regimes" / summary["classifier"]["regime"] / "model"
    for path in sorted(source.iterdir()):
        with draft_of(config.out / path.name) as draft:
            shutil.copyfile(path, draft)
    return summary
