"""How methods.md tells what was trained, and with what images were drawn."""

from collections.abc import Mapping, Sequence

from medart_cli import cli
from medart_cli.data.numbers import plural
from medart_cli.models.bases import KINDS
from medart_cli.study.arms import split_options
from medart_cli.study.figures import Facts
from medart_cli.study.markdown import (
    bullets,
    escape_markdown,
    grid,
    name_arms,
    todo,
    word_by_arm,
)

WORKS = {  # that describe each family of base models
    "PixArt-alpha": "pixart",
    "PixArt-Sigma": "sigma",
    "SANA": "sana",
    "PRX": "prx",
    "FLUX.2-klein-base": "klein",
}
BY_FAMILY = {kind.name: kind for kind in KINDS.values()}
EULER = ("PRX", "FLUX.2-klein-base")  # families that are drawn with Euler's method
ADAPTERS = {
    "lora": "LoRA [@lora]",
    "dora": "DoRA [@dora], a variant of LoRA [@lora],",
    "rslora": "rank-stabilized LoRA [@lora,rslora]",
    "lokr": "LoKr adapters [@lycoris]",
    "loha": "LoHa adapters [@fedpara]",
}
WORDED_OPTIMIZERS = {
    "adamw": "AdamW [@adamw]",
    "adamw8bit": "8-bit AdamW [@adamw,adamw8bit]",
    "adafactor": "Adafactor [@adafactor]",
    "lion": "Lion [@lion]",
    "muon": "Muon [@muon], with step sizes matched to AdamW's [@moonlight]",
    "prodigy": "Prodigy [@prodigy]",
}
UNLABELED = "(none)"  # what run.json calls images without a label


def first_run(runs: Mapping[str, Facts]) -> Facts | None:
    """Return a run that says what is the same in all arms; None where nothing is trained."""
    return next(iter(runs.values()), None)


def list_bases(runs: Mapping[str, Facts]) -> list[Facts]:
    """Return one run of each base model; nearly always there is one."""
    return list({run["base_name"]: run for run in runs.values()}.values())


def read_study_options(facts: Facts, command: str, *more: str) -> Facts:
    """Return all settings of a command in this study, with their defaults.

    Args:
        facts: Content of study.json.
        command: Its name.
        more: Options after those of the study.
    """
    needed = {
        "sample": ["-", "--from", "-", "--out", "-"],
        "evaluate": ["real", "drawn", "--run", "run", "--training", "train", "--out", "-"],
        "classify": ["train", "--test", "test", "--synthetic", "drawn", "--out", "-"],
    }
    own = split_options(f"--{command}", facts["settings"].get(command, ""))
    options = cli.read_options([command, *needed[command], *own, *more])
    found = options.settings()
    if command == "classify":
        found["regimes"] = options.chosen_regimes  # type: ignore[attr-defined]
        found["seeds"] = len(options.chosen_seeds)  # type: ignore[attr-defined]
    return found


def tell_training(facts: Facts, runs: Mapping[str, Facts]) -> str:
    """Tell base, arms and settings."""
    titles = name_arms(facts)
    bases = " ".join(map(_tell_base, list_bases(runs)))
    lines = [
        f"**{titles[arm['name']]}**"
        + (" (the reference)" if arm["name"] == facts["reference"] else "")
        + f": {_tell_arm(arm, runs.get(arm['name']))}"
        for arm in facts["arms"]
    ]
    found = {titles[name]: _list_settings(run) for name, run in runs.items()}
    keys = dict.fromkeys(key for each in found.values() for key in each)
    rows = [
        [key, word_by_arm({arm: each.get(key, "none") for arm, each in found.items()})]
        for key in keys
    ]
    return "\n\n".join(
        [
            "### Fine-tuning",
            bases or todo("the base model; no run.json was found"),
            "The arms of the study:",
            bullets(lines),
            *_explain_hldf(runs),
            *([grid(["Setting", "Value"], rows)] if rows else []),
        ]
    )


