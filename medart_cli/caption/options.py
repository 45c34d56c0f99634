"""The options of `medart caption`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from typer import Argument, Option

from medart_cli.errors import ConfigError
from medart_cli.options import (
    DEFAULT_BASE,
    DEFAULT_CAPTIONER,
    ONE_CALL,
    RUN_ONLY,
    CommonConfig,
    Folders,
    Hint,
    complete_profile,
    parse_levels,
    parse_shard,
)

_output_option = partial(Option, rich_help_panel="Output")
_data_option = partial(Option, rich_help_panel="Data")
_model_option = partial(Option, rich_help_panel="Model")
_caption_option = partial(Option, rich_help_panel="Caption")
_server_option = partial(Option, rich_help_panel="Server")


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(CommonConfig):
    """Describe each image with a vision-language model: write or complete metadata.jsonl.

    Texts that are there are kept unless --recaption asks. The same command again goes on.
    """

    less_memory: ClassVar[tuple[Hint, ...]] = (  # its batches are halved without being asked
        ("load_in", (None, "8bit"), "--load-in 4bit"),
        ("image_side", None, "a smaller --image-side"),
        ("model", None, "a smaller --model"),
    )

    images: Annotated[
        str,
        Argument(help="Image folder, manifest file, or - for a manifest on standard input."),
        RUN_ONLY,
    ]
    out: Annotated[
        Path | None,
        _output_option(
            help="Manifest file to write instead of the folder's own, as for other settings; "
            "texts that medart wrote in that one are not taken over."
        ),
        RUN_ONLY,
    ] = None
    recaption: Annotated[
        Literal["rejected", "simple", "all"] | None,
        _output_option(
            help="Caption again: rows whose texts the rules refused, rows with the simple caption, "
            "or all rows. Texts that a person wrote or changed are kept."
        ),
        RUN_ONLY,
    ] = None
    overwrite_edits: Annotated[
        bool,
        _output_option(
            "--overwrite-edits",
            help="With --recaption all: write texts anew that a person wrote or changed, too.",
        ),
        RUN_ONLY,
    ] = False
    review: Annotated[
        int,
        _output_option(
            help="Most images shown in review.html, refused ones first; 0 writes none.", min=0
        ),
        RUN_ONLY,
    ] = 200
    audit: Annotated[
        int,
        _output_option(
            help="Images to caption again with a blank and with another image, to see whether the "
            "model looks at them.",
            min=0,
        ),
        RUN_ONLY,
    ] = 0

    shard: Annotated[
        str | None,
        _data_option(
            help="Caption only part I/N of the rows, as 2/3, for job arrays. When all parts are "
            "done, the same command without --shard joins them."
        ),
        ONE_CALL,
    ] = None
    root: Annotated[
        Path | None,
        _data_option(help="Folder that file names are relative to; they may then be absolute."),
        RUN_ONLY,
    ] = None
    folders: Folders = None
    labels: Annotated[
        Path | None,
        _data_option(
            help="Table with the column file_name and some of label, group_id, split and text: "
            ".csv or .jsonl."
        ),
        RUN_ONLY,
    ] = None
    texts: Annotated[
        Literal["none", "sidecar"],
        _data_option(help="Texts to take for rows without one: sidecar for a.txt beside a.jpg."),
        RUN_ONLY,
    ] = "none"
    add_new: Annotated[
        bool,
        _data_option(
            "--add-new", help="Also caption images of the folder that its manifest does not list."
        ),
        RUN_ONLY,
    ] = False
    profile: Annotated[
        str,
        _caption_option(
            autocompletion=complete_profile,
            help="Modality that words prompt and simple caption: a packaged name or a TOML file.",
        ),
    ] = "generic"
    style: Annotated[
        Literal["visual", "simple", "empty"],
        _caption_option(
            help="What the model sees, the simple caption alone, or nothing: the paper's ablation."
        ),
    ] = "visual"
    context: Annotated[
        list[str] | None,
        _caption_option(
            help="Sentence for the prompt with manifest columns in braces, as 'Body site: {site}.' "
            "(repeatable)."
        ),
    ] = None
    attempts: Annotated[
        int,
        _caption_option(help="Times a row is asked for before its simple caption stands.", min=1),
    ] = 5
    base: Annotated[
        str,
        _caption_option(
            help="PixArt pipeline whose T5 tokenizer counts: 120 tokens for alpha, 300 for Sigma."
        ),
    ] = DEFAULT_BASE

    model: Annotated[
        str | None,
        _model_option(
            help=f"Image-text-to-text model, a folder or a hub id ({DEFAULT_CAPTIONER} by "
            "default); with --endpoint, its name there."
        ),
    ] = None
    revision: Annotated[str | None, _model_option(help="Commit, branch or tag of a hub model.")] = (
        None
    )
    load_in: Annotated[
        Literal["4bit", "8bit"] | None,
        _model_option(help="Quantize at loading; needs bitsandbytes: pip install bitsandbytes."),
    ] = None
    batch_size: Annotated[
        int,
        _model_option(help="Images at a time; halved when memory does not suffice.", min=1),
        RUN_ONLY,
    ] = 8
    image_side: Annotated[
        int, _model_option(help="Longest image side in pixels that the model is shown.", min=28)
    ] = 1024
    temperature: Annotated[
        float, _model_option(help="Spread of the draws; 0 always takes the likeliest word.", min=0)
    ] = 0.8
    top_k: Annotated[
        int, _model_option(help="Draw from that many likeliest tokens; 0 for all.", min=0)
    ] = 50
    top_p: Annotated[
        float, _model_option(help="Draw from the likeliest tokens with this share together.", min=0)
    ] = 0.9
    max_new_tokens: Annotated[int, _model_option(help="Most tokens of an answer.", min=1)] = 150

    endpoint: Annotated[
        str | None,
        _server_option(
            help="Ask an OpenAI-compatible server instead (vLLM, SGLang, transformers serve), as "
            "http://127.0.0.1:8000/v1. A key is read from MEDART_ENDPOINT_KEY."
        ),
        RUN_ONLY,
    ] = None
    allow_remote: Annotated[
        bool,
        _server_option(
            "--allow-remote",
            help="Images may leave this machine: the server need not be on the loopback.",
        ),
        RUN_ONLY,
    ] = False
    concurrency: Annotated[
        int, _server_option(help="Requests under way at a time.", min=1), RUN_ONLY
    ] = 8
    timeout: Annotated[
        float,
        _server_option(help="Seconds after which a silent server is asked again.", min=1),
        RUN_ONLY,
    ] = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p must be above 0 and at most 1, got {self.top_p}")
        parse_shard(self.shard)
        if self.images == "-" and self.out is None:
            raise ConfigError("--out: missing; name the manifest to write for standard input")
        if self.overwrite_edits and self.recaption != "all":
            raise ConfigError("--overwrite-edits: goes with --recaption all; add it")
        if self.audit == 1:
            raise ConfigError("--audit 1: needs 2 images or more, to show one in another's place")
        if self.audit and self.style != "visual":
            raise ConfigError(f"--audit {self.audit}: needs --style visual; no model is asked else")
        if self.allow_remote and (self.endpoint is None or self.offline):
            raise ConfigError("--allow-remote: needs --endpoint, and goes without --offline")
        if self.endpoint is not None and (self.load_in or self.revision):
            raise ConfigError("--load-in and --revision are the server's to choose; leave them out")
        if self.add_new and (self.out is not None or not Path(self.images).is_dir()):
            raise ConfigError(
                "--add-new: completes an image folder's own manifest; leave out --out"
            )
