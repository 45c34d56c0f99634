"""What manifests of many lines cost: memory beyond the libraries, and CPU seconds.

    python -m tests.bench.bench_scale                        # a million lines, some 5 minutes
    python -m tests.bench.bench_scale --rows 100000          # short
    python -m tests.bench.bench_scale --features 2000        # evaluate, of cached features
    python -m tests.bench.bench_scale --features 100000 --no-copies
    python -m tests.bench.bench_scale --reference 50000      # evaluate, copies of many real images
    python -m tests.bench.bench_scale --lines 1000000        # evaluate, of many lines of few images

Each case runs in a process of its own; what is said is how far its memory rose at most above what
it was with all libraries loaded: all of it that was resident (VmHWM of Linux), and without mapped
files (RssAnon, looked up a hundred times a second). Mapped files are feature tables on the disk,
whose pages the system drops where it needs the room. No model is loaded and no image is there: this
is the bookkeeping that a run does before, beside and after the work itself.

With --features, half of the images are real and half synthetic, of three pixels each, and the cache
has (random) features of all of them; the network is loaded, but has nothing to do. The search for
near-copies takes time with the product of both sets; --reference N asks for it with 100 synthetic
and 100 held-out images against N real ones. With --lines, a manifest names 2,000 such images again
and again, with labels and patients, beside 2,000 synthetic ones: evaluate_shard reads it, hashes
the file of each line and looks up what the cache lacks; evaluate_no_copies goes on to the report,
through tables of a row for each line.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from medart_cli.caption.journal import Journal
from medart_cli.cli import main
from medart_cli.data.manifest import ManifestWriter, hash_file, write_manifest
from medart_cli.data.stored import StoredRecords, join_manifests
from medart_cli.evaluate.networks import build_networks
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.metrics import features
from medart_cli.metrics.features import IMAGES_A_FILE
from medart_cli.models.backbone import EMBEDDED_BACKBONE
from medart_cli.ranks import Part
from medart_cli.sample.folder import finished_rows
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.prompts import read_prompts

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


def run_command(*words):
    """Run a command, which must end well."""
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        if ended.code:
            raise


def sample_from(folder, rows):
    """`sample --from`: read, see what is done (half of it), split into batches."""
    config = SampleConfig(run="run", from_data=str(folder / "texts.jsonl"), out=folder / "syn")
    prompts = read_prompts(config)
    done = finished_rows(folder / "syn", [folder / "syn" / "metadata.jsonl"], prompts)
    starts = Part(0, 1).take(range(0, rows, 4))
    batches = [range(start, start + 4) for start in starts]
    return len([batch for batch in batches if not done[batch.start : batch.stop].all()])


def sample_join(folder, rows):
    """The parts of `sample --shard` become one manifest."""
    join_manifests(folder / "joined.jsonl", sorted(folder.glob("part-*.jsonl")), "row")


def caption_resume(folder, rows):
    """`caption` of a manifest of which an unfinished run has done all rows but ten."""
    run_command("caption", folder / "plain.jsonl", "--style", "simple", "--review", 10, "--quiet")


def evaluate_cached(folder, rows, *more):
    """`evaluate` where the cache has all features: distances, colors, copies, the page."""
    words = ["evaluate", folder / "real.jsonl", folder / "synthetic.jsonl", *CACHED, *more]
    words += ["--cache", folder / "cache", "--out", folder / "report", "--bootstrap", 20]
    run_command(*words)


def evaluate_no_copies(folder, rows):
    """The same without near-copies."""
    evaluate_cached(folder, rows, "--no-copies")


def evaluate_reference(folder, rows):
    """The same with few images to look for among many real ones."""
    evaluate_cached(folder, rows, "--holdout", folder / "heldout.jsonl", "--overall")


def evaluate_shard(folder, rows):
    """A part of the feature pass that finds all features there."""
    evaluate_cached(folder, rows, "--no-copies", "--shard", "1/1")


def prepare_features(folder, counts, *, copies=True, lines=None):
    """Write sets of tiny images, and features of them all into the cache.

    Args:
        folder: Where.
        counts: Images of each set.
        copies: Whether near-copies will be looked for, which takes four more features.
        lines: Lines of the manifest of real images; one for each image if None.
    """
    generator, hashes = np.random.default_rng(0), []
    for name, count in counts.items():
        names = []
        for row in range(count):
            path = folder / name / f"{row // 1000:04d}" / f"{row:07d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("RGB", (3, 1), f"{len(hashes):09d}".encode()).save(path)
            hashes.append(hash_file(path))
            names.append(str(path.relative_to(folder)))
        rows = range((name == "real" and lines) or count)
        write_manifest(folder / f"{name}.jsonl", (
            {"file_name": names[row % count], "label": LABELS[row % 3]}
            | ({"group_id": f"patient-{row // 2:07d}"} if lines else {})
            for row in rows
        ))  # fmt: skip
    names = {"real": "real", "synthetic": ["synthetic"], "out": folder / "report"}
    config = EvaluateConfig(
        **names, features=[EMBEDDED_BACKBONE], offline=True, device="cpu", copies=copies
    )  # fmt: skip
    for extractor in build_networks(config, folder / "cache").all:
        for start in range(0, len(hashes), IMAGES_A_FILE):
            part = features.pack_hashes(hashes[start : start + IMAGES_A_FILE])
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


CASES = {case.__name__: case for case in (
    sample_from, sample_join, caption_resume, evaluate_cached, evaluate_no_copies,
    evaluate_reference, evaluate_shard,
)}  # fmt: skip
CACHED = ("--features", EMBEDDED_BACKBONE, "--offline", "--device", "cpu", "--quiet")


def memory(name, process="self"):
    """Return a figure of Linux on a process in MB: RssAnon, VmRSS, now; VmHWM, at most."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


