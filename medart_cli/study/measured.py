"""How methods.md tells what was measured, and how arms were compared."""

import re
from collections.abc import Mapping

from medart_cli.data.numbers import plural
from medart_cli.metrics.color import FAMILY_WISE_ERROR
from medart_cli.metrics.distances import NEIGHBORS
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL
from medart_cli.study.figures import Facts
from medart_cli.study.markdown import (
    bullets,
    escape_markdown,
    join_words,
    name_arms,
    todo,
)
from medart_cli.study.trained import read_study_options
from medart_cli.study.verdict import word_caution, word_measure

NETWORK = re.compile(r"features of (.+) \(not FID")  # as evaluate names its own in a title
USE = ("accuracy_real", "accuracy_mix", "gain")  # measures of what synthetic images are good for


def tell_measures(facts: Facts) -> str:
    """Describe each measure that the study has, and what real images give in it."""
    titles = {item["key"]: item["title"] for item in facts["measures"]}
    told = _describe_distances() | _describe_colors() | _describe_uses(facts)
    if any("distance" in found for found in facts["differences"].values()):
        titles["distance"] = "energy distance in the features"
    found = [key for key in told if key in titles] + [key for key in titles if key not in told]
    lines = [
        f"**{escape_markdown(titles[key])}**: {told.get(key) or todo('say what it is')}"
        for key in found
    ]
    repeats = read_study_options(facts, "evaluate")["floor_repeats"]
    text = (
        f"Synthetic images were compared with the test images. {_tell_network(facts, titles)} The "
        "baseline is what real images give. Of the distances and the recall it is the mean over "
        f"{repeats} random splits of the test images into halves, of the color energy the highest "
        "of such splits; halves are fewer images, which alone makes distances larger. Of the gaps "
        "of colors it is what permutations of both sets stay below, in all measures at once, in "
        f"all but {100 * FAMILY_WISE_ERROR:g} % of cases."
    )
    return "\n\n".join(["### Measures", text, bullets(lines)])


def _tell_network(facts: Facts, titles: Mapping[str, str]) -> str:
    """Name the network whose features are compared; FID and KID are Inception's alone."""
    if titles.get("frechet") == "FID":
        return "Features are those of Inception, computed as clean-fid does [@cleanfid]."
    match = NETWORK.search(facts["features"])
    name = match[1] if match else facts["features"]
    return (
        f"Features are those of {_cite_network(name)}; distances in them are no FID or KID, and "
        "not to be compared with such."
    )


def _cite_network(name: str) -> str:
    key = next((key for key in ("efficientnet", "dinov2") if key in name.lower()), None)
    return f"{escape_markdown(name)} {f'[@{key}]' if key else todo('cite this network')}"


def _describe_distances() -> dict[str, str]:
    return {
        "distance": "the energy distance [@energy] in whitened features, unbiased for few images; "
        "it decides which arm is nearer to the test images.",
        "frechet": "the Frechet distance of two normal distributions, fitted to the features "
        "[@fid]. It is biased upward for few images: compare it at equal numbers only.",
        "kernel": "the squared maximum mean discrepancy with a cubic kernel [@kid], unbiased.",
        "recall": "the share of test images that lie among the synthetic ones, that is, nearer to "
        f"one of them than its neighbor number {NEIGHBORS} is [@recall].",
        "vendi": "the Vendi score [@vendi], an effective number of different images.",
    }


def _describe_colors() -> dict[str, str]:
    return {
        "color_mean": "by how much the mean colors of both sets differ: absolute values, mean of "
        "red, green and blue, in units of the full range.",
        "color_spread": "the same for the spread of the colors.",
        "color_energy": "the energy distance [@energy] between the images' means and standard "
        "deviations of the color channels.",
        "color_variety": "the standard deviation over images of their channel means, drawn over "
        "real: 1 is as varied as real images, less is more uniform.",
    }


