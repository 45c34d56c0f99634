"""What stands beside every output: settings, versions, JSON facts, HTML pages."""

import base64
import html
import io
import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from huggingface_hub import ModelCardData
from PIL import Image

from medart_cli.data.files import FULL, draft_of
from medart_cli.data.folders import SETTINGS_HEAD
from medart_cli.data.lock import LOCK_NAME, check_lock, hold_lock
from medart_cli.errors import ConfigError

SETTINGS_NAME = "settings.toml"
DEMONSTRATION = (
    "Some of these images or captions were made with demonstration models, which know drawn "
    "phantoms only: these figures show how medart works and mean nothing for science."
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem } img { max-width: 100% }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .7rem;
  border-bottom: 1px solid #d8dde3; text-align: right; font-variant-numeric: tabular-nums }
td:first-child, th:first-child { text-align: left } figcaption, .note { color: #57606a }
figure { margin: 1rem 0; break-inside: avoid } @media print { body { margin: 0 } }
"""


@dataclass(frozen=True)
class Output:
    """An output folder, and what it belongs to.

    Attributes:
        folder: The folder.
        stage: Name of the command that writes it.
        settings: Effective settings of this run, flat.
        ignore: Settings that may differ between the run that began the folder and this one.
        overwrite: Whether to remove what an earlier run of the stage wrote there.
        inputs: What this run reads; the folder may not be or hold any of it.
        part: Number of the part of the work that this run does, from 1; 0 does it all.
        formerly: Settings that an older folder does not name, and what they were then.
    """

    folder: Path
    stage: str
    settings: dict[str, Any]
    ignore: frozenset[str]
    overwrite: bool
    inputs: Sequence[str | Path | None] = ()
    part: int = 0
    formerly: Mapping[str, Any] = field(default_factory=dict)


def check_output(output: Output) -> bool:
    """Say whether the folder holds an earlier run of the same settings, without changing it.

    Raises:
        ConfigError: The folder holds other things, belongs to other settings, is an input, or
            another run is at work on it.
    """
    check_lock(output.folder / LOCK_NAME, output.folder)
    return _is_continued(output)


def _is_continued(output: Output) -> bool:
    folder, file = output.folder, output.folder / SETTINGS_NAME
    try:
        for source in output.inputs:
            if source is None or not Path(source).exists():  # a hub id, or standard input
                continue
            if Path(source).resolve().is_relative_to(folder.resolve()):
                raise ConfigError(f"{folder}: holds {source}, which this command reads")
        if not folder.exists() or not _entries(folder):
            return False
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not text.startswith(_head(output.stage)):
            raise ConfigError(
                f"{folder}: is not empty and was not written by medart {output.stage}; name another"
            )
        old = {**output.formerly, **tomllib.loads(text)}
        change = first_change(old, output.settings, output.ignore)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{folder}: cannot be used as output folder: {reason}") from error
    if change and not output.overwrite:
        raise ConfigError(
            f"{folder}: belongs to other settings: {change}; name another folder, or start "
            "anew with --overwrite"
        )
    return not output.overwrite


@contextmanager
def open_output(output: Output) -> Iterator[bool]:
    """Make an output folder ready and keep other runs off it while the block runs.

    The folder is new, continued, or, with `overwrite`, emptied.

    Yields:
        Whether the folder holds an earlier run of the same settings, to be continued.

    Raises:
        ConfigError: As `check_output`, or the folder cannot be written.
        OSError: The disk is full.
    """
    _is_continued(output)
    folder = output.folder
    with _refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _refused(folder):
            stack.enter_context(hold_lock(folder / LOCK_NAME, folder, part=output.part))
        continued = _is_continued(output)  # again: another run may have ended just now
        with _refused(folder):
            if output.overwrite:
                _empty(folder)
            text = _head(output.stage) + tomli_w.dumps(output.settings)
            with draft_of(folder / SETTINGS_NAME, shared=output.part > 0) as draft:
                draft.write_text(text, encoding="utf-8")
        yield continued


@contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """Turn what the system refuses into a wrong request, but not a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        raise ConfigError(f"{folder}: cannot be used as output folder: {error.strerror}") from error


def _entries(folder: Path) -> list[Path]:
    """List a folder without what a run that was killed at its very beginning leaves there."""
    left = (LOCK_NAME, f".{SETTINGS_NAME}.")
    return [path for path in folder.iterdir() if not path.name.startswith(left)]


def _empty(folder: Path) -> None:
    """Remove what an earlier run wrote; its settings last, so that a kill leaves it medart's."""
    for path in sorted(_entries(folder), key=lambda path: path.name == SETTINGS_NAME):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _head(stage: str) -> str:
    return f"{SETTINGS_HEAD.decode()}{stage}, in the form that its --config reads.\n"


def first_change(old: dict[str, Any], new: dict[str, Any], ignore: frozenset[str]) -> str | None:
    """Name the first setting in which two tables differ, with both values; None if none does.

    Names that begin with an underscore are no settings but hashes of what an output belongs to.
    """
    names = (old.keys() | new.keys()) - ignore
    for name in sorted(names, key=lambda name: (name[0] == "_", name)):
        if old.get(name) != new.get(name):
            if name[0] == "_":
                return f"its {name[1:]} changed"
            return f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
    return None


def write_text(path: Path, text: str) -> None:
    """Write a text file in one move."""
    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write facts as indented JSON, in one move."""
    write_text(path, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def build_page(title: str, parts: Sequence[str]) -> str:
    """Join HTML parts to one page that needs nothing from outside."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}</html>\n"
    )


