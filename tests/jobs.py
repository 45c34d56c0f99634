"""The commands on small models and images, for tests that do the same to each of them."""

import hashlib
import json
import shutil

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from tests.small import build_base
from tests.small_captioner import build_llava

SMALL = {"input_size": (3, 32, 32)}  # of timm's models

LABELS = ("melanoma", "nevus")
COMMANDS = ("caption", "finetune", "sample", "evaluate", "classify", "reader")
ALL = (*COMMANDS, "study")  # it runs four of them, so it is not stopped or filled up with them
COUNT = 8  # images a set
# What a run that was resumed need not have in common with one that was not.
VARYING = ("seconds", "memory_gb", "drawn", "captioned")
# Repeat such figures, or hash files that name the folder.
PAGES = (
    "report.html", "review.html", "README.md", "sha256sums.txt", "finished.json", "costs.csv",
    "tables.md", "tables.tex",
)  # fmt: skip


def build_parts(folder):
    """Save the models and images that `command` names."""
    build_base(folder / "base")
    build_llava(folder / "llava")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=2, pretrained_cfg_overlay=SMALL)
    save_for_hf(
        network,
        folder / "network",
        safe_serialization=True,
    )
    for seed, name in enumerate(("images", "synthetic", "test")):
        draw_images(folder / name, seed, synthetic=name == "synthetic")
    return folder


def draw_images(folder, seed, *, synthetic=False):
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(COUNT):
        label = LABELS[index % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        pixels = generator.normal((200, 120, 110), 30, (32, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / label / f"{index}.png")
        rows.append({"file_name": f"{label}/{index}.png", "label": label, "synthetic": synthetic})
    if synthetic:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def command(stage, parts, out):
    """Return the words of a stage's command, which writes all it writes below `out`."""
    images = parts / "images"
    if stage == "caption":  # writes into its image folder
        if not (out / "images").exists():
            shutil.copytree(images, out / "images")
        models = ("--model", parts / "llava", "--base", parts / "base")
        words = (out / "images", *models, "--max-new-tokens", 4, "--attempts", 2)
        words += ("--max-refused", 1)  # weights of chance say nothing that is taken
    elif stage == "finetune":
        words = (images, "--base", parts / "base", "--out", out / "run", "--resolution", 16)
        words += ("--steps", 6, "--save-every", 2, "--hldf-every", 3, "--hldf-steps", 2)
        words += ("--preview-every", 3, "--preview-count", 1)
    elif stage == "sample":
        words = (parts / "base", "--from", images, "--out", out / "syn", "--resolution", 16)
        words += ("--steps", 2, "--batch-size", 2)
    elif stage == "evaluate":
        words = (images, parts / "synthetic", "--features", parts / "network")
        words += ("--bootstrap", 20, "--floor-repeats", 2, "--batch-size", 4)
        words += ("--out", out / "report")
    elif stage == "reader":
        words = (images, parts / "synthetic", "--count", 4, "--out", out / "kit")
        return [stage, *map(str, words), "--quiet"]  # it has no model to put on a device
    elif stage == "study":
        words = (images, "--test", parts / "test", "--arms", "lora", "--seeds", 1)
        words += ("--out", out / "study", "--sample", "--steps 2 --batch-size 8")
        words += ("--finetune", f"--base {parts / 'base'} --resolution 16 --steps 2 --hldf-every 0")
        options = f"--features {parts / 'network'} --bootstrap 20 --floor-repeats 2"
        words += ("--evaluate", f"{options} --member-count 4")
        words += ("--classify", f"--freeze --backbone {parts / 'network'} --bootstrap 100")
    else:
        words = (images, "--synthetic", parts / "synthetic", "--test", parts / "test")
        words += ("--backbone", parts / "network", "--bootstrap", 100)
        words += (
            "--regimes",
            "real,mix",
            "--seeds",
            1,
            "--epochs",
            2,
            "--batch-size",
            4,
            "--out",
            out / "clf",
        )
    return [stage, *map(str, words), "--device", "cpu", "--quiet"]


def outcome(folder):
    """Return what two runs of one command have in common: each file, with a digest of it."""
    return {
        path.relative_to(folder).as_posix(): hash_content(path, folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def hash_content(path, folder):
    content = path.read_bytes().replace(str(folder).encode(), b"OUT")
    if path.name in PAGES:
        return "a page"
    if path.suffix == ".json":
        content = json.dumps(without_varying(json.loads(content))).encode()
    elif path.suffix == ".jsonl":
        rows = [without_varying(json.loads(line)) for line in content.splitlines()]
        content = json.dumps(rows).encode()
    return hashlib.sha256(content).hexdigest()


def without_varying(value):
    if isinstance(value, dict):
        return {key: without_varying(item) for key, item in value.items() if key not in VARYING}
    if isinstance(value, list):
        return [without_varying(item) for item in value]
    return value
