import re
from copy import deepcopy
from dataclasses import asdict
from typing import get_args

import pytest

from medart_cli.data.page import DEMONSTRATION_NOTICE
from medart_cli.models.bases import KINDS
from medart_cli.models.optimizers import OPTIMIZERS, OptimizerName
from medart_cli.study.arms import ARMS, Arm
from medart_cli.study.contrasts import contrast
from medart_cli.study.markdown import escape_markdown
from medart_cli.study.methods import write_methods as write
from medart_cli.study.references import REFERENCES, number_references
from medart_cli.study.trained import WORKS
from medart_cli.study.verdict import tell_verdicts

LABELS = {"nevus": 20, "melanoma": 10}
SCORE = {
    "loss": "score", "statistics": ["moments"], "every": 25, "steps": 13, "draws": 3,
    "with_gradient": 2, "grad_steps": 4, "weight": 0.7,
}  # fmt: skip
PUBLISHED = SCORE | {"loss": "published", "draws": 1, "with_gradient": 1, "grad_steps": 13}


def build_run(**changes):
    """A run.json, as far as it is read; settings of the training are changed by their names."""
    settings = {
        "rank": 6, "batch_size": 2, "accumulate": 3, "learning_rate": 2e-4, "flip": False,
        "lr_schedule": "cosine", "warmup_steps": 0, "optimizer": "adamw", "weight_decay": 0.02,
        "max_grad_norm": 1.0, "caption_dropout": 0.15, "crop": "pad", "balance": False, "ema": 0.0,
        "keep_best": False, "hldf_guidance": 3.5,
    }  # fmt: skip
    run = {
        "base_name": "PixArt-alpha/PixArt-XL-2-512x512", "family": "PixArt-alpha",
        "license": "RAIL", "forbids": "medical advice", "demonstration": False, "method": "lora",
        "trained": ["transformer", "text_encoder"], "precision": "bf16", "resolution": 512,
        "processes": 1, "step": 700, "data": {"images": 30, "labels": LABELS}, "patients": None,
        "wording": {"simple": "A skin image of {label}"}, "hldf": None,
        "figures": {"color_losses": 28, "heldout": None},
    }  # fmt: skip
    own = {key: value for key, value in changes.items() if key in run}
    return run | own | {"settings": settings | {k: v for k, v in changes.items() if k not in run}}


def build_facts(arms, differences=None, gains=None, seeds=(0, 1, 2), **changes):
    """A study.json of arms by name and title; differences and gains are given by seed."""
    measures = [
        {"key": "frechet", "title": "Frechet distance", "better": "lower"},
        {"key": "color_variety", "title": "color variety", "better": "one"},
    ]
    facts = {
        "seeds": list(seeds), "reference": "lora", "measures": measures, "demonstration": False,
        "features": "Distances in the features of efficientnet-lite0 (not FID: only Inception's)",
        "arms": [
            {
                "name": name, "title": title, **ARMS.get(name, Arm(name, title)).settings(),
                "color_loss": None, "collapsed": [[]] * len(seeds),
                "each": {"frechet": [81.5] * len(seeds), "color_variety": [0.75] * len(seeds)},
                "mean": {"frechet": 81.5, "color_variety": 0.75},
                "deviation": {"frechet": 1.25, "color_variety": None},
                "suspected": [False] * len(seeds),
            }
            for name, title in arms.items()
        ],
        "differences": {
            name: {key: asdict(contrast(*it)) for key, it in found.items()}
            for name, found in (differences or {}).items()
        },
        "gains": {name: asdict(contrast(*it)) for name, it in (gains or {}).items()},
        "floors": {"frechet": 33.3}, "images": {"train": 30, "test": 31},
        "real": {"name": "test", "n": 31, "patients": None, "labels": LABELS | {"nevus": 21}},
        "inputs": [{"images": 30, "texts": 0, "without_patient": 30, "splits": {}},
                   {"images": 31, "texts": 0, "without_patient": 31, "splits": {}}],
        "settings": {"sample": "--steps 17 --guidance 3", "evaluate": "", "classify": "none"},
        "versions": {"python": "3.12.1", "medart-cli": "9.9.9"},
    }  # fmt: skip
    facts |= changes
    return facts | {"verdicts": tell_verdicts(facts)}


def one_arm(**changes):
    return build_facts({"lora": "LoRA"}, **changes)


NEARER = {"distance": ([-0.5, -0.51, -0.49], [0.01] * 3, 31)}
OPEN = {"distance": ([-0.5, 0.6, 0.1], [0.01] * 3, 31)}


