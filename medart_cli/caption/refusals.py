"""Why first answers are refused: a run in which most fail for one reason stops early and says so.

Else an hour of attempts would end in template captions alone. Where all of the very first ones are
refused, it is said at once; and a run that ends in template captions alone has failed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

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

# What a row has of a model that was asked in vain; with any other status the text is somebody's.
TEMPLATES = frozenset({"simple", "rejected", "none"})
FIRST = 20  # answers that are judged
EARLY = 10  # answers after which it is said that all are refused, for whatever reasons
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
        self._answers = self._refused = 0
        self._warned = False
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, tuple[str, str]] = {}

    def note(self, text: str, faults: Sequence[str]) -> None:
        """Count one row's first answer; warn where all of the first few are refused.

        Raises:
            RunError: It is the last of the first ones, and too many are refused for one reason.
        """
        if self._answers == FIRST:
            return
        self._answers += 1
        # One is shortened, the other no rule's doing.
        refused = [fault for fault in faults if fault not in (TOO_LONG, READER)]
        self._refused += bool(refused)
        for fault in refused:
            self._counts[reason_of(fault)] += 1
            self._examples.setdefault(reason_of(fault), (fault, text))
        if self._answers == self._refused == EARLY:
            self._warned = True
            log.warning("%s", self._word())
        if self._answers == FIRST and self._is_beyond():
            raise RunError(
                f"{self._word()}; what is captioned is kept; --max-refused 1 goes on regardless, "
                "other settings go on with --recaption rejected"
            )

    def finish(self) -> None:
        """Warn where a run had too few rows to be stopped, and nothing was said before."""
        if self._answers < FIRST and self._is_beyond() and not self._warned:
            log.warning("%s", self._word())

    def _is_beyond(self) -> bool:
        """Say whether too many answers are refused for one reason, or all for several."""
        if not self._counts or self.share == 1:
            return False
        count = self._counts.most_common(1)[0][1]
        return count > self.share * self._answers or self._refused == self._answers

    def _word(self) -> str:
        """Say how many answers are refused, most often why, with an example and what may help."""
        reason, count = self._counts.most_common(1)[0]
        told = f"{count} of the first {self._answers} answers are refused: each"
        if count < self._refused == self._answers:
            told = f"all of the first {self._answers} answers are refused: most often it"
        fault, text = self._examples[reason]
        example = " ".join(text.split())
        short = example[:EXAMPLE] + " ..." * (len(example) > EXAMPLE)
        shown = f', such as "{short}" ({fault})' if short else ""
        return f"{told} {reason}{shown}; {HINTS.get(reason, OTHER_HINT)}"


def refuse_templates(statuses: Mapping[str, int], faults: Mapping[str, int]) -> None:
    """Refuse to call a run done that has the template caption for every image.

    Args:
        statuses: How many texts came about how.
        faults: How many template captions stand where an answer had which fault.

    Raises:
        RunError: There are several texts, and no answer was taken for any of them.
    """
    count = statuses["simple"]
    others = any(number for status, number in statuses.items() if status not in TEMPLATES)
    if others or not EARLY <= count <= sum(faults.values()):  # a refused one has a fault or more
        return
    reason = max(faults, key=lambda it: faults[it])
    raise RunError(
        f"all {count} texts are the template caption, since every answer is refused: most often "
        f"it {reason}; {HINTS.get(reason, OTHER_HINT)}, and run again with --recaption rejected; "
        "--max-refused 1 accepts the template captions"
    )
