"""The demo in processes of its own: its table, its answers, and what it costs, for several seeds.

python -m tests.bench.bench_demo [SEED ...]    (0 and 1 by default; some minutes each)
"""

import json
import os
import sys
import tempfile
import time

FORMS = {
    "frechet": ".1f", "kernel": ".3f", "color_mean": ".4f", "color_spread": ".4f",
    "color_energy": ".4f", "color_variety": ".2f", "vendi": ".2f", "accuracy_mix": ".3f",
}  # fmt: skip


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
    """Print a row for each arm, then the answers and the cost."""
    print(f"| seed | arm | {' | '.join(FORMS)} |")
    print("|---" * (2 + len(FORMS)) + "|")
    said = []
    for seed in [int(word) for word in sys.argv[1:]] or [0, 1]:
        with tempfile.TemporaryDirectory() as folder:
            figures = run_demo(seed, folder)
        for name, means in figures["arms"].items():
            cells = [f"{means[key]:{form}}" for key, form in FORMS.items()]
            print(f"| {seed} | {name} | {' | '.join(cells)} |", flush=True)
        said.append(
            f"\nseed {seed}: {figures['wall']:.0f} s, {figures['megabytes']:.0f} MB, captions "
            f"fully correct {figures['captions']['all']:.3f}"
        )
        said += [
            f"- {item['question']} {item['answer']} ({item['figures']})"
            for item in figures["verdicts"]
        ]
    print("\n".join(said))


if __name__ == "__main__":
    main()
