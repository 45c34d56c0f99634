"""The demo in processes of its own: what HLDF does to the colors, over several seeds, and the cost.

python -m tests.bench.bench_demo [SEED ...]    (0 to 4 by default; some three minutes each)
"""

import json
import os
import sys
import tempfile
import time

MEASURES = ("mean_gap", "spread_gap", "variety", "energy")


def run_demo(seed: int, folder: str) -> dict:
    """Run it, and return its figures with seconds and the peak memory of the process in MB."""
    command = [sys.executable, "-m", "medart_cli", "demo", "--seed", str(seed), "--quiet"]
    started = time.monotonic()
    child = os.spawnv(os.P_NOWAIT, sys.executable, [*command, "--keep", folder])
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"seed {seed}: medart demo failed")
    with open(os.path.join(folder, "demo.json"), encoding="utf-8") as file:
        figures = json.load(file)
    wall = time.monotonic() - started
    return figures | {"wall": wall, "megabytes": usage.ru_maxrss / 1024}


def main() -> None:
    seeds = [int(word) for word in sys.argv[1:]] or [0, 1, 2, 3, 4]
    print(
        "| seed | set | Frechet | kernel x 1000 | mean gap | spread gap | variety | energy x 1000 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    costs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            figures = run_demo(seed, folder)
        sets = figures["sets"]
        for name, item in sets.items():
            print(
                f"| {seed} | {name} | {item['frechet']:.1f} | {1000 * item['kernel']:.0f} "
                f"| {item['mean_gap']:.4f} | {item['spread_gap']:.4f} | {item['variety']:.2f} "
                f"| {1000 * item['energy']:.1f} |"
            )
        lora, hldf = sets["lora"], sets["hldf"]
        shares = {key: hldf[key] / lora[key] for key in MEASURES}
        print(
            f"| {seed} | HLDF / LoRA | {hldf['frechet'] / lora['frechet']:.2f} "
            f"| {hldf['kernel'] / lora['kernel']:.2f} | "
            + " | ".join(f"{value:.2f}" for value in shares.values())
            + " |",
            flush=True,
        )
        costs.append(
            f"seed {seed}: {figures['wall']:.0f} s, {figures['megabytes']:.0f} MB, captions fully "
            f"correct {figures['captions']['all']:.3f}, classifiers {figures['classifiers']}"
        )
    print("\n".join(costs))


if __name__ == "__main__":
    main()
