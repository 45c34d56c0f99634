"""How long the captions of a run are as its steps read them: counted where the tokenizer is here.

A batch is as long as the longest caption in it, of which a part is shown as the empty one; with
`--compile` all are of one length. The tokenizer alone is loaded, and no text encoder.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medart_cli.data.manifest import Record
from medart_cli.data.profiles import read_profile
from medart_cli.errors import MissingModelError
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.models.bases import Kind, find_base, load_tokenizer
from medart_cli.models.compiled import fix_length
from medart_cli.models.families import Family


@dataclass(frozen=True)
class CaptionLengths:
    """How many embeddings the captions of a run have.

    Attributes:
        step: A batch of the noise loss, on average.
        color: A batch of the color loss, on average.
        longest: No batch is longer.
        stored: All captions together, each once.
        how: `counted`; `template` where some images have no caption, and get the template caption;
            or `full length` where there is no tokenizer to count with.
    """

    step: int
    color: int
    longest: int
    stored: int
    how: str

    def word(self) -> str:
        """Say in a line of an estimate what was counted."""
        if self.how == "full length":
            return f"captions counted at full length, {self.longest} tokens"
        kind = "template captions" if self.how == "template" else "captions"
        return f"{kind} of {self.step} tokens, as the batches have them"


def count_captions(
    config: FinetuneConfig,
    kind: Kind,
    family: Family,
    rows: Sequence[Record],
    held: Sequence[Record] = (),
) -> CaptionLengths:
    """Count the embeddings of the captions of a run.

    Args:
        config: Its options.
        kind: Of its base.
        family: Of its base.
        rows: The training images; those without text get the template caption.
        held: The images that are held out.
    """
    profile = read_profile(config.profile, config.classes)

    def word(row: Record) -> str:
        return profile.simple_caption(row.label) if row.text is None else row.text

    texts, others = [word(row) for row in rows], {word(row) for row in held}
    folder = find_tokenizer(config)
    if folder is None:
        full = kind.tokens
        return CaptionLengths(full, full, full, full * len({*texts, *others, ""}), "full length")
    distinct = sorted({*texts, *others, ""})
    counts = family.count_embeds(load_tokenizer(folder), distinct, kind.tokens)
    known = dict(zip(distinct, counts, strict=True))
    lengths = np.array([known[text] for text in texts])
    plain = any(row.text is None for row in rows)
    # The captions that an image will get later may be of any length: memory must do for them.
    longest = kind.tokens if plain else max(counts)
    how = "template" if plain else "counted"
    stored = sum(counts)
    if config.compile:
        fixed = fix_length(max(counts), kind.tokens)
        return CaptionLengths(fixed, fixed, max(longest, fixed), stored, how)
    weights = weigh_rows([row.label or "" for row in rows], balance=config.balance)
    dropped = config.caption_dropout
    step = average_longest(
        np.append(lengths, known[""]), np.append((1 - dropped) * weights, dropped),
        config.batch_size,
    )  # fmt: skip
    color = average_longest(np.maximum(lengths, known[""]), weights, config.batch_size)
    return CaptionLengths(round(step), round(color), longest, stored, how)


def find_tokenizer(config: FinetuneConfig) -> Path | None:
    """Return the folder of the base where its tokenizer is on this machine; None elsewhere."""
    try:
        return find_base(config.base, offline=True, parts=("tokenizer",))
    except MissingModelError:
        return None


def weigh_rows(labels: Sequence[str], *, balance: bool) -> NDArray[np.float64]:
    """Return how often each row is trained on, as a share: alike, or with `balance` its label."""
    if not balance:
        return np.full(len(labels), 1 / len(labels))
    counts = Counter(labels)
    return np.array([1 / (len(counts) * counts[label]) for label in labels])


def average_longest(lengths: NDArray[np.int64], weights: NDArray[np.float64], rows: int) -> float:
    """Return the mean of the longest of some rows, each drawn by itself.

    Args:
        lengths: Of what a row may be, (N,).
        weights: How often it is that, (N,); their sum is 1.
        rows: In a batch.
    """
    order = np.argsort(lengths)
    shorter = np.cumsum(weights[order]) ** rows  # the chance that no row of a batch is longer
    return float(lengths[order] @ np.diff(shorter, prepend=0))
