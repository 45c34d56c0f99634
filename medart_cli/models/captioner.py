"""Image-text-to-text models of transformers: find, load, and ask them about images in batches.

A question carries its own seed, and each row draws from its own numbers, so an answer depends on
neither the batch it was in nor what was asked before.
"""

import hashlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from medart_cli.errors import ConfigError, MissingModelError, RunError, find_full_memory
from medart_cli.log import log
from medart_cli.models.chat import LOCAL, PROBE, UNREADABLE, Chat, first_line, read_chat
from medart_cli.models.device import DTYPES, build_generator, find_precision
from medart_cli.models.hub import (
    DEMONSTRATION_KEY,
    TINY,
    check_code,
    check_loaded,
    check_weights,
    embedded_model,
    find_model,
    public_name,
)
from medart_cli.models.questions import Answer, Question, Sampling

KNOWN_DOWNLOAD_SIZES = {  # of those in docs/captioners.md, for messages
    "Qwen/Qwen3-VL-8B-Instruct": "18 GB",
    "llava-hf/llama3-llava-next-8b-hf": "17 GB",
    "google/medgemma-1.5-4b-it": "9 GB",
}
OTHER_DOWNLOAD_SIZE = "about 2 GB for each billion parameters"  # of others


def find_captioner(
    model: str, *, revision: str | None = None, offline: bool = False, option: str = "--model"
) -> Path:
    """Return the folder of a captioner: a local one, the embedded one, or a hub id's.

    Args:
        model: Folder, `tiny`, or hub id, which is taken from the cache or the hub.
        revision: Commit, branch or tag of a hub id.
        offline: Do not ask the hub.
        option: What of the command names it, for the message.

    Raises:
        MissingModelError: It is not there and may not or cannot be fetched, or lacks a file.
        ConfigError: It needs code of its own, which is never run.
    """
    if model == TINY:
        folder = embedded_model("captioner")
    else:
        size = KNOWN_DOWNLOAD_SIZES.get(model, OTHER_DOWNLOAD_SIZE)
        folder = find_model(model, option=option, size=size, revision=revision, offline=offline)
    check_code(folder)
    check_weights(folder)
    return folder


def open_captioner(
    model: str,
    folder: Path,
    *,
    device: torch.device,
    precision: str,
    sampling: Sampling,
    load_in: Literal["4bit", "8bit"] | None = None,
) -> "Captioner":
    """Load a captioner, under a name that tells nothing about this machine.

    Args:
        model: What it was asked for by.
        folder: From `find_captioner`.
        device: Where to compute.
        precision: `auto`, or of `DTYPES`.
        sampling: How answers are drawn.
        load_in: Quantization of the weights; None for none.

    Raises:
        As `Captioner.load`.
    """
    dtype = DTYPES[find_precision(precision, device)]
    log.info("loading %s", model)
    captioner = Captioner(folder, device=device, dtype=dtype, sampling=sampling).load(load_in)
    # A hub id says where a model is from; a folder's path would tell about this machine instead.
    captioner.name = public_name(str(folder.resolve())) if Path(model).is_dir() else model
    return captioner


def find_revision(folder: Path) -> str:
    """Return what tells this state of a model from others.

    The commit where the folder is one of the hub's cache, else a SHA-256 over its weights.
    """
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"


