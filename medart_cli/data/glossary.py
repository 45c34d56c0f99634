"""Words of the reports that a physician may not know, each explained in one line, once a page."""

import re

# What a page shows of the user's: names and captions of images, whose words are not its own.
SHOWN_DATA = re.compile(r"<(\w+) data-shown.*?</\1>", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
# What a word is called, how it stands in a text, and what it means.
TERMS = tuple(
    (name, re.compile(pattern), meaning)
    for name, pattern, meaning in (
        ("n", r"\bn\b", "number of images"),
        (
            "Halves",
            r"\b[Hh]alves\b|\bhalf n\b",
            "the real images, split at random in two, patient by patient where patients are known, "
            "again and again; how far halves are from each other is what no generator can be "
            "expected to beat",
        ),
        ("Baseline (floor)", r"\b(?:[Bb]aseline|floor)\b",
         "what real images give among themselves"),
        ("More than chance", r"\b(?:more than (?:by )?chance|beyond chance|By chance:)",
         "more than luck alone gives among images from the same source"),
        ("95% interval", r"95 ?%", "the true value lies in it in 95 of 100 such studies"),
        ("Features", r"\b[Ff]eatures?\b", "numbers by which a network describes an image"),
        (
            "Frechet distance, FID",
            r"\b(?:Frechet|FID)\b",
            "how far two sets of images are apart in the features of a network, compared by mean "
            "and spread; 0 is none, and it is too large where images are few; FID with the "
            "Inception network",
        ),
        (
            "Kernel distance, KID",
            r"\b(?:[Kk]ernel|KID)\b",
            "the same question, answered by comparing images pair by pair, without error from "
            "small n; about 0, even below, where sets do not differ",
        ),
        (
            "Energy distance",
            r"\b[Ee]nergy\b",
            "how far two sets are apart: the mean distance between images of both, less that "
            "within each; 0 is none",
        ),
        (
            "Precision, density",
            r"\b(?:[Pp]recision|density)\b",
            "whether synthetic images lie where real ones are; 1 is best",
        ),
        (
            "Recall, coverage",
            r"\b(?:[Rr]ecall|[Cc]overage)\b",
            "which share of the real images has a synthetic one nearby; 1 is best",
        ),
        ("At infinite n", r"infinite n\b", "an estimate for sets without end, to compare studies"),
        ("Spread", r"\bspread\b", "the standard deviation within an image, its contrast"),
        ("Histogram", r"\bhistograms?\b", "how often each brightness of a color occurs"),
        (
            "Masked region",
            r"\b[Mm]asked region\b",
            "where masks mark the real images, on average over all masks; each place counts by "
            "the share of masks that cover it",
        ),
        ("Around the masked region", r"\baround (?:it|the masked region)\b",
         "the rest of the image; each place counts by the share of masks that leave it out"),
        ("Variety", r"\b[Vv]ariety\b", "how much images differ from each other in color"),
        ("Vendi score", r"\bVendi\b", "how many quite different images a set is worth"),
        ("Mode collapse", r"\b[Mm]ode collapse\b", "synthetic images are too much alike"),
        ("Near-copy", r"\b[Nn]ear-cop(?:y|ies)\b",
         "nearer to one real image than images of other patients are"),
        ("Membership", r"\b[Mm]embership\b",
         "whether the weights tell which images they were trained on"),
        ("AUC, AUROC", r"\bAU(?:C|ROC)\b",
         "how often the right one of two cases gets the higher score; 0.5 is guessing, 1 perfect"),
        ("p", r"\bp(?: =|-values?)",
         "how often chance alone would show as much; small is a sign that it is not chance"),
        ("Balanced accuracy", r"\b[Bb]alanced accuracy\b",
         "the share of images that are classified right, all classes counting alike"),
        ("Macro F1", r"\bmacro F1\b",
         "balance of cases found and of alarms that are right, mean of the classes"),
        ("Calibration error", r"\b[Cc]alibration\b",
         "by how much stated confidence and true accuracy differ; 0 is best"),
        ("Sensitivity", r"\b[Ss]ensitivity\b", "share of the cases of a class that are found"),
        ("Specificity", r"\b[Ss]pecificity\b", "share of the others that are not taken for it"),
        ("Bootstrap", r"\b[Bb]ootstrap\b",
         "how a result varies when the same images are drawn again with repeats"),
        ("Wilson interval", r"\bWilson\b", "a 95% interval of a share that holds for small n, too"),
        ("Regime", r"\b[Rr]egimes?\b", "on which images a classifier was trained"),
        ("control", r"\bcontrol\b", "real images alone, in as many steps as mix"),
        ("mix", r"\bmix\b", "real and synthetic images together"),
        ("pretrain", r"\bpretrain\b", "first on synthetic images, then on real ones"),
        ("Backbone", r"\b[Bb]ackbone\b", "the network that reads the images"),
        ("Seed", r"(?<![/-])\b[Ss]eeds?\b(?![/-])",
         "one repetition, with random choices of its own"),
        ("Arm", r"\b[Aa]rms?\b", "one way of fine-tuning among those compared"),
        ("LoRA, DoRA", r"\b(?:LoRA|DoRA)\b", "a few weights beside the frozen ones are trained"),
        ("HLDF", r"\bHLDF\b", "training with a loss on the colors of synthetic images"),
        ("Color score", r"\bcolor score\b",
         "HLDF by the energy distance of colors, in place of the published loss"),
        ("Text encoder", r"\btext encoder\b", "the part of the model that reads captions"),
        ("Kappa", r"\bkappa\b", "agreement of readers beyond chance; 1 is full, 0 none"),
        ("Held-out images", r"\b[Hh]eld-out\b", "real images that were not trained on"),
        ("Loss", r"\b[Ll]oss(?:es)?\b",
         "the error of the model when it removes noise from an image"),
        ("Optimizer step", r"\b[Oo]ptimizer steps?\b", "one correction of the weights"),
        ("Template caption", r"\b[Tt]emplate captions?\b", "a sentence made of the label alone"),
        ("Greedy", r"\b[Gg]reedy\b", "always the likeliest word, nothing random"),
    )
)  # fmt: skip


class Glossary:
    """The words of one page that were explained already."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def explain(self, part: str) -> list[tuple[str, str]]:
        """Explain the words that stand in a part of the page, and in none before.

        Args:
            part: HTML, or a text.

        Returns:
            Word and meaning, in the order in which they stand.
        """
        text = TAG.sub(" ", SHOWN_DATA.sub(" ", part))
        found = {
            match.start(): (name, meaning)
            for name, pattern, meaning in TERMS
            if name not in self._said and (match := pattern.search(text))
        }
        self._said.update(name for name, _ in found.values())
        return [found[place] for place in sorted(found)]
