"""What a captioner is asked about an image, and what it answers."""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn; the defaults are the paper's.

    Attributes:
        temperature: Divides the logits; 0 is greedy decoding.
        top_k: Sample from that many likeliest tokens; 0 for all.
        top_p: Nucleus sampling: cumulative probability of the tokens to sample from; 1 for all.
        max_new_tokens: Most tokens of an answer.
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 0.9
    max_new_tokens: int = 150


@dataclass(frozen=True)
class Question:
    """One image, what to say about it, and the seed of the draw."""

    image: Image.Image
    prompt: str
    seed: int


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: The text, without the prompt, special tokens and thoughts.
        finished: Whether the model ended by itself, not at the token limit.
        only_reasoning: Whether the model thought and said nothing: there is no text.
        error: Why there is no text; None where there is one.
    """

    text: str
    finished: bool = True
    only_reasoning: bool = False
    error: str | None = None