def words_of(text):
    return " ".join(text.split())


def check_references(text):
    """Return the numbers that are cited, after a look at the list."""
    body, _, listed = text.partition("## References")
    places = [int(line.partition(".")[0]) for line in listed.strip().splitlines()]
    cited = [int(it) for mark in re.findall(r"\[([\d, ]+)\]", body) for it in mark.split(",")]
    assert places == [*range(1, len(places) + 1)]
    assert {*cited} == {*places}
    assert list(dict.fromkeys(cited)) == places  # in the order of first use
    assert "[@" not in text
    return listed


def test_each_work_is_listed_once_and_none_is_cited_that_is_not_listed():
    arms = {"before": "base", "lora": "LoRA", "dora": "DoRA", "hldf": "HLDF", "score": "score"}
    runs = {
        "lora": build_run(),
        "dora": build_run(method="dora", min_snr=5.0),
        "hldf": build_run(hldf=PUBLISHED, method="rslora", optimizer="adamw8bit"),
        "score": build_run(hldf=SCORE, method="full"),
    }
    facts = build_facts(arms, {"dora": NEARER, "hldf": OPEN, "score": OPEN, "before": OPEN})
    listed = check_references(write(facts, runs))
    for known in (
        "2106.09685", "2402.09353", "2312.03732", "2506.20449", "2310.00426", "2110.02861",
        "2303.09556", "2211.01095", "2207.12598", "1905.11946",
    ):  # fmt: skip
        assert listed.count(known) == 1


@pytest.mark.parametrize("method", ["lora", "dora", "rslora", "lokr", "loha", "full"])
def test_each_adapter_is_told(method):
    text = write(one_arm(), {"lora": build_run(method=method)})
    assert "all weights of the transformer" in text if method == "full" else "of rank 6 in" in text
    check_references(text)


@pytest.mark.parametrize(("name", "word"), [
    ("adamw", "AdamW ["), ("adamw8bit", "8-bit AdamW ["), ("adafactor", "Adafactor ["),
    ("lion", "Lion ["), ("muon", "Muon ["), ("prodigy", "Prodigy ["),
])  # fmt: skip
def test_each_optimizer_is_told(name, word):
    text = write(one_arm(), {"lora": build_run(optimizer=name)})
    assert f"| Optimizer | {word}" in text
    check_references(text)
    assert get_args(OptimizerName) == tuple(OPTIMIZERS) and name in OPTIMIZERS


def test_a_work_that_the_study_does_not_use_is_not_listed():
    listed = check_references(write(one_arm(), {"lora": build_run(trained=["transformer"])}))
    for unused in ("DoRA", "Med-Art", "SANA", "proper scoring", "clean", "Vendi", "DINOv2"):
        assert unused not in listed


def test_numbers_follow_the_order_of_first_use():
    text = number_references("b [@kid], a [@fid,kid], b again [@kid].")
    assert text.startswith("b [1], a [2, 1], b again [1].\n")
    assert text.splitlines()[4:] == [f"1. {REFERENCES['kid']}", f"2. {REFERENCES['fid']}"]


def test_a_mark_of_no_known_work_is_an_error():
    with pytest.raises(KeyError):
        number_references("as shown [@nobody]")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_each_family_of_base_models_is_cited_and_named_with_its_solver(kind):
    run = build_run(family=kind.name, base_name="OWNER/some_base", trained=["transformer"])
    text = write(one_arm(), {"lora": run})
    assert f"OWNER/some\\_base, of the family {kind.name} [1]" in text
    assert f"1. {REFERENCES[WORKS[kind.name]]}" in text
    assert f"reads at most {kind.tokens} tokens ({kind.text_encoder})" in text
    assert ("DPM-Solver++ [" in text) != ("Euler's method" in text)
    check_references(text)


def test_what_medart_cannot_know_is_a_visible_placeholder():
    text = write(one_arm(), {"lora": build_run()})
    for what in ("ethics approval", "source of the images", "who gave the labels", "hardware",
                 "intended use", "images per patient", "license of the real images",
                 "membership not measured", "class of their caption; not measured"):  # fmt: skip
        assert re.search(rf"\[TO DO: [^]]*{what}", text), what


def test_settings_of_a_run_are_said_as_they_were():
    text = words_of(
        write(one_arm(), {"lora": build_run(lr_schedule="linear", warmup_steps=9, processes=4)})
    )
    assert "LoRA [3] of rank 6 in the transformer and text encoder (T5); no color loss." in text
    assert "| Resolution | 512 pixels, padded to a square |" in text
    assert "| Optimizer steps | 700 (560 passes over the training images) |" in text
    assert "| Batch | 24 (2 x 3 accumulated x 4 devices) |" in text
    assert "| Learning rate | 0.0002, linear after 9 steps of linear warmup |" in text
    assert "17 steps of DPM-Solver++" in text
    assert re.search(r"classifier-free guidance \[\d+\] of 3\.", text)


