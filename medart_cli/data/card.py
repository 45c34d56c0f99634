"""Model cards: README.md of a run and of a merged pipeline."""

import json
from typing import Any

import tomli_w
from huggingface_hub import ModelCardData

from medart_cli.data.page import DEMONSTRATION_NOTICE, word_patients


def _tell_hldf(facts: dict[str, Any]) -> str:
    count = facts["figures"]["color_losses"]
    if not count:
        return "without HLDF"
    kind = {"published": "as published", "score": "the energy score"}[facts["hldf"]["loss"]]
    return f"with the HLDF color loss ({kind}) in {count} of them"


def build_merged_card(facts: dict[str, Any], pipeline: str) -> str:
    """Write the model card of a merged run: how diffusers generates the same images as medart.

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
    notice = f"\n**{DEMONSTRATION_NOTICE}**\n" if facts["demonstration"] else ""
    return f"""---
{front.to_yaml()}
---
# PixArt fine-tuned with medart, merged into a complete pipeline
{notice}
Trained at {side} pixels. `medart sample` generates images at that size, and so does diffusers with

```python
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained(folder)
image = pipeline(
    prompt, height={side}, width={side}, num_inference_steps=20, guidance_scale=4.5,
    clean_caption=False, use_resolution_binning=False,
).images[0]
```
By default the pipeline cleans captions like web text if ftfy and beautifulsoup4 are installed. The
model was not trained on captions cleaned that way: keep `clean_caption=False`.
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
    notice = f"\n**{DEMONSTRATION_NOTICE}**\n" if facts["demonstration"] else ""
    return f"""---
{front.to_yaml()}
---
# PixArt fine-tuned with medart on {data["images"]} medical images

{facts["method"]} on {trained}, {facts["step"]} optimizer steps at {facts["resolution"]} pixels,
{_tell_hldf(facts)} (Med-Art, arXiv 2506.20449).
{notice}
## Intended use
Research on synthetic images: augmentation, teaching, testing of software. Not for diagnosis, and
not a substitute for real cases. A model trained on few images may memorize some of them: check for
near-copies before you share images, and treat this model as you treat its training data.

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
