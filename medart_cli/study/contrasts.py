"""How an arm differs from the reference: over seeds, and over the images that it is tested on.

Two things make a difference uncertain. Another seed trains other weights and draws other images;
and other test images would measure it otherwise. The first is seen in the spread over the seeds,
the second is known within each seed, where both arms are measured on the same images. The same test
images serve all seeds, so more seeds do not make the second smaller.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from medart_cli.metrics.resampling import CONFIDENCE_LEVEL

MOST_SEEDS = 50  # a study with more is another kind of study
FACTORS = (2, 3, 5, 10, 20, 50)  # by which more test images might be asked for


@dataclass(frozen=True)
class Contrast:
    """A mean difference over seeds, an arm less the reference.

    Attributes:
        value: The mean difference.
        each: That of each seed.
        low: Lower end of the 95 % interval; None where one seed leaves it unknown.
        high: Upper end.
        seeds_variance: Variance of a single seed's difference; None for one seed.
        images_variance: Variance of the mean by the test images, the same whatever the seeds.
        images: How many test images, or patients, there were; 0 where only seeds are looked at.
    """

    value: float
    each: tuple[float, ...]
    low: float | None
    high: float | None
    seeds_variance: float | None
    images_variance: float
    images: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out zero, else 0: no difference is shown."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def contrast(each: Sequence[float], errors: Sequence[float] = (), images: int = 0) -> Contrast:
    """Compare an arm with the reference by the differences of their pairs, one for each seed.

    Args:
        each: The difference of each seed.
        errors: Standard error of each by the test images; none where it is unknown, and then the
            interval holds for these images alone.
        images: How many independent test images (or patients) there are.

    Returns:
        The mean with its interval, `find_reach` to both sides. What a seed draws is in both
        variances: the interval is a little wide rather than narrow.
    """
    count, value = len(each), float(np.mean(each))
    by_images = float(np.mean(np.square(errors))) if len(errors) else 0.0
    if count < 2:
        return Contrast(value, tuple(each), None, None, None, by_images, images)
    by_seeds = float(np.var(each, ddof=1))
    reach = find_reach(by_seeds, count, by_images, images)
    return Contrast(value, tuple(each), value - reach, value + reach, by_seeds, by_images, images)


def find_reach(by_seeds: float, seeds: int, by_images: float, images: int) -> float:
    """Return half the width of the 95 % interval of a mean over seeds.

    Each variance has Student's factor for its own degrees of freedom, and these are averaged with
    the variances as weights. Degrees by Satterthwaite would be wrong here: with two seeds, whose
    variance is often small by chance, up to 12 % of such intervals miss
    (tests/bench/bench_contrasts.py).

    Args:
        by_seeds: Variance of the difference of a single seed.
        seeds: How many there are, 2 or more.
        by_images: Variance of the mean by the test images.
        images: How many independent ones there are.

    Source:
        Cochran 1964, Biometrics 20, 191-195.
    """
    parts = [(by_seeds / seeds, seeds - 1)]
    parts += [(by_images, images - 1)] if by_images and images > 1 else []
    variance = sum(part for part, _ in parts)
    if not variance:
        return 0.0
    tail = (1 + CONFIDENCE_LEVEL) / 2
    weighted = sum(part * float(stats.t.ppf(tail, degrees)) for part, degrees in parts)
    return weighted / math.sqrt(variance)


def find_needed(found: Contrast) -> str | None:
    """Say how many seeds or test images would show a difference of the size that was seen.

    Returns:
        A text; None where the difference is shown already.
    """
    if found.sign:
        return None
    if found.seeds_variance is None:
        return "one seed cannot tell; run more with --seeds"
    have = len(found.each)
    if found.value:
        for seeds in range(have + 1, MOST_SEEDS + 1):
            if _is_shown(found, seeds, 1):
                return f"about {seeds} seeds would settle a difference of this size"
        for factor in FACTORS if found.images_variance else ():
            for seeds in (have, 2 * have, 4 * have):
                if _is_shown(found, seeds, factor):
                    more = f" and {seeds} seeds" if seeds > have else ""
                    return (
                        f"about {factor * found.images} test images{more} would settle a "
                        "difference of this size"
                    )
    return "no number of seeds in reach would settle a difference as small as the one seen"


def _is_shown(found: Contrast, seeds: int, factor: int) -> bool:
    by_images, images = found.images_variance / factor, found.images * factor
    return abs(found.value) > find_reach(found.seeds_variance or 0.0, seeds, by_images, images)
