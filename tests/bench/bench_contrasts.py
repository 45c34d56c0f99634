"""How often `medart study` gives a wrong answer where nothing differs, and finds what does.

    python -m tests.bench.bench_contrasts      # seconds

A difference is 0 (or `shift`) plus what the test images do to it, which is the same for all seeds,
plus what each seed does. Its standard error by the test images is known with an error of its own,
as a jackknife over 60 of them gives it. Deviations are relative to that of one seed.
"""

import numpy as np

from medart_cli.study.contrasts import contrast

STUDIES, IMAGES = 4000, 60


def count_shown(generator, seeds, by_images, shift):
    """Return the share of studies that show a difference."""
    shown = 0
    for _ in range(STUDIES):
        each = shift + by_images * generator.standard_normal() + generator.standard_normal(seeds)
        known = by_images * np.sqrt(generator.chisquare(IMAGES - 1, seeds) / (IMAGES - 1))
        errors = known.tolist() if by_images else []
        shown += contrast(each.tolist(), errors, IMAGES).sign != 0
    return shown / STUDIES


def main():
    """Print a table: seeds, the part of the test images, and the share by true difference."""
    generator = np.random.default_rng(0)
    print("| seeds | by test images | none | 1 | 2 | 4 | 8 |")
    print("|---|---|---|---|---|---|---|")
    for seeds in (2, 3, 5, 10):
        for by_images in (0.0, 0.5, 2.0):
            shares = [count_shown(generator, seeds, by_images, it) for it in (0, 1, 2, 4, 8)]
            cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
            print(f"| {seeds} | {by_images:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
