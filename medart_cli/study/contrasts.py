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

from medart_cli.metrics.gaps import POWER
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL

MOST_SEEDS = 50  # a study with more is another kind of study
FACTORS = (2, 3, 5, 10, 20, 50)  # by which more test images might be asked for

ALIKE = 1e-9  # of a difference: seeds that are nearer to each other differ by rounding alone
POWERFUL = "a difference of this size would be shown in 4 of 5 studies"


@dataclass(frozen=True)
class Contrast:
    """A mean difference over seeds, an arm less the reference.

    Attributes:
        value: The mean difference.
        each: That of each seed.
        low: Lower end of the 95 % interval; None where it is unknown: of one seed, or where all
            give the very same difference, as shares of few images do.
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
    if value and not by_images and np.ptp(each) < ALIKE * abs(value):
        return Contrast(value, tuple(each), None, None, 0.0, by_images, images)
    reach = find_reach(by_seeds, count, by_images, images)
    return Contrast(value, tuple(each), value - reach, value + reach, by_seeds, by_images, images)


def find_reach(
    by_seeds: float, seeds: int, by_images: float, images: int, level: float = CONFIDENCE_LEVEL
) -> float:
    """Return half the width of the interval of a mean over seeds.

    Each variance has Student's factor for its own degrees of freedom, and these are averaged with
    the variances as weights. Degrees by Satterthwaite would be wrong here: with two seeds, whose
    variance is often small by chance, up to 12 % of such intervals miss
    (tests/bench/bench_contrasts.py).

    Args:
        by_seeds: Variance of the difference of a single seed.
        seeds: How many there are, 2 or more.
        by_images: Variance of the mean by the test images.
        images: How many independent ones there are.
        level: Of the interval.

    Source:
        Cochran 1964, Biometrics 20, 191-195.
    """
    parts = [(by_seeds / seeds, seeds - 1)]
    parts += [(by_images, images - 1)] if by_images and images > 1 else []
    variance = sum(part for part, _ in parts)
    if not variance:
        return 0.0
    tail = (1 + level) / 2
    weighted = sum(part * float(stats.t.ppf(tail, degrees)) for part, degrees in parts)
    return weighted / math.sqrt(variance)


def find_needed(found: Contrast) -> str | None:
    """Say how many seeds or test images would show a difference of the size that was seen.

    Returns:
        A text; None where the difference is shown already.
    """
    if found.sign:
        return None
    have = len(found.each)
    if found.seeds_variance is None:
        return "one seed cannot tell; run more with --seeds"
    if found.low is None:
        return "all seeds gave the same, which is too few to tell how they differ; run more"
    if found.value:
        for seeds in range(have + 1, MOST_SEEDS + 1):
            if _would_show(found, seeds, 1):
                return (
                    f"a difference of this size would be shown in 4 of 5 studies of {seeds} seeds"
                )
        for factor in FACTORS if found.images_variance else ():
            for seeds in (have, 2 * have, 4 * have):
                if _would_show(found, seeds, factor):
                    return (
                        f"{POWERFUL} of {factor} times as many test images (or patients) and "
                        f"{seeds} seeds"
                    )
    return "no number of seeds in reach would show a difference as small as the one seen"


def _would_show(found: Contrast, seeds: int, factor: int) -> bool:
    """Say whether a study would show the difference that was seen in `POWER` of cases or more."""
    by_seeds, by_images = found.seeds_variance or 0.0, found.images_variance / factor
    spread = by_seeds, seeds, by_images, found.images * factor
    # The mean is beyond its interval, and by chance nearer to zero than it really is.
    return abs(found.value) > find_reach(*spread) + find_reach(*spread, level=2 * POWER - 1)