def _tell_base(run: Facts) -> str:
    family, cited = run["family"], f"[@{WORKS[run['family']]}]"
    text = f"The base is {escape_markdown(run['base_name'])}, of the family {family} {cited}"
    if run["demonstration"]:
        text = f"The base is the demonstration model of medart: small, built as {family} {cited} "
        text += "is, and trained on drawn phantoms"
    way = "flow matching [@flow]" if BY_FAMILY[family].flow else "diffusion [@ddpm]"
    return f"{text}. It was trained further by {way} in the latents of its autoencoder."


def _tell_arm(arm: Facts, run: Facts | None) -> str:
    """Say what an arm trains, and with which color loss."""
    if arm["finetune"] is None:
        return "images drawn from the base as it is, without training."
    if run is None:
        return todo("settings of this arm; its run.json was not found")
    plain = "; trained and drawn with template captions" if arm["captions"] == "simple" else ""
    return f"{_word_adapters(run)}; {_word_hldf(run)}{plain}."


def _word_adapters(run: Facts) -> str:
    settings, reader = run["settings"], "text_encoder" in run["trained"]
    encoder = f"text encoder ({BY_FAMILY[run['family']].text_encoder})"
    rank = f"of rank {settings['rank']}"
    if settings.get("alpha") not in (None, settings["rank"]):
        rank += f" and alpha {settings['alpha']:g}"
    if run["method"] == "full":
        rest = f"LoRA [@lora] {rank} in the {encoder}" if reader else f"the {encoder} frozen"
        return f"all weights of the transformer, {rest}"
    where = f"transformer and {encoder}" if reader else f"transformer, the {encoder} frozen"
    return f"{ADAPTERS[run['method']]} {rank} in the {where}"


def _word_hldf(run: Facts) -> str:
    """Say how the color loss was set in a run; what it is stands in `_explain_hldf`."""
    hldf = run["hldf"]
    if hldf is None:
        return "no color loss"
    every = hldf["grad_steps"] == hldf["steps"]
    some = f" ({hldf['with_gradient']} with gradients)"
    return (
        f"color loss {'as published' if hldf['loss'] == 'published' else 'as the energy score'} "
        f"at every N = {hldf['every']} optimizer steps ({run['figures']['color_losses']} in the "
        f"run), {plural(hldf['draws'], 'image')} per caption"
        + (some if hldf["with_gradient"] < hldf["draws"] else "")
        + f", M = {hldf['steps']} solver steps with gradients through "
        + ("all of them" if every else f"the last {hldf['grad_steps']}")
        + f", guidance {run['settings']['hldf_guidance']:g}, weight {hldf['weight']:.3g}"
        + (", mean colors of a 4 x 4 grid compared as well" if "grid" in hldf["statistics"] else "")
    )


def _explain_hldf(runs: Mapping[str, Facts]) -> list[str]:
    """Say what the color loss is, in the forms that the arms use."""
    losses = {run["hldf"]["loss"] for run in runs.values() if run["hldf"] is not None}
    if not losses:
        return []
    text = (
        "The color loss is the pixel-level part of hybrid-level diffusion fine-tuning (HLDF) "
        "[@medart]. At every N-th optimizer step images are generated from fresh noise with the "
        "captions of the batch, in M solver steps, and decoded; gradients pass through solver and "
        "decoder to the trained weights. Compared are the means and standard deviations of the "
        "color channels of a generated image, m(g), and of the real image of the same caption, "
        "m(x)."
    )
    if "published" in losses:
        text += (
            " As published, the loss is the squared distance |m(g) - m(x)|², times the weight, "
            "added to the noise loss."
        )
    if "score" in losses:
        text += (
            " The energy score [@score] of several generated images is twice the mean distance "
            "|m(g) - m(x)| less the mean distance of the generated ones to each other; it is "
            "lowest in expectation where generated colors have the distribution of the real ones, "
            "and not their average alone. Its gradient is scaled to the norm of the gradient of "
            "the noise loss, times the weight. This form is of medart, and not of the publication."
        )
    return [text]