def build_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make an HTML table; all cells are escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def build_inputs(inputs: Sequence[Mapping[str, Any]]) -> str:
    """Make the section on what was read: a row for each data set, from `Account.facts`."""
    columns = ["data set", "images", "labels", "splits", "patients", "texts", "passed over"]
    return "<h2>What was read</h2>" + build_table(columns, [_tell_input(item) for item in inputs])


def _tell_input(item: Mapping[str, Any]) -> list[str]:
    patients = "unknown" if item["patients"] is None else str(item["patients"])
    if item["patients"] and item["without_patient"]:
        patients += f"; {item['without_patient']} images without one"
    texts = str(item["texts"]) + (f", {item['empty_texts']} empty" if item["empty_texts"] else "")
    counts = [_list_counts(item[key]) for key in ("labels", "splits")]
    cells = [str(item["source"]), str(item["images"]), *counts, patients, texts]
    return [*cells, _list_counts(item["passed_over"])]


def _list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


def build_figure(image: Image.Image, caption: str, *, lossy: bool = False) -> str:
    """Put an image into the page itself, with a caption; `lossy` saves space with JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG" if lossy else "PNG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    kind = "jpeg" if lossy else "png"
    return (
        f"<figure><img src='data:image/{kind};base64,{data}' alt=''>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def plot_losses(log: Path, picture: Path) -> None:
    """Draw the losses of a run's metrics.jsonl as a PNG: noise loss above, color loss below."""
    from matplotlib.figure import Figure  # a second to load, and only needed here

    from medart_cli.data.charts import save_figure

    with log.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    names = [name for name in ("loss", "color_loss") if any(name in row for row in rows)]
    figure = Figure(figsize=(7, 2.5 * max(1, len(names))), layout="constrained")
    for place, name in enumerate(names):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes = figure.add_subplot(len(names), 1, place + 1)
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 60 else None)
        axes.set(xlabel="optimizer step", ylabel=name.replace("_", " "))
        axes.grid(alpha=0.3)
    save_figure(figure, picture, dpi=120)


def _tell_hldf(facts: dict[str, Any]) -> str:
    count = facts["figures"]["color_losses"]
    if not count:
        return "without HLDF"
    kind = {"published": "as published", "score": "the energy score"}[facts["hldf"]["loss"]]
    return f"with the HLDF color loss ({kind}) in {count} of them"


def word_patients(count: int | None) -> str:
    """Say how many patients a set is of, where that is known; files are never counted as such."""
    return "patients unknown" if count is None else f"{count} patients"


def build_merged_card(facts: dict[str, Any], pipeline: str) -> str:
    """Write the model card of a merged run: how plain diffusers draws what medart draws.

    Args:
        facts: The content of run.json.
        pipeline: Name of the class of diffusers that opens the folder.
    """
    front = ModelCardData(
        base_model=facts["base_name"],
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["medical-imaging", "synthetic-data", "pixart", "medart"],
    )
    side = facts["resolution"]
    notice = f"\n**{DEMONSTRATION}**\n" if facts["demonstration"] else ""
    return f"""---
{front.to_yaml()}
---
# PixArt fine-tuned with medart, merged to a whole pipeline
{notice}
Trained at {side} pixels. `medart sample` draws it at that size, and diffusers draws the same with

```python
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained(folder)
image = pipeline(
    prompt, height={side}, width={side}, num_inference_steps=20, guidance_scale=4.5,
    clean_caption=False, use_resolution_binning=False,
).images[0]
```
By default the pipeline cleans captions like texts from the web where ftfy and beautifulsoup4 are
installed. The model was not trained on captions so cleaned: leave `clean_caption=False` in.
"""


def build_card(facts: dict[str, Any]) -> str:
    """Write the model card of a run, with the front matter that the Hugging Face hub reads.

    Args:
        facts: The content of run.json; a card may be published, so no paths among its settings.
    """
    data, trained = facts["data"], " and ".join(facts["trained"])
    labels = "".join(f"| {name} | {count} |\n" for name, count in data["labels"].items())
    front = ModelCardData(
        base_model=facts["base_name"],
        library_name="diffusers" if facts["method"] == "full" else "peft",
        pipeline_tag="text-to-image",
        tags=["medical-imaging", "synthetic-data", "pixart", facts["method"], "medart"],
    )
    settings = tomli_w.dumps(facts["settings"])  # in the form that --config reads
    figures = json.dumps(facts["figures"], indent=1)
    notice = f"\n**{DEMONSTRATION}**\n" if facts["demonstration"] else ""
    return f"""---
{front.to_yaml()}
---
# PixArt fine-tuned with medart on {data["images"]} medical images

{facts["method"]} on {trained}, {facts["step"]} optimizer steps at {facts["resolution"]} pixels,
{_tell_hldf(facts)} (Med-Art, arXiv 2506.20449).
{notice}
## Intended use
Research on synthetic images: augmentation, teaching, testing of software. Not for diagnosis, and
not a substitute for real cases. A model trained on few images may repeat some of them: look for
near-copies before images are shared, and treat this model as you treat its training data.

## Data
{data["images"]} images, hash `{data["hash"][:16]}`; {word_patients(facts["patients"])}.

| label | images |
|---|---|
{labels}
## Figures
```json
{figures}
```

## Settings
```toml
{settings}```
"""