def test_settings_that_are_off_by_default_are_said_where_they_are_set():
    assert "Layers of" not in write(one_arm(), {"lora": build_run()})
    run = build_run(target=["to_q", "to_*"], min_snr=5.0, balance=True, flip=True, keep_best=True)
    text = write(one_arm(), {"lora": run})
    assert r"| Layers of the transformer | those that end in to\_q, to\_\* |" in text
    assert re.search(r"\| Min-SNR weights \[\d+\] \| gamma 5 \|", text)
    assert "| Class balancing | labels drawn equally often |" in text
    assert "padded to a square, horizontal flips |" in text
    assert "| Checkpoint | lowest held-out loss |" in text


def test_what_differs_between_arms_is_said_of_each():
    arms = {"lora": "LoRA", "big": "large batch", "small": "small batch"}
    runs = {
        "lora": build_run(),
        "big": build_run(batch_size=8, accumulate=1, ema=0.99),
        "small": build_run(trained=["transformer"]),
    }
    facts = build_facts(arms)
    facts["arms"][1]["sample"] = ["--guidance", "1"]
    text = words_of(write(facts, runs))
    assert "accumulated x 1 devices) (LoRA, small batch); 8 (large batch) |" in text
    assert "| Average of the weights (EMA) | none (LoRA, small batch); decay 0.99 (large" in text
    assert "in the transformer, the text encoder (T5) frozen" in text
    assert "no guidance (large batch)" in text


def test_the_color_loss_is_described_in_the_forms_that_arms_use():
    arms = {"lora": "LoRA", "hldf": "as published", "score": "score"}
    runs = {"lora": build_run(), "score": build_run(hldf=SCORE)}
    text = write(build_facts(arms), runs)
    assert (
        "color loss as the energy score at every N = 25 optimizer steps (28 in the run), 3 images "
        "per caption (2 with gradients), M = 13 solver steps with gradients through the last 4, "
        "guidance 3.5, weight 0.7."
    ) in text
    assert "lowest in expectation" in text
    assert "squared distance" not in text
    runs["hldf"] = build_run(hldf=PUBLISHED)
    text = write(build_facts(arms), runs)
    assert "1 image per caption, M = 13 solver steps with gradients through all of them" in text
    assert "squared distance |m(g) - m(x)|²" in text
    without = write(build_facts(arms), {"lora": build_run()})
    assert "pixel-level" not in without


def test_an_arm_without_a_run_is_the_base_as_it_is_or_a_placeholder():
    arms = {"before": "as it is", "lora": "LoRA", "lost": "lost one"}
    text = write(build_facts(arms), {"lora": build_run()})
    assert "**as it is**: images drawn from the base as it is, without training." in text
    assert "**LoRA** (the reference): LoRA [" in text
    assert "**lost one**: [TO DO: settings of this arm; its run.json was not found]" in text
    check_references(text)


def test_a_study_without_any_run_still_has_a_draft():
    text = write(one_arm(), {})
    assert "[TO DO: the base model; no run.json was found]" in text
    assert "| Setting |" not in text
    check_references(text)


def test_what_is_shown_is_a_claim_with_its_interval():
    arms = {"before": "base", "lora": "LoRA", "dora": "DoRA"}
    worse = {"distance": ([0.5, 0.51, 0.49], [0.01] * 3, 31)}
    facts = build_facts(arms, {"before": worse, "dora": worse}, {"lora": ([0.1, 0.11, 0.1],)})
    results = write(facts, {}).partition("## Results")[2].partition("## Data card")[0]
    assert (
        "- Fine-tuning brought the images nearer to real ones (base less LoRA, root of the energy "
        "distance in the features: +0.5, 95% interval +0."
    ) in results
    assert "- DoRA did not bring the images nearer than LoRA: farther away (DoRA less" in results
    assert "- Images drawn after LoRA helped a classifier (balanced accuracy" in results
    assert "not show" not in results