def _list_settings(run: Facts) -> dict[str, str]:
    """Write the settings of a training that papers report."""
    it = run["settings"]
    batch = it["batch_size"] * it["accumulate"] * run["processes"]
    rate = f"{it['learning_rate']:g}, {it['lr_schedule']}"
    rate += f" after {it['warmup_steps']} steps of linear warmup" if it["warmup_steps"] else ""
    crops = {"center": "center crop", "pad": "padded to a square", "random": "random crop"}
    if run.get("buckets"):
        margin = "padded" if it["crop"] == "pad" else "cropped"
        shapes = plural(len(run["buckets"]["images"]), "shape")
        crops[it["crop"]] = f"aspect buckets ({shapes} of about this area, margins {margin})"
    crop = crops[it["crop"]] + ", horizontal flips" * it["flip"]
    found = {
        "Resolution": f"{run['resolution']} pixels, {crop}",
        "Optimizer steps": f"{run['step']} ({run['step'] * batch / run['data']['images']:.3g} "
        "passes over the training images)",
        "Batch": f"{batch}"
        + (f" ({it['batch_size']} x {it['accumulate']} accumulated x {run['processes']} devices)"
           if batch != it["batch_size"] else ""),
        "Learning rate": rate,
        "Optimizer": WORDED_OPTIMIZERS[it["optimizer"]]
        + f", weight decay {it['weight_decay']:g}"
        + (f", gradient norm at most {it['max_grad_norm']:g}" if it["max_grad_norm"] else ""),
        "Precision": run["precision"],
        "Caption dropout": f"{it['caption_dropout']:g}",
    }  # fmt: skip
    optional = {
        "Layers of the transformer": _word_layers(it.get("target")),
        "Layers of the text encoder": _word_layers(it.get("text_target")),
        "Timesteps": it.get("timesteps"),
        "Timestep shift": it.get("timestep_shift"),
        "Min-SNR weights [@minsnr]": f"gamma {it['min_snr']:g}" if it.get("min_snr") else None,
        "Weight inside masks": f"{it['mask_weight']:g}" if it.get("mask_weight", 1) != 1 else None,
        "Region of the color loss": "weighted by the mean mask"
        if it.get("hldf_region") == "mask"
        else None,
        "Class balancing": "labels drawn equally often" if it["balance"] else None,
        "Average of the weights (EMA)": f"decay {it['ema']:g}" if it["ema"] else None,
        "Checkpoint": "lowest held-out loss" if it.get("keep_best") else "last",
    }
    return found | {key: str(value) for key, value in optional.items() if value is not None}


def _word_layers(targets: Sequence[str] | None) -> str | None:
    """Name the layers that got adapters, where they are not those of the family."""
    return None if targets is None else escape_markdown(f"those that end in {', '.join(targets)}")


def tell_sampling(facts: Facts, runs: Mapping[str, Facts]) -> str:
    """Tell how many images were drawn, from which captions, and how."""
    titles, run = name_arms(facts), first_run(runs)
    each = {
        titles[arm["name"]]: _word_sampling(
            read_study_options(facts, "sample", *arm["sample"]), runs.get(arm["name"], run)
        )
        for arm in facts["arms"]
    }
    text = "For each arm and seed one image was drawn for each test image"
    text += ", with as many of each label" if facts["real"]["labels"] else ""
    alike = {(it["base_name"], it["resolution"], bool(it.get("buckets"))) for it in runs.values()}
    noise = len(alike) < 2
    return (
        f"### Sampling\n\n{text}. The captions are those of training images, chosen at random by "
        f"the seed. Images were drawn with {word_by_arm(each)}. All arms of a seed have the same "
        "captions (but for the wording, where an arm is about that)"
        + (" and start from the same noise" if noise else "")
        + ". No image was chosen or left out by its looks."
    )


def _word_sampling(options: Facts, run: Facts | None) -> str:
    solver = "Euler's method" if run and run["family"] in EULER else "DPM-Solver++ [@solver]"
    text = f"{plural(options['steps'], 'step')} of {solver}, "
    scale = options["guidance"]
    text += f"classifier-free guidance [@guidance] of {scale:g}" if scale > 1 else "no guidance"
    if "size" in options:
        return text + f", at {options['size']} pixels (height x width)"
    text += f", at {options['resolution']} pixels" if "resolution" in options else ""
    trained = bool(run and run.get("buckets"))
    return text + (", at the shapes of real images" if options.get("buckets", trained) else "")
