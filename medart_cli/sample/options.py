"""The options of `medart sample`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from typer import Argument, Option

from medart_cli.data.buckets import parse_shape
from medart_cli.errors import ConfigError
from medart_cli.models.offload import BY_LAYERS, OffloadName, check_offload
from medart_cli.options import (
    MORE_THAN_ONE,
    ONE_CALL,
    RUN_ONLY,
    Classes,
    CommonConfig,
    Folders,
    Hint,
    complete_profile,
    parse_levels,
    parse_shard,
)

_output_option = partial(Option, rich_help_panel="Output")
_model_option = partial(Option, rich_help_panel="Model")
_prompts_option = partial(Option, rich_help_panel="Prompts")
_drawing_option = partial(Option, rich_help_panel="Sampling")


@dataclass(frozen=True, kw_only=True)
class SampleConfig(CommonConfig):
    """Generate images from a run folder or a base model, one per prompt.

    Prompts come from --prompt, --prompts or --from. Run the same command again to resume: finished
    images are skipped.
    """

    result_names: ClassVar[tuple[str, ...]] = ("metadata.jsonl", "sample.json")
    less_memory: ClassVar[tuple[Hint, ...]] = (
        ("batch_size", MORE_THAN_ONE, "a smaller --batch-size"),
        ("offload", ("none",), f"--offload {BY_LAYERS} (not with nf4)"),
        ("precision", ("fp32",), "--precision bf16"),
        ("base_format", (None, "full"), "--base-format nf4"),
        ("resolution", None, "a smaller --resolution"),
    )

    run: Annotated[
        str,
        Argument(
            help="Run folder, one of its checkpoints, a diffusers pipeline folder or a hub id."
        ),
        RUN_ONLY,
    ]
    base: Annotated[
        str | None,
        _model_option(
            help="Base model of the run, if it has moved: a folder or a hub id. Its weights must "
            "be the same."
        ),
        RUN_ONLY,
    ] = None
    base_format: Annotated[
        Literal["full", "bf16", "int8", "nf4"] | None,
        _model_option(
            help="Quantization of the base model, with the run's adapters unmerged on it; full for "
            "none. By default as the run was trained. int8 and nf4 need bitsandbytes: pip install "
            "bitsandbytes."
        ),
    ] = None
    out: Annotated[
        Path | None,
        _output_option(help="Output folder for the images and their manifest."),
        RUN_ONLY,
    ] = None
    overwrite: Annotated[
        bool,
        _output_option(
            "--overwrite", help="Delete the contents of the output folder and start over."
        ),
        ONE_CALL,
    ] = False
    merge_to: Annotated[
        Path | None,
        _output_option(
            help="Write the run as a complete diffusers pipeline folder; generates images only "
            "with --out."
        ),
    ] = None

    prompt: Annotated[
        list[str] | None, _prompts_option(help="Text prompt (repeatable)."), RUN_ONLY
    ] = None
    prompts: Annotated[
        str | None,
        _prompts_option(help="Text file with one prompt per line, or - for standard input."),
        RUN_ONLY,
    ] = None
    from_data: Annotated[
        str | None,
        _prompts_option(
            "--from",
            help="Image folder or manifest whose captions are used, or - for standard input.",
        ),
        RUN_ONLY,
    ] = None
    root: Annotated[
        Path | None,
        _prompts_option(help="Folder that file names of --from are relative to."),
        RUN_ONLY,
    ] = None
    split: Annotated[
        list[str] | None,
        _prompts_option(
            help="Split of --from to use: train, val or test (repeatable); by default what "
            "finetune trains on: train, and rows without a split."
        ),
        RUN_ONLY,
    ] = None
    folders: Annotated[Folders, RUN_ONLY] = None
    profile: Annotated[
        str | None,
        _prompts_option(
            autocompletion=complete_profile,
            help="Modality profile for the template caption of rows without text: packaged name "
            "or TOML file; by default the wording that the run was trained with.",
        ),
        RUN_ONLY,
    ] = None
    classes: Annotated[Classes, RUN_ONLY] = None
    count: Annotated[
        int | None,
        _prompts_option(help="Total number of images; by default one per prompt.", min=1),
        RUN_ONLY,
    ] = None
    per_label: Annotated[
        int | None, _prompts_option(help="Images per label of --from.", min=1), RUN_ONLY
    ] = None

    resolution: Annotated[
        int | None,
        _drawing_option(help="Image resolution (side in pixels); the run's by default.", min=16),
    ] = None
    size: Annotated[
        str | None,
        _drawing_option(help="Height and width of all images, HEIGHTxWIDTH in pixels."),
    ] = None
    buckets: Annotated[
        bool | None,
        _drawing_option(
            "--buckets/--no-buckets",
            help="Draw each image at the bucket of its caption's image, instead of square; by "
            "default as the run was trained.",
        ),
    ] = None
    steps: Annotated[int, _drawing_option(help="Number of inference (solver) steps.", min=1)] = 20
    guidance: Annotated[
        float, _drawing_option(help="Guidance scale (classifier-free); 1 for none.", min=1)
    ] = 4.5
    batch_size: Annotated[int, _drawing_option(help="Per-device batch size.", min=1), RUN_ONLY] = 4
    compile: Annotated[
        bool,
        _drawing_option(
            "--compile",
            help="Compile the transformer blocks (torch.compile): faster for many images, after a "
            "minute or more of compiling; same images to rounding.",
        ),
        RUN_ONLY,
    ] = False
    offload: Annotated[
        OffloadName,
        _drawing_option(
            help="What is kept in the machine's memory instead of the GPU's while prompts are "
            "read: text-encoder-layers, the weights of the text encoder, of which the GPU gets a "
            "layer at a time; text-encoder, all of it, which then runs on the CPU."
        ),
        RUN_ONLY,
    ] = "none"
    shard: Annotated[
        str | None,
        _drawing_option(
            help="Generate only shard I/N of the images, such as 2/3, for job arrays. When all "
            "shards are done, the same command without --shard joins them."
        ),
        ONE_CALL,
    ] = None

    def suggest(self, result: str) -> tuple[list[Path], list[str]]:
        """Say what to look at first, and which command comes next."""
        real = "REAL-IMAGES" if self.from_data in (None, "-") else str(self.from_data)
        if self.out is None:
            return [], []
        page = [Path(result) / "contact-sheet.png"]
        return page, ["evaluate", real, result, "--out", "report"]

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        self._check_resolution(self.resolution)
        self._check_shape()
        parse_shard(self.shard)
        check_offload(self.offload, self.precision, self.base_format)
        if self.shard is not None and (self.overwrite or self.out is None or self.merge_to):
            raise ConfigError("--shard: needs --out, without --overwrite and --merge-to")
        sources = [bool(self.prompt), self.prompts is not None, self.from_data is not None]
        if self.out is None and self.merge_to is None:
            raise ConfigError("--out: missing; give a folder for the images, or use --merge-to")
        if self.out is not None and sum(sources) != 1:
            raise ConfigError("give prompts by exactly one of --prompt, --prompts and --from")
        if any("\ud800" <= letter <= "\udfff" for text in self.prompt or () for letter in text):
            raise ConfigError("--prompt: is not valid text in the terminal's encoding")
        for name in self.split or ():
            if name not in ("train", "val", "test"):
                raise ConfigError(f"--split {name}: must be train, val or test")
        if self.split and self.from_data is None:
            raise ConfigError("--split: needs --from, which is missing")
        if self.per_label is not None and (self.from_data is None or self.count is not None):
            raise ConfigError("--per-label needs --from, and cannot be used with --count")

    def _check_shape(self) -> None:
        if self.size is None:
            return
        parse_shape(self.size, "--size")
        if self.resolution is not None or self.buckets is not None:
            raise ConfigError("--size: says the shape; leave out --resolution and --buckets")

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options that have no effect in some calls."""
        return [
            (self.out is None, "without --out: --merge-to writes full precision", "base_format"),
            (self.out is None, "without --out: --merge-to reads no prompt", "offload"),
        ]
