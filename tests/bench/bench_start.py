"""How long each command takes to its first line and to its end where there is little to do.

    python -m tests.bench.bench_start [--tree FOLDER] [--repeats 3]

Requests that are refused, outputs that are finished, parts to join, captions from the template
alone: each in a process of its own, with the tiny models, offline. `--tree` measures another
checkout with the same libraries. Prints a Markdown table: seconds to the first line and to the end
(the least of the repeats), which of the heavy libraries were loaded, and how many lines of medart.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAVY = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "sklearn")
REPORT = f"""
import atexit, json, os, sys
def tell():
    own = [m.__file__ for n, m in list(sys.modules.items()) if n.split('.')[0] == 'medart_cli']
    lines = sum(sum(1 for _ in open(f, encoding='utf-8')) for f in own if f)
    loaded = [n for n in {HEAVY!r} if n in sys.modules]
    open(os.environ['BENCH_REPORT'], 'w').write(json.dumps(dict(loaded=loaded, lines=lines)))
atexit.register(tell)
import medart_cli.__main__ as door
door.main()
"""
IMAGES = "from medart_cli.tiny.dataset import *; from pathlib import Path; write_phantoms(Path({!r}), choose_phantoms('shifted', per_label=5, seed={}), seed={})"  # noqa: E501
# A name, what to measure, what comes before it (once), and the files it must find anew each time.
CASES = [
    ("medart --help", "--help"),
    ("medart finetune --help", "finetune --help"),
    ("caption, refused path", "caption nowhere"),
    ("finetune, refused path", "finetune nowhere --out r"),
    ("sample, refused path", "sample nowhere --prompt a --out s"),
    ("evaluate, refused path", "evaluate nowhere elsewhere --out e"),
    ("classify, refused path", "classify nowhere --out c"),
    ("doctor", "doctor"),
    ("doctor --base tiny", "doctor --base tiny"),
    ("caption, 20 template captions", "caption plain --style simple --base tiny"),
    ("caption, finished", "caption train --base tiny --style simple"),
    ("caption, join two parts", "caption parts --base tiny --style simple"),
    ("finetune, finished", "finetune train --base tiny --steps 2 --out run --preview-every 0"),
    ("sample, finished", "sample run --from train --out syn --steps 2"),
    ("sample, join two parts", "sample run --from train --out joined --steps 2"),
    ("evaluate, finished", "evaluate test syn --out report"),
    ("classify, finished", "classify train --freeze --out clf"),
]
BEFORE = [
    "caption train --base tiny --style simple",
    "caption test --base tiny --style simple",
    "caption parts --base tiny --style simple --shard 1/2",
    "caption parts --base tiny --style simple --shard 2/2",
    "finetune train --base tiny --steps 2 --out run --preview-every 0",
    "sample run --from train --out syn --steps 2",
    "sample run --from train --out joined --steps 2 --shard 1/2",
    "sample run --from train --out joined --steps 2 --shard 2/2",
    "evaluate test syn --out report",
    "classify train --freeze --out clf",
]


def main() -> None:
    """Prepare what the cases find, measure each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place, tree = Path(name) / "ready", options.tree.resolve()
        place.mkdir()
        for seed, part in enumerate(("train", "test", "plain", "parts")):
            run(tree, place, ["-c", IMAGES.format(part, seed, seed)])
        for line in BEFORE:
            measure(tree, place, line)
        print("| call | first line, s | end, s | loaded | lines of medart |")
        print("|---|---|---|---|---|")
        for title, line in CASES:
            times = []
            for number in range(options.repeats):
                fresh = Path(name) / f"work-{number}"
                shutil.copytree(place, fresh, symlinks=True)
                fresh.rename(Path(name) / "work")  # the same path each time: outputs name theirs
                times.append(measure(tree, Path(name) / "work", line))
                shutil.rmtree(Path(name) / "work")
            first, end = (min(item[key] for item in times) for key in ("first", "end"))
            loaded = ", ".join(times[0]["loaded"]) or "-"
            print(f"| {title} | {first:.2f} | {end:.2f} | {loaded} | {times[0]['lines']} |")


def run(tree: Path, place: Path, words: list[str]) -> None:
    """Run Python in a folder, with the medart of a checkout."""
    subprocess.run([sys.executable, *words], cwd=place, env=environment(tree, place), check=True)


def environment(tree: Path, place: Path) -> dict[str, str]:
    """Return the environment of a measured process: offline, with caches of its own."""
    return os.environ | {
        "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "MEDART_CACHE": str(place.parent / "cache"), "BENCH_REPORT": str(place.parent / "report"),
        "MPLCONFIGDIR": str(place.parent / "matplotlib"), "PYTHONSAFEPATH": "1",
    }  # fmt: skip


def measure(tree: Path, place: Path, line: str) -> dict[str, object]:
    """Run one command; return the seconds to its first line and to its end, and what it loaded."""
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", REPORT, *line.split()], cwd=place, env=environment(tree, place),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        first = time.monotonic() - started
        said += process.stdout.read()
    end = time.monotonic() - started
    if process.returncode not in (0, 1, 2, 4):
        raise RuntimeError(f"{line}: {said.decode()}")
    told = json.loads((place.parent / "report").read_text())
    return {"first": first, "end": end, **told}


if __name__ == "__main__":
    main()
