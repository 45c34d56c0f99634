"""What manifests of many lines cost: memory beyond the libraries, and CPU seconds.

    python -m tests.bench.bench_scale                        # a million lines, some 5 minutes
    python -m tests.bench.bench_scale --rows 100000          # short
    python -m tests.bench.bench_scale --features 100000      # evaluate, of cached features

Each case runs in a process of its own, which says how far its memory (resident, VmHWM of Linux)
rose at most above what it was with all libraries loaded. No model is loaded and no image is there:
this is the bookkeeping that a run does before, beside and after the work itself. With --features,
half of the images are real and half synthetic, each of a few bytes, and the cache has (random)
features of all of them; the network is loaded, but has nothing to do.
"""

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medart_cli.cli import main
from medart_cli.config import EvaluateConfig, SampleConfig
from medart_cli.data.journal import Journal
from medart_cli.data.manifest import ManifestWriter, write_manifest
from medart_cli.data.stored import StoredRecords, join_manifests
from medart_cli.metrics import features
from medart_cli.metrics.features import IMAGES_A_FILE
from medart_cli.models.backbone import EMBEDDED
from medart_cli.ranks import Part
from medart_cli.stages import caption, evaluate, sample  # noqa: F401 - before memory is counted
from medart_cli.stages.evaluate_setup import build_networks
from medart_cli.stages.sample import finished_rows
from medart_cli.stages.sample_prompts import read_prompts

WORDS = "round oval irregular smooth dark pale brown red border surface spot center streak".split()
LABELS = ("melanoma", "nevus", "seborrheic keratosis")
LENGTH = 70  # words, some 450 characters: a caption of 100 tokens


def draw_rows(count, *, captions):
    """Rows as caption writes them: each text is another one."""
    generator = np.random.default_rng(0)
    for row in range(count):
        fields = {"file_name": f"images/{row // 1000:04d}/{row:07d}.jpg", "label": LABELS[row % 3]}
        if captions:
            fields["text"] = " ".join(generator.choice(WORDS, LENGTH))
            fields["caption"] = {"model": "m", "seed": row, "attempts": 1, "status": "ok"}
        yield fields


def sample_from(folder, rows):
    """`sample --from`: read, hash, see what is done (half of it), split into batches."""
    config = SampleConfig(run="run", from_data=str(folder / "texts.jsonl"), out=folder / "syn")
    prompts = read_prompts(config)
    prompts.hash()
    done = finished_rows(folder / "syn", [folder / "syn" / "metadata.jsonl"], rows)
    starts = Part(0, 1).take(range(0, rows, 4))
    batches = [range(start, start + 4) for start in starts]
    return len([batch for batch in batches if not done[batch.start : batch.stop].all()])


def sample_join(folder, rows):
    """The parts of `sample --shard` become one manifest."""
    join_manifests(folder / "joined.jsonl", sorted(folder.glob("part-*.jsonl")), "row")


def caption_resume(folder, rows):
    """`caption` of a manifest of which an unfinished run has done all rows but ten."""
    words = ["caption", folder / "plain.jsonl", "--style", "simple", "--review", 10, "--quiet"]
    with contextlib.suppress(SystemExit):
        main([str(word) for word in words])


def evaluate_cached(folder, rows):
    """`evaluate` where the cache has all features: distances, colors, copies, the page."""
    words = ["evaluate", folder / "real.jsonl", folder / "synthetic.jsonl", *CACHED]
    words += ["--cache", folder / "cache", "--out", folder / "report", "--bootstrap", 20]
    with contextlib.suppress(SystemExit):
        main([str(word) for word in words])
    assert (folder / "report" / "metrics.json").is_file()


def prepare_features(folder, count):
    """Write two sets of files of a few bytes, and features of them all into the cache."""
    generator, keys = np.random.default_rng(0), []
    for name in ("real", "synthetic"):
        rows = []
        for row in range(count // 2):
            path = folder / name / f"{row // 1000:04d}" / f"{row:07d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{name} {row}".encode())
            keys.append(hashlib.sha256(path.read_bytes()).hexdigest())
            rows.append({"file_name": str(path.relative_to(folder)), "label": LABELS[row % 3]})
        write_manifest(folder / f"{name}.jsonl", rows)
    names = {"real": "real", "synthetic": ["synthetic"], "out": folder / "report"}
    config = EvaluateConfig(**names, features=[EMBEDDED], offline=True, device="cpu")
    for extractor in build_networks(config, folder / "cache").all:
        for start in range(0, count, IMAGES_A_FILE):
            part = keys[start : start + IMAGES_A_FILE]
            values = generator.random((len(part), extractor.width), dtype=np.float32)
            place = features._cache_folder(folder / "cache", extractor)
            features._write_cache(place, part, values, extractor)


def prepare(folder, rows):
    """Write what the cases read."""
    write_manifest(folder / "texts.jsonl", draw_rows(rows, captions=True))
    write_manifest(folder / "plain.jsonl", draw_rows(rows, captions=False))
    (folder / "syn").mkdir()
    made = ({**fields, "file_name": f"{row:06d}.png", "row": row}
            for row, fields in enumerate(draw_rows(rows // 2, captions=True)))  # fmt: skip
    write_manifest(folder / "syn" / "metadata.jsonl", made)
    for part in range(4):
        lines = ({**fields, "row": row} for row, fields in enumerate(draw_rows(rows, captions=True))
                 if row % 4 == part)  # fmt: skip
        write_manifest(folder / f"part-{part}.jsonl", lines)
    caption_resume(folder, 0)  # writes the settings, and all captions
    (folder / "plain.jsonl").unlink()
    write_manifest(folder / "plain.jsonl", draw_rows(rows, captions=False))
    journal = Journal(folder / "plain.jsonl", StoredRecords(folder / "plain.jsonl"))
    with ManifestWriter(journal.path) as writer:
        for row, fields in enumerate(draw_rows(rows, captions=True)):
            if row % (rows // 10):
                result = {key: fields[key] for key in ("text", "caption")}
                writer.append({"file_name": fields["file_name"], "twin": 0, "result": result})


CASES = {case.__name__: case for case in (sample_from, sample_join, caption_resume)}
FEATURE_CASES = {"evaluate_cached": evaluate_cached}
CACHED = ("--features", EMBEDDED, "--offline", "--device", "cpu", "--quiet")


def memory(name):
    """Return a figure of Linux on this process in MB: VmRSS, resident now; VmHWM, at most."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


def run():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, help="cached features instead of lines")
    parser.add_argument("--case", choices=[*CASES, *FEATURE_CASES])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.case:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading the libraries
        before, started = memory("VmRSS"), time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            (CASES | FEATURE_CASES)[options.case](options.folder, options.rows)
        seconds = time.process_time() - started
        rise = memory("VmHWM") - before
        print(json.dumps({"case": options.case, "mb": rise, "seconds": seconds}))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.features:
            prepare_features(Path(folder), options.features)
            print(f"{options.features} cached images")
        else:
            prepare(Path(folder), options.rows)
            print(f"{options.rows} rows of {LENGTH} words")
        for case in FEATURE_CASES if options.features else CASES:
            command = [sys.executable, "-m", "tests.bench.bench_scale", "--rows", str(options.rows)]
            done = subprocess.run(
                [*command, "--case", case, "--folder", folder], capture_output=True, text=True,
                check=True,
            )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"{case}: {found['mb']:.1f} MB, {found['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    run()
