"""All five stages on drawn phantoms and the embedded `tiny` models: a few minutes, no network.

Runs the commands that a user would run, in one process, and puts their results on one page:
what fine-tuning changed, and what the color loss of HLDF changed.
"""

import json
import shlex
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from medart_cli import cli, stop
from medart_cli.data.images import load_image, save_png, tile_images
from medart_cli.data.manifest import MANIFEST_NAME, Record, read_manifest, write_manifest
from medart_cli.data.output import Output, open_output, write_json, write_text
from medart_cli.data.page import embed_image, render
from medart_cli.demo.options import DemoConfig
from medart_cli.errors import RunError, Stopped
from medart_cli.log import log, table
from medart_cli.tiny.dataset import choose_phantoms, compare_captions, write_phantoms
from medart_cli.tiny.phantoms import PROFILE, Phantom

TRAIN, TEST = 60, 30  # phantoms of each of the four classes
FEW = 8  # real images of each class that the classifier of the last step has
SYNTHETIC = 30  # generated images of each class that it may have besides
STEPS = 80
PICTURES = 12  # columns of the picture
SETS = {"base": "before fine-tuning", "lora": "LoRA", "hldf": "LoRA + HLDF"}
CAPTION = f"--model tiny --base tiny --profile {PROFILE} --temperature 0 --batch-size 32"
# What both runs share; a larger rate and fewer steps than in practice, for time.
FINETUNE = (
    f"--base tiny --steps {STEPS} --batch-size 16 --learning-rate 1e-3 --lr-schedule cosine "
    "--preview-every 0"
)
HLDF = "--hldf-every 4 --hldf-statistics grid"
SAMPLE = "--steps 15 --batch-size 30"
TRAINED_ON = {
    "real": f"{FEW} real images per class",
    "synthetic": f"{SYNTHETIC} generated images per class",
    "mix": "both",
}


@dataclass
class Session:
    """A demo on its way.

    Attributes:
        config: Its options.
        folder: Where the stages read and write.
        lines: Every command that was typed, with its seconds.
    """

    config: DemoConfig
    folder: Path
    lines: list[tuple[str, float]] = field(default_factory=list)

    def type(self, line: str) -> None:
        """Run a command just as a user's shell would.

        Raises:
            RunError: It failed; it has said why.
            Stopped: It was stopped by a signal.
            KeyboardInterrupt: By a second Ctrl-C.
        """
        stop.check()  # a command sets its own handlers
        config = self.config
        words = [*shlex.split(line), "--seed", str(config.seed), "--offline"]
        if config.device != "auto":
            words += ["--device", config.device]
        typed = shlex.join(["medart", *words])
        log.info("\n$ %s", typed)
        words += ["--quiet"] * config.quiet + ["--verbose"] * config.verbose
        started = time.monotonic()
        code = cli.call(words)
        self.lines.append((typed, time.monotonic() - started))
        if code == Stopped.exit_code:
            raise Stopped("stopped; run the same command again to resume")
        if code == cli.INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise RunError(f"medart {words[0]} ended with exit code {code}, see above")


def run(config: DemoConfig) -> dict[str, Any]:
    """Draw phantoms, run the five stages on them, and write the page."""
    started = time.monotonic()
    out = config.keep or Path("demo")
    with open_output(
        Output(out, "demo", config.settings(), config.name_run_only(), overwrite=False)
    ):
        session = Session(config, out / "work")
        test = write_dataset(session)
        type_commands(session)
        figures = read_figures(session, test)
        figures["seconds"] = round(time.monotonic() - started, 1)
        write_json(out / "demo.json", figures)
        picture = draw_picture(session.folder)
        save_png(out / "pictures.png", picture)
        write_text(out / "report.html", build_report(session, figures, picture))
        show_table(figures)
        if config.keep is None:
            shutil.rmtree(session.folder)
    return {"result": str(out / "report.html"), **figures}


