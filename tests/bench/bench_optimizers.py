"""Optimizers and adapters: the held-out loss after the same steps, each at its usual learning rate.

    python -m tests.bench.bench_optimizers DATA OUT      # DATA/<class>/*.jpg, real images

Half of the images are held out, by seed. The base is `tiny`, at 64 pixels, without HLDF. What is
done is not done again; a table is printed at the end. Prodigy needs `pip install prodigyopt`. With
`--device cuda` (not run on a GPU yet) 8-bit AdamW is measured too, which needs bitsandbytes.
"""

import argparse
import json
from contextlib import suppress
from pathlib import Path

import torch

from medart_cli.cli import main as medart

SEEDS = (0, 1, 2)
COMMON = (
    "--base tiny --resolution 64 --batch-size 8 --lr-schedule cosine --rank 16 --hldf-every 0 "
    "--preview-every 0 --steps 200 --val-fraction 0.5 --val-every 200 --val-count 306"
)
RATE = "--learning-rate 1e-3"  # of AdamW on this base; the others' in the same proportion
ARMS = {
    "LoRA, adamw": RATE,
    "LoRA, adafactor": f"--optimizer adafactor {RATE}",
    "LoRA, lion": "--optimizer lion --learning-rate 3e-4",
    "LoRA, muon": f"--optimizer muon {RATE}",
    "LoRA, prodigy": "--optimizer prodigy",
    "DoRA, adamw": f"--method dora {RATE}",
    "LoKr, adamw": f"--method lokr {RATE}",
    "LoHa, adamw": f"--method loha {RATE}",
    "full, adamw": f"--method full {RATE}",
    "full, muon": f"--method full --optimizer muon {RATE}",
}


def train(data, run, options, seed, device):
    words = f"finetune {data} --out {run} {COMMON} {options} --seed {seed} --quiet".split()
    words += ["--device", device]
    with suppress(SystemExit):  # 0, or what is missing below says so
        medart(words)


def measure(run):
    facts = json.loads((run / "run.json").read_text())
    size = sum(path.stat().st_size for path in run.glob("t*/*.safetensors")) / 1e6
    state = (run / "checkpoints/step-000200/optimizer.safetensors").stat().st_size / 1e6
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = sorted(row["seconds"] for row in steps if "loss" in row)
    return facts["figures"]["heldout"], size, state, seconds[len(seconds) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    if asked.device != "cpu":
        ARMS["LoRA, adamw8bit"] = f"--optimizer adamw8bit {RATE}"
    torch.set_num_threads(1)
    for seed in SEEDS:  # all arms of a seed one after the other
        for place, options in enumerate(ARMS.values()):
            train(asked.data, asked.out / f"{place}-{seed}", options, seed, asked.device)
    print("| | held-out loss, seeds 0, 1, 2 | of trained images | MB | state, MB | step, s |")
    print("|---|---|---|---|---|---|")
    for place, arm in enumerate(ARMS):
        found = [measure(asked.out / f"{place}-{seed}") for seed in SEEDS]
        held = " ".join(f"{it['val_loss']:.4f}" for it, *_ in found)
        trained = " ".join(f"{it['train_loss']:.4f}" for it, *_ in found)
        _, size, state, _ = found[0]
        seconds = sorted(it[3] for it in found)[1]
        print(f"| {arm} | {held} | {trained} | {size:.1f} | {state:.1f} | {seconds:.3f} |")
    before = [measure(asked.out / f"0-{seed}")[0]["val_loss_before"] for seed in SEEDS]
    print("before training:", " ".join(f"{it:.4f}" for it in before))


if __name__ == "__main__":
    main()
