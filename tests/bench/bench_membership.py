"""Membership: how often evaluate is wrong about it, and what it finds of an over-fitted run.

    python -m tests.bench.bench_membership rates
    python -m tests.bench.bench_membership over FOLDER [--train 8] [--held 120] [--full]

*Rates*: scores of two sides that differ in nothing, or by a shift, many times: how often a leak is
said, how often the interval holds the true AUC, and what is recognized at 1 % false alarms. *Over*:
the bundled base on images of FOLDER with a patient each where none is known; evaluate --run after
few steps and after many, and for a set of images that neither side was trained on (half of the
held-out ones in the place of the training images).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

from medart_cli.metrics import membership
from tests.bench.bench_heldout import FIXED, write_split

CASES = ((8, 1, 8, 1), (8, 1, 96, 1), (30, 1, 30, 1), (10, 6, 10, 6), (20, 6, 120, 1),
         (128, 1, 128, 1), (256, 1, 256, 1))  # fmt: skip


def draw_side(random, patients, each):
    """Draw scores of so many images of so many patients, half of the variance the patient's."""
    own = random.normal(size=(patients, 1)) + random.normal(size=(patients, each))
    return (own / 2**0.5).ravel(), np.repeat(np.arange(patients), each)


def show_rates(rounds):
    membership.DEALS = 499  # the rate does not depend on it
    for case in CASES:
        for shift in (0, 0.3, 1):
            shown, held, shares = 0, 0, []
            for seed in range(rounds):
                random = np.random.default_rng(seed)
                ours, first = draw_side(random, *case[:2])
                others, second = draw_side(random, *case[2:])
                labels = [None] * len(ours), [None] * len(others)
                found = membership.judge_membership(
                    (ours + shift, others), (first, second), labels, random
                )
                shown += found["shown"]
                low, high = found["interval"]
                held += low <= stats.norm.cdf(shift / 2**0.5) <= high
                shares += [found["recognized"]["share"]] if found["recognized"] else []
            mean = f"{np.mean(shares):.3f}" if shares else "-"
            print(
                f"{case[0]} x {case[1]} against {case[2]} x {case[3]}, shift {shift}: said "
                f"{shown / rounds:.3f}, interval holds {held / rounds:.3f}, recognized {mean} "
                f"(truth {stats.norm.sf(stats.norm.isf(0.01) - shift):.3f})",
                flush=True,
            )


def medart(*words):
    done = subprocess.run(
        [sys.executable, "-m", "medart_cli", *map(str, words), "--quiet"],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def show_over(place, data, train, held, options):
    manifest = write_split(data, place / "all.jsonl", train, held)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for place_, row in enumerate(rows):
        row.setdefault("group_id", f"image {place_}")

    def write(name, chosen):
        path = place / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row | {"split": "train"}) + "\n" for row in chosen))
        return path

    ours, others = write("ours", rows[:train]), write("others", rows[train:])
    half = (train + held - train) // 2
    neither = write("neither", rows[train : train + half]), write("rest", rows[train + half :])
    full = ("--method", "full") if options.full else ()
    run = place / "run"
    for steps in options.steps:
        medart("finetune", ours, "--root", "/", "--out", run, "--base", "tiny", *full,
               "--freeze-text-encoder", *FIXED, "--learning-rate", "1e-3", "--batch-size", 4,
               "--steps", steps, "--val-every", 0, "--resolution", options.resolution)  # fmt: skip
        syn = place / f"syn-{steps}"
        medart("sample", run, "--from", ours, "--root", "/", "--count", 64, "--steps", 10,
               "--batch-size", 16, "--out", syn)  # fmt: skip
        for name, training, real in (
            ("trained on", ours, others), ("neither", neither[0], neither[1]),
        ):  # fmt: skip
            if name == "neither":  # pretend that the run was trained on these
                for folder in (run, syn):
                    hide(folder, training)
            out = place / f"report-{steps}-{name.replace(' ', '-')}"
            medart("evaluate", real, syn, "--root", "/", "--training", training,
                   "--training-root", "/", "--run", run, "--out", out, "--bootstrap", 20,
                   "--floor-repeats", 2, "--device", "cpu")  # fmt: skip
            facts = json.loads((out / "metrics.json").read_text())
            found, copied = facts["membership"], facts["copies"][0]["copied"]
            sizes, (low, high) = (found["training"]["n"], found["heldout"]["n"]), found["interval"]
            print(
                f"{steps} steps, {name}, {sizes}: AUC {found['auc']:.3f} "
                f"[{low:.3f}, {high:.3f}] p {found['p_value']:.3g} "
                f"recognized {found['recognized']} losses {found['losses']}; near-copies "
                f"{facts['copies'][0]['copies']} of {facts['copies'][0]['n']}, of "
                f"{copied['copied']} of {copied['n']}",
                flush=True,
            )
            if name == "neither":
                for folder in (run, syn):
                    (folder / "kept.txt").replace(folder / "training_hashes.txt")


def hide(folder, training):
    """Put the hashes of other images in the place of those that a run was trained on."""
    from medart_cli.data.manifest import hash_file

    path = folder / "training_hashes.txt"
    path.replace(folder / "kept.txt")
    names = [json.loads(line)["file_name"] for line in training.read_text().splitlines()]
    path.write_text("".join(f"{hash_file(Path(name))}\n" for name in names))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rates", "over"])
    parser.add_argument("data", nargs="?", help="image folder, for over")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--train", type=int, default=8)
    parser.add_argument("--held", type=int, default=120)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 150, 600])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--full", action="store_true", help="full weights, not LoRA")
    chosen = parser.parse_args()
    if chosen.what == "rates":
        show_rates(chosen.rounds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            show_over(Path(folder), chosen.data, chosen.train, chosen.held, chosen)
