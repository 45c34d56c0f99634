"""What `medart finetune` reads and writes, and the model that it trains: these options."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from medart_cli.options import (
    DEFAULT_BASE,
    ONE_CALL,
    RUN_ONLY,
    AllowSynthetic,
    Classes,
    Folders,
    complete_profile,
)

_output_option = partial(Option, rich_help_panel="Output")
_data_option = partial(Option, rich_help_panel="Data")
_model_option = partial(Option, rich_help_panel="Model")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Arguments, and the groups Output, Data and Model."""

    data: Annotated[
        str,
        Argument(help="Image folder, manifest file, or - for a manifest on standard input."),
        RUN_ONLY,
    ]
    out: Annotated[Path, _output_option(help="Output folder (the run folder)."), RUN_ONLY]
    overwrite: Annotated[
        bool,
        _output_option(
            "--overwrite", help="Delete the contents of the output folder and start over."
        ),
        ONE_CALL,
    ] = False
    dry_run: Annotated[
        bool,
        _output_option(
            "--dry-run",
            help="Only estimate memory, disk space, steps and hours; nothing is downloaded, "
            "written or trained.",
        ),
        ONE_CALL,
    ] = False
    save_every: Annotated[
        int, _output_option(help="Optimizer steps between checkpoints.", min=1), RUN_ONLY
    ] = 500
    save_minutes: Annotated[
        float, _output_option(help="Maximum minutes between checkpoints.", min=0), RUN_ONLY
    ] = 20.0
    keep: Annotated[
        int, _output_option(help="Number of latest checkpoints to keep.", min=1), RUN_ONLY
    ] = 2
    preview_every: Annotated[
        int,
        _output_option(
            help="Optimizer steps between preview grids; one more at the last step. 0 for none.",
            min=0,
        ),
        RUN_ONLY,
    ] = 500
    preview_count: Annotated[
        int, _output_option(help="Images per preview grid.", min=1), RUN_ONLY
    ] = 4
    merge: Annotated[
        bool,
        _output_option(
            "--merge", help="Also write RUN/merged, a complete diffusers pipeline folder."
        ),
        RUN_ONLY,
    ] = False
    log_with: Annotated[
        list[str] | None,
        _output_option(help="Tracker of accelerate: tensorboard, wandb, ... (repeatable)."),
        RUN_ONLY,
    ] = None

    root: Annotated[
        Path | None,
        _data_option(
            help="Folder that file names are relative to; also allows absolute file names."
        ),
        RUN_ONLY,
    ] = None
    folders: Folders = None
    allow_synthetic: AllowSynthetic = False
    profile: Annotated[
        str,
        _data_option(
            autocompletion=complete_profile,
            help="Modality profile for the template caption of rows without text: packaged name "
            "or TOML file.",
        ),
    ] = "generic"
    classes: Classes = None
    resolution: Annotated[
        int | None,
        _data_option(
            help="Image resolution (side in pixels); the base model's by default.", min=16
        ),
    ] = None
    crop: Annotated[
        Literal["center", "pad", "random"],
        _data_option(
            help="How images are made square; random may crop out what the caption describes."
        ),
    ] = "center"
    buckets: Annotated[
        bool,
        _data_option(
            "--buckets",
            help="Aspect buckets: images keep their shape, but for a small margin that --crop cuts "
            "or pads; each batch has images of one shape.",
        ),
    ] = False
    flip: Annotated[
        bool,
        _data_option(
            "--flip", help="Random horizontal flips; these swap left and right in the image."
        ),
    ] = False
    balance: Annotated[
        bool, _data_option("--balance", help="Class balancing: sample all labels equally often.")
    ] = False
    cache: Annotated[
        Path | None,
        _data_option(
            help="Cache folder for latents and text embeddings; medart's cache by default."
        ),
        RUN_ONLY,
    ] = None
    use_cache: Annotated[
        bool,
        _data_option(
            "--use-cache/--no-cache", help="Encode each image once and cache its latents."
        ),
        RUN_ONLY,
    ] = True

    base: Annotated[
        str,
        _model_option(
            help="Base model: PixArt-alpha or -Sigma, SANA, PRX or FLUX.2-klein-base; a pipeline "
            "folder or a hub id."
        ),
    ] = DEFAULT_BASE
    base_format: Annotated[
        Literal["bf16", "int8", "nf4"] | None,
        _model_option(
            help="Quantization of the frozen base under adapters (nf4: QLoRA); by default its "
            "weights are kept as --precision. int8 and nf4 need bitsandbytes: pip install "
            "bitsandbytes."
        ),
    ] = None
    method: Annotated[
        Literal["lora", "dora", "rslora", "lokr", "loha", "full"],
        _model_option(
            help="Adapter type (LoRA, DoRA, rsLoRA, LoKr, LoHa), or full fine-tuning of the "
            "transformer."
        ),
    ] = "lora"
    rank: Annotated[int, _model_option(help="Adapter rank.", min=1)] = 8
    alpha: Annotated[
        float | None, _model_option(help="Adapter alpha; equals the rank by default.", min=0)
    ] = None
    target: Annotated[
        list[str] | None,
        _model_option(
            help="Adapter target modules of the transformer, by name suffix; * in one stands for "
            "any text (repeatable)."
        ),
    ] = None
    text_target: Annotated[
        list[str] | None,
        _model_option(
            help="Adapter target modules of the text encoder, by name suffix, as --target "
            "(repeatable)."
        ),
    ] = None
    train_text_encoder: Annotated[
        bool,
        _model_option(
            "--train-text-encoder/--freeze-text-encoder",
            help="Train adapters in the text encoder too (PixArt only); if frozen, it runs once "
            "and is then unloaded.",
        ),
    ] = True
