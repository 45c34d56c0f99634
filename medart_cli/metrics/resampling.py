"""Resampling of images by patient: images of one patient come and go together."""

import numpy as np

from medart_cli.metrics.arrays import Indices, Integers

CONFIDENCE_LEVEL = 0.95  # of an interval, where nothing else is said


def draw_counts(groups: Indices, repeats: int, generator: np.random.Generator) -> Integers:
    """Draw as many groups as there are with replacement, `repeats` times.

    Args:
        groups: Code of each row's group, (N,); where no two are alike, rows are drawn.
        repeats: How many resamples.
        generator: Draws.

    Returns:
        How often each row is in each resample, (repeats, N). Where groups differ in size the
        resamples do too.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    count = int(codes.max()) + 1
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=repeats)
    return np.asarray(drawn[:, codes], dtype=np.int64)