def type_commands(session: Session) -> None:
    """Run all five stages, fine-tuning once without and once with HLDF."""
    folder = shlex.quote(str(session.folder))
    for part in ("train", "test"):
        session.type(f"caption {folder}/{part} {CAPTION}")
    session.type(f"finetune {folder}/train {FINETUNE} --hldf-every 0 --out {folder}/lora-run")
    session.type(f"finetune {folder}/train {FINETUNE} {HLDF} --out {folder}/hldf-run")
    for name, run_folder in (("base", "tiny"), ("lora", ""), ("hldf", "")):
        source = run_folder or f"{folder}/{name}-run"
        session.type(f"sample {source} --from {folder}/test {SAMPLE} --out {folder}/{name}")
    sets = " ".join(f"{folder}/{name}" for name in SETS)
    session.type(
        f"evaluate {folder}/test {sets} --features efficientnet-lite0 --out {folder}/report"
    )
    session.type(
        f"sample {folder}/hldf-run --from {folder}/train --per-label {SYNTHETIC} {SAMPLE} "
        f"--out {folder}/synthetic"
    )
    session.type(
        f"classify {folder}/few.jsonl --synthetic {folder}/synthetic --test {folder}/test "
        f"--freeze --out {folder}/classifier"
    )


def write_dataset(session: Session) -> list[Phantom]:
    """Write phantoms of the shifted domain to train and to test on; return what the latter show."""
    folder, seed = session.folder, session.config.seed
    log.info("drawing phantoms: %d to train on, %d to test on", 4 * TRAIN, 4 * TEST)
    phantoms: list[Phantom] = []
    for part, count, own in (("train", TRAIN, 2 * seed), ("test", TEST, 2 * seed + 1)):
        phantoms = choose_phantoms("shifted", per_label=count, seed=own)
        if not (folder / part / MANIFEST_NAME).is_file():  # else it may have captions already
            write_phantoms(folder / part, phantoms, seed=own)
    few = list(read_manifest(folder / "train" / MANIFEST_NAME))[: 4 * FEW]
    write_manifest(
        folder / "few.jsonl",
        ({**row.fields, "file_name": f"train/{row.file_name}"} for row in few),
    )
    return phantoms


def read_figures(session: Session, test: list[Phantom]) -> dict[str, Any]:
    """Gather what the stages measured: captions, distances, colors, classifiers."""
    folder = session.folder
    report = json.loads((folder / "report" / "metrics.json").read_text(encoding="utf-8"))
    classifier = json.loads((folder / "classifier" / "metrics.json").read_text(encoding="utf-8"))
    overall = {item["set"]: item for item in report["comparisons"] if item["label"] is None}
    colors = {item["set"]: item for item in report["color"]}
    texts = [row.text or "" for row in read_manifest(folder / "test" / MANIFEST_NAME)]
    return {
        "seed": session.config.seed,
        "demonstration": True,
        "captions": compare_captions(texts, test),
        "sets": {
            name: {
                "frechet": overall[name]["frechet"]["value"],
                "kernel": overall[name]["kernel"]["value"],
                "mean_gap": _average_gap(colors[name]["mean"]),
                "spread_gap": _average_gap(colors[name]["spread"]),
                "variety": _average_variety(colors[name]["variety"]),
                "energy": colors[name]["energy"]["value"],
            }
            for name in SETS
        },
        "floor": {
            "frechet": overall["base"]["floor"]["frechet"]["real"],
            "mean_gap": _average_gap(colors["base"]["mean"], "floor"),
            "spread_gap": _average_gap(colors["base"]["spread"], "floor"),
            "energy": colors["base"]["energy"]["floor"][1],
        },
        "ranking": {key: report["ranking"][key] for key in ("order", "winner", "reason")},
        "classifiers": {
            name: item["scores"]["balanced_accuracy"]["mean"]
            for name, item in classifier["regimes"].items()
        },
        "commands": [{"line": line, "seconds": round(took, 1)} for line, took in session.lines],
    }


def _average_gap(channels: dict[str, dict[str, Any]], key: str = "value") -> float:
    """Average the absolute gaps of red, green and blue; the whole range is 1."""
    return sum(abs(float(channels[name][key])) for name in ("red", "green", "blue")) / 3


def _average_variety(channels: dict[str, dict[str, Any]]) -> float:
    """Average how much images vary in red, green and blue, as a share of real images'."""
    return sum(float(channels[name]["value"]) for name in ("red", "green", "blue")) / 3