def run_case(name, folder, rows):
    """Run one case and say what it took; the parent looks on in between."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading the libraries
    before, started = memory("VmRSS"), time.process_time()
    print(json.dumps({"own": memory("RssAnon")}), flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        CASES[name](folder, rows)
    seconds = time.process_time() - started
    print(json.dumps({"resident": memory("VmHWM") - before, "seconds": seconds}))


def measure_case(name, folder, rows):
    """Run a case in a process of its own and print its figures."""
    command = [sys.executable, "-m", "tests.bench.bench_scale", "--rows", str(rows)]
    command += ["--case", name, "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        own = before = json.loads(process.stdout.readline())["own"]
        while process.poll() is None:
            with contextlib.suppress(OSError, IndexError):  # it has just ended
                own = max(own, memory("RssAnon", process.pid))
            time.sleep(0.01)
        assert process.returncode == 0
        found = json.loads(process.stdout.readlines()[-1])
    print(
        f"{name}: {found['resident']:.1f} MB, {own - before:.1f} MB without mapped files, "
        f"{found['seconds']:.1f} s",
        flush=True,
    )


def prepare_cases(folder, options):
    """Write what the chosen cases read; return their names."""
    if options.lines:
        counts = {"real": 2000, "synthetic": 2000}
        prepare_features(folder, counts, copies=False, lines=options.lines)
        print(f"{options.lines} lines of 2,000 images")
        return ["evaluate_shard", "evaluate_no_copies"]
    if options.reference:
        counts = {"real": options.reference, "synthetic": 100, "heldout": 100}
        prepare_features(folder, counts)
        print(f"{options.reference} cached real images")
        return ["evaluate_reference"]
    if options.features:
        half = options.features // 2
        prepare_features(folder, {"real": half, "synthetic": half}, copies=options.copies)
        print(f"{options.features} cached images")
        return ["evaluate_cached" if options.copies else "evaluate_no_copies"]
    prepare(folder, options.rows)
    print(f"{options.rows} rows of {LENGTH} words")
    return ["sample_from", "sample_join", "caption_resume"]


def run():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, help="cached features instead of lines")
    parser.add_argument("--no-copies", dest="copies", action="store_false")
    parser.add_argument("--reference", type=int, help="real images that copies are looked for in")
    parser.add_argument("--lines", type=int, help="lines that evaluate reads")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.case:
        run_case(options.case, options.folder, options.rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        for case in prepare_cases(Path(folder), options):
            measure_case(case, folder, options.rows)


if __name__ == "__main__":
    run()