def _describe_uses(facts: Facts) -> dict[str, str]:
    """Describe what is measured of copies, and of classifiers."""
    keys = {item["key"] for item in facts["measures"]}
    rate = 100 * read_study_options(facts, "evaluate")["copy_rate"]
    found = {
        "copies": "the share of synthetic images that are much nearer to one training image than "
        f"to the next ones. The threshold is set to call at most {rate:g} % of unseen real images "
        "copies. Crops, other photographs of the same patient and copied details mostly go unseen.",
        "copied": "the share of training images (or of patients, where known) that synthetic "
        "images are near-copies of.",
        "membership": "the area under the ROC curve of how much fine-tuning lowered an image's "
        "denoising loss, training images against images that were not trained on; 0.5 is guessing.",
        "class_share": "the share of synthetic images that a classifier puts in the class of their "
        "caption.",
    }
    if not keys & {*USE}:
        return found
    it = read_study_options(facts, "classify")
    way = "the last layer trained" if it["freeze"] else f"all layers trained, {it['epochs']} epochs"
    against = (
        "of a control that takes as many optimizer steps on real images"
        if "control" in it["regimes"]
        else "of training on the real images alone"
    )
    return found | {
        "accuracy_real": "balanced accuracy, on the test images, of a classifier that was trained "
        f"on the real training images alone ({_cite_network(it['backbone'])}, {way}, "
        f"{plural(it['seeds'], 'training')} per unit).",
        "accuracy_mix": "the same of a classifier that was trained on real and synthetic images.",
        "gain": f"the balanced accuracy with synthetic images less that {against}.",
    }


def tell_statistics(facts: Facts) -> str:
    """Say how arms are compared, and what an interval holds for."""
    seeds, reference = facts["seeds"], name_arms(facts)[facts["reference"]]
    parts = [f"Each arm was run with {plural(len(seeds), 'seed')} ({', '.join(map(str, seeds))})."]
    if len(seeds) == 1:
        parts.append("One seed leaves no interval, and no difference is called shown.")
    else:
        parts.append("Means are over seeds, with the standard deviation between them.")
        parts += _tell_pairs(facts, reference)
        parts += _tell_variance(facts)
    if any(item["better"] == "one" for item in facts["measures"]) and facts["differences"]:
        parts.append("Where 1 is best, distances from 1 are compared.")
    if any("interval" in item["figures"] for item in facts["verdicts"]):
        parts.append(escape_markdown(word_caution(facts["verdicts"])))
    return f"### Statistics\n\n{' '.join(parts)}"


def _tell_pairs(facts: Facts, reference: str) -> list[str]:
    if not facts["differences"]:
        return []
    return [
        f"Each arm is compared with {reference} in pairs, seed by seed: the mean of the "
        f"differences, the arm less {reference}, with a {CONFIDENCE_LEVEL:.0%} interval by "
        "Student's t. A difference is shown if its interval leaves out zero (two-sided, at the "
        f"level {1 - CONFIDENCE_LEVEL:.2g}); else it is not shown, which is no proof that there is "
        "none. Intervals are not corrected for their number."
    ]


def _tell_variance(facts: Facts) -> list[str]:
    """Say which differences have an error by the test images besides that between seeds."""
    found: dict[str, int] = {}
    for each in facts["differences"].values():
        found |= {word_measure(key, facts): it["images"] for key, it in each.items()}
    gains = [it["images"] for it in facts["gains"].values() if it is not None]
    if gains:
        found["what synthetic images add to a classifier"] = max(gains)
    whole = [name for name, images in found.items() if images]
    if not found:
        return []
    if not whole:
        return [
            "The variance is that between seeds alone: intervals hold for these test images, and "
            "not for others."
        ]
    unit = "test image" if facts["real"]["patients"] is None else "test patient"
    rest = " Intervals of the other measures are by the seeds alone, and hold for these images."
    return [
        f"The variance of such a mean has two parts in {escape_markdown(join_words(whole))}: that "
        "between seeds, over their number, and that by the test images "
        f"({plural(max(found.values()), unit)}), which more seeds do not make smaller; each "
        "has the quantile of its own degrees of freedom, weighted by the variances [@cochran]."
        + (rest if len(whole) < len(found) else "")
    ]
