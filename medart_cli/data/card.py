"""Model cards: README.md of a run and of a merged pipeline."""

import json
from typing import Any

import tomli_w
from huggingface_hub import ModelCardData

from medart_cli.data.page import DEMONSTRATION_NOTICE, word_patients

# What to know of an option of the call.
CALL_NOTES = {
    "clean_caption": """By default the pipeline cleans captions like web text if ftfy and
beautifulsoup4 are installed. The model was not trained on captions cleaned that way: keep
`clean_caption=False`.
""",
    "skip_text_cleaning": """The pipeline needs the package ftfy: `pip install ftfy`. By default it
also cleans captions like web text, which the model was not trained on: keep
`skip_text_cleaning=True`.
""",
}


def _name(facts: dict[str, Any]) -> str:
    """Name the kind of base; runs of before there were several do not say it."""
    return str(facts.get("family", "PixArt"))


def _tag(facts: dict[str, Any]) -> list[str]:
    """Return the tag that the hub knows a family by."""
    return [_name(facts).split("-")[0].lower()]


def _word_license(facts: dict[str, Any]) -> str:
    """Say what binds whoever uses the model, as far as that is known of the base on the hub."""
    if "license" not in facts:
        return ""
    forbids = f" It forbids {facts['forbids']}." if facts["forbids"] else ""
    return (
        "\n## License\nOf the base model on the hub, at the time of writing: "
        f"{facts['license']}.{forbids}\nRead it before you use this model or pass it on.\n"
    )


def _tell_hldf(facts: dict[str, Any]) -> str:
    count = facts["figures"]["color_losses"]
    if not count:
        return "without HLDF"
    kind = {"published": "as published", "score": "the energy score"}[facts["hldf"]["loss"]]
    return f"with the HLDF color loss ({kind}) in {count} of them"


def _tell_format(facts: dict[str, Any]) -> str:
    """Say how the base under the adapters was stored; runs of before there was a choice do not."""
    stored = facts.get("base_format")
    return f" (on a base in {stored})" if stored else ""


def _tell_shapes(facts: dict[str, Any]) -> str:
    side, buckets = facts["resolution"], facts.get("buckets")
    if not buckets:
        return f"Trained at {side} pixels{_tell_format(facts)}."
    shapes = ", ".join(f"{name} ({count})" for name, count in buckets["images"].items())
    return (
        f"Trained with aspect buckets of about {side} x {side} pixels, height x width (images): "
        f"{shapes}{_tell_format(facts)}."
    )


def build_merged_card(facts: dict[str, Any], pipeline: str, call: str) -> str:
    """Write the model card of a merged run: how diffusers generates the same images as medart.

    Args:
        facts: The content of run.json.
        pipeline: Name of the class of diffusers that opens the folder.
        call: Options with which it draws the same.
    """
    front = ModelCardData(
        base_model=facts["base_name"],
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["medical-imaging", "synthetic-data", *_tag(facts), "medart"],
    )
    side, buckets = facts["resolution"], facts.get("buckets")
    height, width = next(iter(buckets["images"])).split("x") if buckets else (side, side)
    notice = f"\n**{DEMONSTRATION_NOTICE}**\n" if facts["demonstration"] else ""
    return f"""---
{front.to_yaml()}
---
# {_name(facts)} fine-tuned with medart, merged into a complete pipeline
{notice}{_word_license(facts)}
{_tell_shapes(facts)} `medart sample` generates images at
{"these" if buckets else "that size"}, and so does diffusers with

```python
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained(folder)
image = pipeline(
    height={height}, width={width}, num_inference_steps=20, guidance_scale=4.5,
    {call},
).images[0]
```
{"".join(note for option, note in CALL_NOTES.items() if option in call)}"""


def _add_shapes(facts: dict[str, Any]) -> str:
    return f"\n{_tell_shapes(facts)}" if facts.get("buckets") else ""


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
        tags=["medical-imaging", "synthetic-data", *_tag(facts), facts["method"], "medart"],
    )
    settings = tomli_w.dumps(facts["settings"])  # in the form that --config reads
    figures = json.dumps(facts["figures"], indent=1)
    notice = f"\n**{DEMONSTRATION_NOTICE}**\n" if facts["demonstration"] else ""
    return f"""---
{front.to_yaml()}
---
# {_name(facts)} fine-tuned with medart on {data["images"]} medical images

{facts["method"]} on {trained}{_tell_format(facts)},
{facts["step"]} optimizer steps at {facts["resolution"]} pixels,
{_tell_hldf(facts)} (Med-Art, arXiv 2506.20449).{_add_shapes(facts)}
{notice}
## Intended use
Research on synthetic images: augmentation, teaching, testing of software. Not for diagnosis, and
not a substitute for real cases. A model trained on few images may memorize some of them: check for
near-copies before you share images, and treat this model as you treat its training data.
{_word_license(facts)}
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
`medart finetune images --config README.md --out run` trains with them; what is missing is where
things lay.
"""
