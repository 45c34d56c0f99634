"""The options of `medart caption`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from typer import Argument, Exit, Option, echo

from medart_cli.errors import ConfigError
from medart_cli.options import (
    DEFAULT_BASE,
    DEFAULT_CAPTIONER,
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
_data_option = partial(Option, rich_help_panel="Data")
_model_option = partial(Option, rich_help_panel="Model")
_caption_option = partial(Option, rich_help_panel="Caption")
_server_option = partial(Option, rich_help_panel="Server")


def show_template(wanted: bool) -> bool:
    """Print the profile to start from, and end the call: no images are needed for it."""
    if wanted:
        echo(
            (resources.files("medart_cli") / "caption" / "template.toml").read_text("utf-8"),
            nl=False,
        )
        raise Exit()
    return wanted


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(CommonConfig):
    """Caption images with a vision-language model: write or complete metadata.jsonl.

    Existing texts are kept unless --recaption is given. Run the same command again to resume.
    """

    less_memory: ClassVar[tuple[Hint, ...]] = (  # its batches are halved without being asked
        ("load_in", (None, "8bit"), "--load-in 4bit"),
        ("image_side", None, "a smaller --image-side"),
        ("model", None, "a smaller --model"),
    )

    beside_sources: ClassVar[frozenset[str]] = frozenset(
        {".jsonl", ".toml", ".html", ".txt", ".csv"}
    )

    formerly: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"model": "llava-hf/llama3-llava-next-8b-hf"}  # the default, before it was named
    )

    images: Annotated[
        str,
        Argument(help="Image folder, manifest file, or - for a manifest on standard input."),
        RUN_ONLY,
    ]
    out: Annotated[
        Path | None,
        _output_option(
            help="Manifest file to write instead of the folder's own, such as for other settings; "
            "captions that medart wrote in the folder's own are not reused."
        ),
        RUN_ONLY,
    ] = None
    recaption: Annotated[
        Literal["rejected", "simple", "all"] | None,
        _output_option(
            help="Rows to caption again: rejected (template captions where every answer failed "
            "the rules), simple (all template captions) or all. Texts that a person wrote, edited "
            "or accepted are kept."
        ),
        RUN_ONLY,
    ] = None
    overwrite_edits: Annotated[
        bool,
        _output_option(
            "--overwrite-edits",
            help="With --recaption all: also replace texts that a person wrote or edited.",
        ),
        RUN_ONLY,
    ] = False
    review: Annotated[
        int,
        _output_option(
            help="Maximum images in review.html, rejected ones first; 0 writes no page.", min=0
        ),
        RUN_ONLY,
    ] = 200
    export: Annotated[
        str | None,
        _output_option(
            help="Also write the texts to a .csv file to correct in a spreadsheet and take back "
            "with --texts, or to sidecar files: a.txt next to a.jpg."
        ),
        RUN_ONLY,
    ] = None
    audit: Annotated[
        int,
        _output_option(
            help="Number of images to caption again with a blank and a swapped image, to check "
            "that the model looks at them.",
            min=0,
        ),
        RUN_ONLY,
    ] = 0

    shard: Annotated[
        str | None,
        _data_option(
            help="Caption only shard I/N of the rows, such as 2/3, for job arrays. When all "
            "shards are done, the same command without --shard joins them."
        ),
        ONE_CALL,
    ] = None
    root: Annotated[
        Path | None,
        _data_option(
            help="Folder that file names are relative to; also allows absolute file names."
        ),
        RUN_ONLY,
    ] = None
    folders: Folders = None
    labels: Annotated[
        Path | None,
        _data_option(
            help="Table (.csv or .jsonl) with a file_name column and any of label, group_id, "
            "split and text."
        ),
        RUN_ONLY,
    ] = None
    texts: Annotated[
        str,
        _data_option(
            help="Texts to take: sidecar reads a.txt next to a.jpg, for rows without text or where "
            "a file that --export sidecar wrote was edited; a table reads corrections of a file "
            "that --export or review.html saved; none."
        ),
        RUN_ONLY,
    ] = "none"
    add_new: Annotated[
        bool,
        _data_option(
            "--add-new",
            help="Also caption images in the folder that are missing from its manifest.",
        ),
        RUN_ONLY,
    ] = False
    profile: Annotated[
        str,
        _caption_option(
            autocompletion=complete_profile,
            help="Modality profile for the prompt and template caption: packaged name or TOML "
            "file.",
        ),
    ] = "generic"
    classes: Classes = None
    profile_template: Annotated[
        bool,
        _caption_option(
            "--profile-template",
            callback=show_template,
            is_eager=True,
            help="Print a commented profile to start your own from, and exit: medart caption "
            "--profile-template > own.toml.",
        ),
        ONE_CALL,
    ] = False
    style: Annotated[
        Literal["visual", "simple", "empty"],
        _caption_option(
            help="Caption type: visual (by the model), simple (template caption) or empty; the "
            "paper's ablation."
        ),
    ] = "visual"
    context: Annotated[
        list[str] | None,
        _caption_option(
            help="Extra prompt sentence with manifest columns in braces, such as 'Body site: "
            "{site}.' (repeatable)."
        ),
    ] = None
    attempts: Annotated[
        int,
        _caption_option(
            help="Maximum attempts per row before the template caption is used.", min=1
        ),
    ] = 5
    max_refused: Annotated[
        float,
        _caption_option(
            help="Share of the first 20 answers that the rules may refuse for one reason; above "
            "it the run stops. 1 never stops.",
            min=0,
            max=1,
        ),
        RUN_ONLY,
    ] = 0.5
    base: Annotated[
        str,
        _caption_option(
            help="Base model whose tokenizer sets the caption limit in tokens: 120 (PixArt-alpha), "
            "300 (PixArt-Sigma, SANA), 256 (PRX), 512 less its chat template (FLUX.2-klein-base)."
        ),
    ] = DEFAULT_BASE

    model: Annotated[
        str | None,
        _model_option(
            help=f"Image-text-to-text model, a folder or a hub id ({DEFAULT_CAPTIONER} by "
            "default); with --endpoint, the model name on the server."
        ),
    ] = None
    revision: Annotated[str | None, _model_option(help="Commit, branch or tag of a hub model.")] = (
        None
    )
    load_in: Annotated[
        Literal["4bit", "8bit"] | None,
        _model_option(
            help="Quantize the weights on loading; needs bitsandbytes: pip install bitsandbytes."
        ),
    ] = None
    batch_size: Annotated[
        int,
        _model_option(help="Per-device batch size; halved when out of memory.", min=1),
        RUN_ONLY,
    ] = 8
    image_side: Annotated[
        int,
        _model_option(
            help="Maximum image side in pixels for the model; larger images are downscaled.", min=28
        ),
    ] = 1024
    temperature: Annotated[
        float, _model_option(help="Sampling temperature; 0 is greedy.", min=0)
    ] = 0.8
    top_k: Annotated[
        int, _model_option(help="Top-k sampling: number of tokens kept; 0 for all.", min=0)
    ] = 50
    top_p: Annotated[
        float,
        _model_option(
            help="Nucleus (top-p) sampling: cumulative probability of the tokens kept.",
            min=0,
            max=1,
        ),
    ] = 0.9
    max_new_tokens: Annotated[int, _model_option(help="Maximum new tokens per answer.", min=1)] = (
        150
    )

    endpoint: Annotated[
        str | None,
        _server_option(
            help="Use an OpenAI-compatible server instead (vLLM, SGLang, transformers serve), "
            "such as http://127.0.0.1:8000/v1. The API key is read from MEDART_ENDPOINT_KEY."
        ),
        RUN_ONLY,
    ] = None
    allow_remote: Annotated[
        bool,
        _server_option(
            "--allow-remote",
            help="Let images leave this machine: allow servers other than localhost (loopback).",
        ),
        RUN_ONLY,
    ] = False
    concurrency: Annotated[int, _server_option(help="Concurrent requests.", min=1), RUN_ONLY] = 8
    timeout: Annotated[
        float,
        _server_option(help="Request timeout in seconds; the request is then retried.", min=1),
        RUN_ONLY,
    ] = 120.0

    def settings(self) -> dict[str, Any]:
        """Return the settings, the default model by its name: another version may have another."""
        named = self.model or self.endpoint or self.style != "visual"
        return super().settings() | ({} if named else {"model": DEFAULT_CAPTIONER})

    def list_results(self, result: str) -> list[Path]:
        """List the manifest alone: what else is written goes with it."""
        return [] if self.shard else [Path(result)]

    def list_sources(self) -> list[Path]:
        """List what is read, and for a manifest the images beside it."""
        images = Path(self.images)
        return [*super().list_sources(), *([images.parent] if images.is_file() else [])]

    def suggest(self, result: str) -> tuple[list[Path], list[str]]:
        """Say what to look at first, and which command comes next."""
        page = Path(result).parent / "review.html"
        return [page], ["finetune", self.images, "--config", "paper", "--out", "run"]

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        if not self.top_p:
            raise ConfigError("--top-p must be above 0")
        parse_shard(self.shard)
        if self.images == "-" and self.out is None:
            raise ConfigError("--out: missing; set the manifest to write for standard input")
        self._check_export()
        if self.overwrite_edits and self.recaption != "all":
            raise ConfigError("--overwrite-edits: needs --recaption all; add it")
        if self.audit == 1:
            raise ConfigError("--audit 1: needs 2 images or more, to swap them")
        if self.audit and self.style != "visual":
            raise ConfigError(
                f"--audit {self.audit}: needs --style visual, which alone uses a model"
            )
        if self.allow_remote and (self.endpoint is None or self.offline):
            raise ConfigError("--allow-remote: needs --endpoint, and cannot be used with --offline")
        if self.endpoint is not None and (self.load_in or self.revision):
            raise ConfigError("--load-in and --revision have no effect with --endpoint; drop them")
        if self.add_new and (self.out is not None or not Path(self.images).is_dir()):
            raise ConfigError(
                "--add-new: completes an image folder's own manifest; leave out --out"
            )

    def _check_export(self) -> None:
        if self.export not in (None, "sidecar") and not str(self.export).endswith(".csv"):
            raise ConfigError(f"--export {self.export}: must be sidecar or a file ending in .csv")
        if self.export and self.shard:
            raise ConfigError("--export: needs all shards; use it in the run without --shard")
