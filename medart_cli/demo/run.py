"""A small study of drawn phantoms with the embedded `tiny` models: a few minutes, no network.

Runs the commands that a user would run, in one process: caption, then study, which runs the others.
The page is the study's.
"""

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medart_cli import __version__
from medart_cli.data.files import draft_of
from medart_cli.data.finished import find_finished, hash_parts, note_finished
from medart_cli.data.manifest import MANIFEST_NAME, read_manifest
from medart_cli.data.output import Output, open_output, write_json, write_text
from medart_cli.demo.options import DemoConfig
from medart_cli.log import log
from medart_cli.outlook import Outlook
from medart_cli.shell import complete, type_command, word_command
from medart_cli.tiny.dataset import choose_phantoms, compare_captions, write_phantoms
from medart_cli.tiny.phantoms import PROFILE, Phantom
from medart_cli.versions import name_versions

TRAIN, TEST = 40, 20  # phantoms of each of the four classes
SEEDS = 3
CAPTION = ("--model", "tiny", "--base", "tiny", "--profile", PROFILE, "--temperature", "0",
           "--batch-size", "32")  # fmt: skip
# A larger rate and fewer steps than in practice, for time.
FINETUNE = (
    "--base tiny --steps 60 --batch-size 8 --learning-rate 1e-3 --lr-schedule cosine "
    f"--preview-every 0 --profile {PROFILE}"
)
SAMPLE = "--steps 15 --batch-size 40"
EVALUATE = "--features efficientnet-lite0 --bootstrap 100 --member-count 16"
CLASSIFY = "--freeze"
# The grid of colors is for the phantoms' round view with dark corners.
ARMS_FILE = """[before]
[lora]
[score]
title = "HLDF with the color score"
finetune = "--hldf-every 4 --hldf-statistics grid"
"""
KEPT_FILES = (
    "report.html",
    "pictures.png",
    "study.json",
    "table.csv",
    "table.tex",
    "table.md",
    "methods.md",
)


@dataclass
class Session:
    """A demo on its way.

    Attributes:
        config: Its options.
        folder: Where the commands read and write.
        lines: Every command that was typed, with its seconds.
    """

    config: DemoConfig
    folder: Path
    lines: list[tuple[str, float]] = field(default_factory=list)

    def type(self, *words: str) -> None:
        """Run a command just as a user's shell would; without network, whatever was asked for."""
        typed = complete([*words, "--seed", str(self.config.seed)], self.config)
        typed += [] if self.config.offline else ["--offline"]
        started = time.monotonic()
        type_command(typed, self.config)
        self.lines.append((word_command(typed), time.monotonic() - started))


def run(config: DemoConfig) -> dict[str, Any]:
    """Draw phantoms, caption them, study them, and keep what the study wrote."""
    started = time.monotonic()
    out = config.keep or Path("demo")
    made_of = hash_parts([config.settings(), __version__, name_versions()])
    with open_output(
        Output(out, "demo", config.settings(), config.name_run_only(), overwrite=None)
    ):
        if (summary := find_finished(out, made_of)) is not None:
            log.info("%s: already finished; nothing to do", out)
            return summary
        session = Session(config, out / "work")
        test = write_dataset(session)
        type_commands(session)
        for name in KEPT_FILES:
            with draft_of(out / name) as draft:
                shutil.copyfile(session.folder / "study" / name, draft)
        figures = read_figures(session, test) | {"seconds": round(time.monotonic() - started, 1)}
        write_json(out / "demo.json", figures)
        log.info(
            "\ncaptions fully correct: %.0f %%; %.0f s in all",
            *(100 * figures["captions"]["all"], figures["seconds"]),
        )
        if config.keep is None:
            shutil.rmtree(session.folder)
        summary = {"result": str(out / "report.html"), **figures}
        note_finished(out, made_of, summary)
    return summary


def type_commands(session: Session) -> None:
    """Caption both sets, and study them."""
    folder = session.folder
    train, test = str(folder / "train"), str(folder / "test")
    outlook = Outlook("demo", [("caption", "train"), ("caption", "test"), ("study", "")])
    with outlook.shown():
        for images in (train, test):
            with outlook.part():
                log.info("\n%s: captions of %s images", outlook.tell(), Path(images).name)
                session.type("caption", images, *CAPTION)
        with outlook.part():
            type_study(session, train, test)


def type_study(session: Session, train: str, test: str) -> None:
    """Study both sets."""
    folder = session.folder
    write_text(folder / "arms.toml", ARMS_FILE)
    words = ["study", train, "--test", test, "--out", str(folder / "study")]
    words += ["--arms", str(folder / "arms.toml"), "--seeds", str(SEEDS), "--finetune", FINETUNE]
    words += ["--sample", SAMPLE, "--evaluate", EVALUATE, "--classify", CLASSIFY]
    session.type(*words)


def write_dataset(session: Session) -> list[Phantom]:
    """Write phantoms of the shifted domain to train and to test on; return what the latter show."""
    folder, seed = session.folder, session.config.seed
    log.info("drawing phantoms: %d to train on, %d to test on", 4 * TRAIN, 4 * TEST)
    phantoms: list[Phantom] = []
    for part, count, own in (("train", TRAIN, 2 * seed), ("test", TEST, 2 * seed + 1)):
        phantoms = choose_phantoms("shifted", per_label=count, seed=own)
        if not (folder / part / MANIFEST_NAME).is_file():  # else it may have captions already
            write_phantoms(folder / part, phantoms, seed=own)
    return phantoms


def read_figures(session: Session, test: list[Phantom]) -> dict[str, Any]:
    """Gather what was measured: the captions, and what the study answers."""
    study = json.loads((session.folder / "study" / "study.json").read_text(encoding="utf-8"))
    texts = [row.text or "" for row in read_manifest(session.folder / "test" / MANIFEST_NAME)]
    return {
        "seed": session.config.seed,
        "demonstration": True,
        "captions": compare_captions(texts, test),
        "arms": {arm["name"]: arm["mean"] for arm in study["arms"]},
        "verdicts": study["verdicts"],
        "commands": [{"line": line, "seconds": round(took, 1)} for line, took in session.lines],
    }