def _in_order(drawn: Path) -> list[Record]:
    return sorted(read_manifest(drawn / MANIFEST_NAME), key=lambda row: int(row.fields["row"]))


def draw_picture(folder: Path) -> Image.Image:
    """Put real images above those generated from their captions: before, LoRA, HLDF."""
    rows = [list(read_manifest(folder / "test" / MANIFEST_NAME))]
    rows += [_in_order(folder / name) for name in SETS]
    images = [load_image(row.path) for line in rows for row in line[:PICTURES]]
    larger = [item.resize((96, 96), Image.Resampling.BICUBIC) for item in images]
    return tile_images(larger, columns=PICTURES)


def build_report(session: Session, figures: dict[str, Any], picture: Image.Image) -> str:
    """Make the page: the picture, what was measured, and every command."""
    rows = list(read_manifest(session.folder / "test" / MANIFEST_NAME))[:4]
    return render(
        "demo/page.html.jinja",
        picture=embed_image(
            picture,
            "Rows from the top: real images not used for training; images generated from their "
            "captions before fine-tuning; after LoRA; after LoRA with HLDF. A column is one "
            "caption and, in the lower three rows, one noise.",
        ),
        sets=format_sets(figures),
        ranking=word_ranking(figures["ranking"]),
        right=f"{figures['captions']['all']:.0%}",
        captions=[
            embed_image(load_image(row.path).resize((128, 128)), row.text or "") for row in rows
        ],
        classifiers=[
            [TRAINED_ON[name], f"{value:.3f}"] for name, value in figures["classifiers"].items()
        ],
        trained=TRAIN,
        tested=4 * TEST,
        commands=[[item["line"], f"{item['seconds']:.0f}"] for item in figures["commands"]],
        seconds=f"{figures['seconds']:.0f}",
        seed=figures["seed"],
    )


def word_ranking(ranking: dict[str, Any]) -> str:
    """Say what `evaluate` makes of the three sets as a whole, which is not all that HLDF is for."""
    order = ", ".join(f"{place}. {SETS[name]}" for place, name in enumerate(ranking["order"], 1))
    winner = SETS[ranking["winner"]] if ranking["winner"] else "none"
    return (
        f"By distance in the network's features, medart evaluate ranks them {order}; winner: "
        f"{winner} ({ranking['reason']})."
    )


def format_sets(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Write the comparison of the three sets as the columns and rows of a table."""
    columns = [
        "Images", "Frechet", "Kernel x 1000", "Mean gap", "Spread gap", "Variety", "Energy x 1000"
    ]  # fmt: skip
    rows = [
        [
            SETS[name],
            f"{item['frechet']:.1f}",
            f"{1000 * item['kernel']:.0f}",
            f"{item['mean_gap']:.4f}",
            f"{item['spread_gap']:.4f}",
            f"{item['variety']:.2f}",
            f"{1000 * item['energy']:.1f}",
        ]
        for name, item in figures["sets"].items()
    ]
    floor = figures["floor"]
    gaps = [f"{floor[key]:.4f}" for key in ("mean_gap", "spread_gap")]
    far = f"{1000 * floor['energy']:.1f}"
    rows.append(["halves of the real set", f"{floor['frechet']:.1f}", "-", *gaps, "-", far])
    return columns, rows


def show_table(figures: dict[str, Any]) -> None:
    """Print the comparison, and in one sentence what HLDF did."""
    columns, rows = format_sets(figures)
    table("What fine-tuning and HLDF changed (lower is better; variety: 1)", columns, rows)
    lora, hldf = figures["sets"]["lora"], figures["sets"]["hldf"]
    log.info(
        "HLDF vs LoRA alone: channel means %.2f, channel spreads %.2f of the error; color "
        "variety %.2f after %.2f of the real images'; captions fully correct: %.0f %%; %.0f s",
        hldf["mean_gap"] / lora["mean_gap"], hldf["spread_gap"] / lora["spread_gap"],
        hldf["variety"], lora["variety"], 100 * figures["captions"]["all"], figures["seconds"],
    )  # fmt: skip
    log.info("%s", word_ranking(figures["ranking"]))
