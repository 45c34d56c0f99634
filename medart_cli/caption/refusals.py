"""Why first answers are refused: a run in which most fail for one reason stops early and says so.

Else an hour of attempts would end in template captions alone.
"""

from collections import Counter
from collections.abc import Sequence

from medart_cli.caption.edits import READER
from medart_cli.caption.rules import (
    FORBIDDEN_WORD,
    GIVES_ADVICE,
    NO_BEGINNING,
    ONLY_REASONING,
    OTHER_CLASS,
    OTHER_DIAGNOSIS,
    OTHER_LANGUAGE,
    TELLS_PERSON,
    TOO_LONG,
    reason_of,
)
from medart_cli.errors import RunError
from medart_cli.log import log

FIRST = 20  # answers that are judged
EXAMPLE = 200  # letters of an answer that are shown
OTHER_HINT = "try another --model, or write the prompt in a profile of your own"
HINTS = {
    NO_BEGINNING: "try another --model; smaller ones often do not follow the prompt",
    ONLY_REASONING: "raise --max-new-tokens, turn thinking off at the server, or use a model that "
    "does not think",
    OTHER_CLASS: "if the word may be described in any class, list it under findings in a profile "
    "of your own (medart caption --profile-template); spoken names come from --classes",
    OTHER_DIAGNOSIS: "say in the prompt of a profile of your own that no diagnosis is wanted, or "
    "list what may be described under findings (medart caption --profile-template)",
    TELLS_PERSON: "try another --model, or pass what is known of the person with --context",
    GIVES_ADVICE: "try another --model, or say in the prompt of a profile of your own that no "
    "advice is wanted (medart caption --profile-template)",
    OTHER_LANGUAGE: "try another --model, or set language in a profile of your own (medart caption "
    "--profile-template)",
    FORBIDDEN_WORD: "change forbidden in a profile of your own (medart caption --profile-template)",
}


class Refusals:
    """Counts the faults of the first answers; a second attempt is none.

    Attributes:
        share: Of the first answers, that may be refused for one reason.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._answers = 0
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, tuple[str, str]] = {}

    def note(self, text: str, faults: Sequence[str]) -> None:
        """Count one row's first answer.

        Raises:
            RunError: It is the last of the first ones, and too many are refused for one reason.
        """
        if self._answers == FIRST:
            return
        self._answers += 1
        for fault in faults:
            if fault not in (TOO_LONG, READER):  # one is shortened, the other no rule's doing
                self._counts[reason_of(fault)] += 1
                self._examples.setdefault(reason_of(fault), (fault, text))
        if self._answers == FIRST and (told := self._tell()):
            raise RunError(
                f"{told}; what is captioned is kept; --max-refused 1 goes on regardless, other "
                "settings go on with --recaption rejected"
            )

    def finish(self) -> None:
        """Warn where a run had too few rows to be stopped."""
        if self._answers < FIRST and (told := self._tell()):
            log.warning("%s", told)

    def _tell(self) -> str | None:
        if not self._counts:
            return None
        reason, count = self._counts.most_common(1)[0]
        if count <= self.share * self._answers:
            return None
        fault, text = self._examples[reason]
        example = " ".join(text.split())
        short = example[:EXAMPLE] + " ..." * (len(example) > EXAMPLE)
        shown = f', such as "{short}" ({fault})' if short else ""
        return (
            f"{count} of the first {self._answers} answers are refused: each {reason}{shown}; "
            f"{HINTS.get(reason, OTHER_HINT)}"
        )