def test_what_is_not_shown_is_never_claimed():
    arms = {"before": "base", "lora": "LoRA", "dora": "DoRA", "mine": "bring it on"}
    differences = {"before": OPEN, "dora": OPEN, "mine": OPEN}
    facts = build_facts(arms, differences, {"lora": ([0.1, -0.2, 0.1],)})
    results = write(facts, {}).partition("## Results")[2].partition("## Data card")[0]
    assert results.count("This study does not show whether ") == 4
    assert results.count("95% interval -") == 4
    for claim in ("brought", "helped", "did not", "nearer:"):
        assert claim not in results
    assert "fine-tuning brings the images nearer to real ones (base less LoRA" in results
    assert "whether images drawn after LoRA help a classifier" in results


def test_one_seed_shows_nothing_and_has_no_interval():
    arms = {"lora": "LoRA", "dora": "DoRA"}
    facts = build_facts(arms, {"dora": {"distance": ([-0.5], [0.01], 31)}}, seeds=(4,))
    text = write(facts, {"lora": build_run()})
    assert "with 1 seed (4). One seed leaves no interval" in text
    assert "This study does not show whether DoRA brings" in text
    assert "[TO DO: more seeds" in text
    assert "95%" not in text


def test_a_verdict_that_is_no_yes_or_no_is_quoted():
    facts = one_arm()
    facts["arms"][0]["each"]["copies"] = [0.0, 0.05, 0.0]
    facts["arms"][0]["suspected"] = [False, True, False]
    facts["verdicts"] = tell_verdicts(facts)
    assert (
        "- As to whether a model copies training images, the answer is “suspected: LoRA (1 of 3 "
        "seeds)” (near-copies among the synthetic images: at most 5.0 %"
    ) in write(facts, {})


def test_a_question_of_another_form_is_quoted_with_its_answer():
    facts = one_arm()
    verdict = {"question": "Is x_y told?", "answer": "yes", "figures": "AUC 0.9", "needed": ""}
    facts["verdicts"].append(verdict)
    assert "- Is x\\_y told? yes (AUC 0.9).\n" in write(facts, {})


def test_the_variance_by_the_test_images_is_said_of_the_measures_that_have_it():
    arms = {"lora": "LoRA", "dora": "DoRA"}
    by_seeds = {"frechet": ([1.0, 2.0, 3.0],)}
    text = write(build_facts(arms, {"dora": by_seeds}), {})
    assert "The variance is that between seeds alone" in text
    assert "Cochran" not in text
    text = write(build_facts(arms, {"dora": by_seeds | OPEN}), {})
    assert "two parts in root of the energy distance in the features: that between" in text
    assert "(31 test images)" in text
    assert "other measures are by the seeds alone" in text
    assert "Biometrics 1964" in text


def test_a_study_of_one_arm_speaks_of_no_differences():
    text = write(one_arm(), {"lora": build_run()})
    assert "in pairs" not in text
    assert "distances from 1" not in text


def test_patients_are_told_only_where_they_are_known():
    facts = one_arm()
    assert "Which training and test images are of one patient is not recorded" in write(facts, {})
    facts["real"]["patients"] = 12
    text = write(facts, {"lora": build_run()})
    assert "Which training images are of one patient is not recorded. Intervals" in text
    for item in facts["inputs"]:
        item["without_patient"] = 1
    text = write(facts, {"lora": build_run(patients=14)})
    assert "They are of 14 patients and 12 patients; no patient has images on both sides" in text
    assert "The patient of 2 images is not recorded." in text
    assert "images per patient" not in text


def test_captions_of_ones_own_are_told_from_the_template():
    facts = build_facts({"lora": "LoRA", "simple": "plain"})
    facts["arms"][1]["captions"] = "simple"
    text = write(facts, {"lora": build_run()})
    assert "No image had a caption of its own; each was captioned by the template “A skin" in text
    facts["inputs"][0]["texts"] = 28
    text = write(facts, {"lora": build_run()})
    assert "28 of 30 images had a caption of their own, the others the template" in text
    assert "In the arm plain, the template “A skin image of {label}” took the place" in text
    text = write(facts, {"lora": build_run(), "simple": build_run()})
    assert text.count("; trained and drawn with template captions.") == 1


def test_as_many_images_are_said_to_be_drawn_as_there_are_test_images():
    text = write(one_arm(), {"lora": build_run()})
    assert "one image was drawn for each test image" in text
    assert f"Content: {one_arm()['images']['test']} images of each arm" in text


def test_options_of_membership_are_no_hindrance():
    facts = one_arm()
    facts["settings"] = facts["settings"] | {"evaluate": "--member-count 50"}
    assert "### Measures" in write(facts, {"lora": build_run()})


