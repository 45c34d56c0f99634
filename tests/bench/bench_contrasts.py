"""How often `medart study` gives a wrong answer where nothing differs, and finds what does.

    python -m tests.bench.bench_contrasts      # 2 minutes

In the first table a difference is 0 (or `shift`) plus what the test images do to it, which is the
same for all seeds, plus what each seed does. Its standard error by the test images is known with an
error of its own, as a jackknife over 60 of them gives it. Deviations are relative to that of one
seed.

In the second, two arms draw points around the real ones, off by a distance that each seed draws
anew, wide or narrow as seeds of short runs are: both arms as far off, or one half as far. Energy
distances are compared, or their roots.
"""

import numpy as np

from medart_cli.metrics.kernel import energy_jackknife, subtract, take_root
from medart_cli.study.contrasts import contrast

STUDIES, IMAGES = 4000, 60
POINT_STUDIES, WIDTH, SHIFTED = 1000, 6, 3  # numbers of a point, and how many of them are off
COMMON, OWN = 0.4, 0.2  # deviation of the logarithm of a seed's distance: in both arms, in one


def count_shown(generator, seeds, by_images, shift):
    """Return the share of studies that show a difference."""
    shown = 0
    for _ in range(STUDIES):
        each = shift + by_images * generator.standard_normal() + generator.standard_normal(seeds)
        known = by_images * np.sqrt(generator.chisquare(IMAGES - 1, seeds) / (IMAGES - 1))
        errors = known.tolist() if by_images else []
        shown += contrast(each.tolist(), errors, IMAGES).sign != 0
    return shown / STUDIES


def compare_points(generator, seeds, images, distance, ratio):
    """Return whether one study shows a difference, by energy distances and by their roots."""
    real, groups = generator.standard_normal((images, WIDTH)), (np.arange(images),) * 2
    found = {"energies": [], "roots": []}
    for _ in range(seeds):
        far = distance * np.exp(COMMON * generator.standard_normal())
        parts = []
        for own in (ratio, 1.0):
            drawn = generator.standard_normal((images, WIDTH))
            drawn[:, :SHIFTED] += far * own * np.exp(OWN * generator.standard_normal())
            parts.append(energy_jackknife(real, drawn, groups))
        found["energies"].append(subtract(*parts))
        found["roots"].append(subtract(*map(take_root, parts)))
    return [
        contrast([it.value for it in each], [it.error for it in each], images).sign != 0
        for each in found.values()
    ]


def print_points(generator):
    """Print a table: images, seeds, distance, and the share of studies that show a difference."""
    print("| images | seeds | distance | none: energies | roots | half: energies | roots |")
    print("|---|---|---|---|---|---|---|")
    for images in (20, 60):
        for seeds in (2, 3, 5):
            for distance in (0.0, 0.2, 0.5, 2.0):
                shares = [
                    np.mean([
                        compare_points(generator, seeds, images, distance, ratio)
                        for _ in range(POINT_STUDIES)
                    ], axis=0)
                    for ratio in (1.0, 0.5)
                ]  # fmt: skip
                cells = " | ".join(f"{100 * share:.1f} %" for share in np.concatenate(shares))
                print(f"| {images} | {seeds} | {distance:g} | {cells} |", flush=True)


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
    print()
    print_points(generator)


if __name__ == "__main__":
    main()