class Captioner:
    """A loaded model with its processor.

    Attributes:
        name: What the model was asked for by.
        revision: See `find_revision`.
        demonstration: Whether it was made for demonstrations and knows drawn phantoms only.
        batch_size: Questions at a time; halved, and kept so, when memory does not suffice.
    """

    def __init__(
        self, folder: Path, *, device: torch.device, dtype: torch.dtype, sampling: Sampling
    ) -> None:
        """Load nothing yet; see `load`."""
        self.folder, self.device, self.dtype, self.sampling = folder, device, dtype, sampling
        self.name = str(folder)
        self.revision: str | None = None
        self.batch_size = 1
        self.demonstration = False
        self.model: Any = None
        self.processor: Any = None
        self._proved = False  # that it answers to an image at all; asked at the first failure

    def load(self, load_in: Literal["4bit", "8bit"] | None = None) -> "Captioner":
        """Load weights and processor from the folder alone, safetensors only, no code of its own.

        Raises:
            MissingModelError: A file or a weight is missing or unreadable.
            ConfigError: It cannot be asked about an image (see `read_chat`), or bitsandbytes is
                not installed and asked for.
        """
        chat = read_chat(self.folder)
        quantized = _quantization(load_in, self.dtype)
        try:
            self.model, report = AutoModelForImageTextToText.from_pretrained(
                self.folder,
                dtype=self.dtype,
                use_safetensors=True,
                device_map={"": self.device} if quantized else None,
                quantization_config=quantized,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **LOCAL,
            )
        except OSError as error:
            raise MissingModelError(
                f"{self.folder}: cannot be loaded: {first_line(error)}"
            ) from error
        except ImportError as error:
            raise ConfigError(f"{self.folder}: cannot be loaded: {first_line(error)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.folder}: cannot be loaded by transformers: {first_line(error)}"
            ) from error
        check_loaded(self.folder, report)
        self.model.eval().requires_grad_(False)
        if not quantized:
            self.model.to(self.device)
        self.demonstration = bool(getattr(self.model.config, DEMONSTRATION_KEY, False))
        self.prepare(chat)
        self.revision = find_revision(self.folder)
        return self

    def prepare(self, chat: Chat) -> None:
        """Make the loaded model ready to be asked: an end, and no draws of its own."""
        self.chat, self.processor = chat, chat.processor
        # Only the ends of the model's own settings are kept: draws are ours, one a row.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.sampling.max_new_tokens,
            eos_token_id=chat.ends,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )

    def ask(
        self, questions: Sequence[Question], *, greedy: bool = False
    ) -> Iterator[tuple[int, Answer] | None]:
        """Answer questions in batches of like size.

        Args:
            questions: Any number of them.
            greedy: Use greedy decoding, whatever the temperature.

        Yields:
            Index of a question and its answer, batch by batch, in another order than that of
            asking; None after each batch, where a caller can stop and lose nothing.

        Raises:
            torch.OutOfMemoryError: Memory does not suffice for a single image.
            RunError: The model answers to no image at all.
        """
        waiting = sorted(range(len(questions)), key=lambda index: _length(questions[index]))
        while waiting:
            batch = waiting[: self.batch_size]
            answers = self._try([questions[index] for index in batch], greedy)
            if answers:
                del waiting[: len(batch)]
                yield from zip(batch, answers, strict=True)
                yield None
            else:  # what the failed batch held is released only out here
                self._halve(len(batch))

    def _try(self, questions: Sequence[Question], greedy: bool) -> list[Answer]:
        """Answer a batch, or nothing where memory does not suffice for it.

        What the processor or the model cannot read costs its own row: the others of its batch are
        asked one by one, and say what they would have said.
        """
        try:
            return self._generate(questions, greedy)
        except torch.OutOfMemoryError as error:
            if len(questions) == 1:
                error.add_note(f"{self.name}, one image at a time")
                raise
            return []
        except (*UNREADABLE, RuntimeError) as error:
            # What a GPU refuses for good, or memory, is no matter of one image.
            if isinstance(error, torch.AcceleratorError) or find_full_memory(error):
                raise
            if len(questions) == 1:
                return [self._fail(questions[0], error)]
        return [answer for question in questions for answer in self._try([question], greedy)]

    def _fail(self, question: Question, error: Exception) -> Answer:
        """Take an error for the image's own, once the model is known to answer to another one."""
        if not self._proved:
            try:
                self._generate([PROBE], greedy=True)
            except (*UNREADABLE, RuntimeError) as other:
                raise RunError(
                    f"{self.name}: answers to no image: {first_line(other)}; use another model"
                ) from error
            self._proved = True
        width, height = question.image.size
        reason = f"the model cannot read it ({width} x {height} pixels): {first_line(error)}"
        return Answer("", error=reason)

    def _halve(self, size: int) -> None:
        self.batch_size = max(1, size // 2)
        log.warning("out of memory with batch size %d; continuing with %d", size, self.batch_size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _generate(self, questions: Sequence[Question], greedy: bool) -> list[Answer]:
        inputs = self.chat.encode(questions).to(self.device, dtype=self.dtype)
        start = inputs["input_ids"].shape[1]
        sampler = LogitsProcessorList()
        if not greedy and self.sampling.temperature > 0:
            sampler = self._sampler([question.seed for question in questions])
        tokens = self.model.generate(**inputs, logits_processor=sampler)
        if not torch.equal(tokens[:, :start], inputs["input_ids"]):  # as an encoder-decoder's
            raise RunError(
                f"{self.name}: its answers do not continue the prompt; use another model"
            )
        return [self.chat.read(row) for row in tokens[:, start:].tolist()]

    def _sampler(self, seeds: Sequence[int]) -> LogitsProcessorList:
        sampling = self.sampling
        chain = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
        if sampling.top_k:
            chain.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            chain.append(TopPLogitsWarper(sampling.top_p))
        generators = [build_generator(seed, "caption") for seed in seeds]
        draws = [torch.rand(sampling.max_new_tokens, generator=item) for item in generators]
        chain.append(RowDraws(torch.stack(draws).to(self.device)))
        return chain


class RowDraws(LogitsProcessor):  # type: ignore[misc]  # transformers has no types here
    """Draws each row's next token with the row's own random number; greedy search then takes it.

    Inverse transform sampling: the drawn token is the first whose cumulated probability exceeds the
    number. It needs one number a token and row, made before the loop, whatever the batch.
    """

    def __init__(self, draws: Tensor) -> None:
        """Take the random numbers, (B, N) in [0, 1), a column for each new token."""
        self._draws, self._step = draws, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave a finite score to the drawn token of each row only; scores are (B, V)."""
        cumulated = scores.float().softmax(dim=-1).cumsum(dim=-1)  # (B, V)
        level = self._draws[:, self._step, None] * cumulated[:, -1:]  # (B, 1)
        self._step += 1
        drawn = (cumulated <= level).sum(dim=-1, keepdim=True)  # (B, 1)
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def _quantization(
    load_in: Literal["4bit", "8bit"] | None, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    if load_in is None:
        return None
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"--load-in {load_in}: needs bitsandbytes; pip install bitsandbytes")
    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def _length(question: Question) -> tuple[int, int, int]:
    width, height = question.image.size
    return width * height, width, len(question.prompt)