def test_the_card_has_each_criterion_with_its_figures():
    arms = {"lora": "LoRA", "dora": "DoRA"}
    card = write(build_facts(arms, {"dora": NEARER}), {"lora": build_run()})
    card = card.partition("## Data card")[2]
    assert re.findall(r"### (\w+):", card) == [
        "Congruence", "Coverage", "Constraint", "Completeness", "Compliance", "Comprehension",
        "Consistency",
    ]  # fmt: skip
    assert "| LoRA | 81.5 ± 1.2 |" in card
    assert "| baseline, real images | 33.3 |" in card
    assert "| LoRA | 0.75 |" in card
    assert (
        "- DoRA less LoRA, root of the energy distance in the features: -0.5, 95% interval -0."
        in card
    )
    assert "| LoRA | 81.5 to 81.5 | 0.75 to 0.75 |" in card
    assert "License of PixArt-alpha/PixArt-XL-2-512x512: RAIL; it forbids medical advice." in card


def test_collapse_and_suspicion_stand_in_the_card():
    facts = one_arm()
    facts["arms"][0] |= {"collapsed": [["nevus"], [], []], "suspected": [True, False, True]}
    text = write(facts, {})
    assert "- LoRA: the images vary less than real ones in 1 of 3 seeds." in text
    assert "Copies of real images are suspected: LoRA (2 of 3 seeds)." in text


def test_a_measure_that_is_there_is_shown_and_described():
    facts = one_arm(settings={"sample": "", "evaluate": "--copy-rate 0.02", "classify": "--freeze"})
    for key, title in (("copies", "near-copies"), ("gain", "gain"), ("membership", "members"),
                       ("vendi", "Vendi"), ("new_one", "new|one")):  # fmt: skip
        facts["measures"].append({"key": key, "title": title, "better": "lower"})
        facts["arms"][0]["mean"][key] = 0.125
        facts["arms"][0]["each"][key] = [0.125] * 3
    text = write(facts, {"lora": build_run()})
    assert "call at most 2 % of unseen real images copies" in text
    assert "| LoRA | 0.125 | 0.12 |" in text  # near-copies and membership, in compliance
    assert "membership not measured" not in text
    assert "**new\\|one**: [TO DO: say what it is]" in text
    assert "Other measures:\n\n| Arm | new\\|one (lower is better) |" in text
    assert "2210.02410" in check_references(text)


def test_only_inceptions_distances_are_called_fid():
    facts = one_arm()
    text = write(facts, {})
    assert "Features are those of efficientnet-lite0 [" in text
    assert "no FID or KID" in text
    assert "clean-fid" not in text
    facts["features"] = "FID and KID (Inception)"
    facts["measures"][0]["title"] = "FID"
    text = write(facts, {})
    assert "Features are those of Inception, computed as clean-fid does [" in text
    assert "no FID or KID" not in text
    assert "2104.11222" in check_references(text)


def test_a_network_that_is_not_known_is_left_for_the_author_to_cite():
    facts = one_arm(features="Distances in the features of my_net (not FID: only Inception's is)")
    assert "Features are those of my\\_net [TO DO: cite this network];" in write(facts, {})


def test_names_cannot_break_a_table_or_pass_for_a_citation():
    hostile = "a|b *c* [@lora]\n# d"
    facts = build_facts({"lora": hostile})
    facts["real"]["labels"] = {hostile: 31}
    run = build_run(data={"images": 30, "labels": {hostile: 30}}, base_name=hostile)
    text = write(facts, {"lora": run})
    escaped = r"a\|b \*c\* \[@lora\] \# d"
    assert f"| {escaped} | 30 | 31 |" in text
    assert f"| {escaped} | 81.5 ± 1.2 |" in text
    assert "\n# d" not in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(counts) == 1
    assert escape_markdown("x_1 <b> & $y$ ~z~ `w` \\") == r"x\_1 \<b\> \& \$y\$ \~z\~ \`w\` \\"


def test_a_demonstration_is_said_to_be_one_before_anything_else():
    facts = one_arm(demonstration=True)
    run = build_run(demonstration=True, base_name="tiny")
    text = write(facts, {"lora": run})
    first = text.split("\n\n")[1]
    assert first.startswith("> **This study is a demonstration.**")
    assert DEMONSTRATION_NOTICE in first
    assert "The base is the demonstration model of medart" in text
    assert "under its license" in text
    assert "demonstration" not in write(one_arm(), {"lora": build_run()})


def test_the_facts_are_not_changed():
    facts, runs = one_arm(), {"lora": build_run(hldf=SCORE)}
    before = deepcopy((facts, runs))
    write(facts, runs)
    assert (facts, runs) == before
