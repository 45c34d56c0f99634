"""A small study, for tests: images with captions, and the words of its command."""

import json

from tests.jobs import COUNT, LABELS, build_parts

FINETUNE = "--resolution 16 --steps 2 --preview-every 0 --hldf-every 1 --config {file}"


def build_study(folder):
    """Save models and images, the training ones with captions."""
    build_parts(folder)
    labels = [LABELS[index % 2] for index in range(COUNT)]
    rows = [
        {"file_name": f"{label}/{index}.png", "label": label, "text": f"A {label}. It is {index}"}
        for index, label in enumerate(labels)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "images" / "metadata.jsonl").write_text(text)
    (folder / "hldf.toml").write_text("hldf_steps = 2\n")
    return folder


def study_words(folder, out, *more, arms="before,lora,score,simple", finetune=""):
    """Return the words of a study's command, below `folder`, as texts."""
    finetune = f"{FINETUNE.format(file=folder / 'hldf.toml')} {finetune}"
    words = ["study", folder / "images", "--test", folder / "test", "--out", out]
    words += ["--arms", arms, "--seeds", 2, "--device", "cpu"]
    words += ["--finetune", f"--base {folder / 'base'} {finetune}"]
    words += ["--sample", "--steps 2 --batch-size 8"]
    words += ["--evaluate", f"--features {folder / 'network'} --bootstrap 20 --floor-repeats 2"]
    words += ["--classify", f"--freeze --backbone {folder / 'network'} --bootstrap 100"]
    return [*map(str, words), *map(str, more)]
