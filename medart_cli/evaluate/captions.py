"""Do drawn images show their captions? Each is captioned again, and so are real images.

New captions are greedy, of image and label alone, and in the cache by image, model and prompt.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medart_cli import stop
from medart_cli.ahead import map_ahead
from medart_cli.data.images import load_image
from medart_cli.data.manifest import ManifestWriter, Record
from medart_cli.data.page import Table
from medart_cli.data.profiles import DEFAULT_PROFILE, Profile, read_profile
from medart_cli.errors import ConfigError
from medart_cli.evaluate.attributes import COLOR, SIZE, find_attributes, tabulate
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import ImageSet, find_training
from medart_cli.log import log, progress
from medart_cli.metrics.arrays import Indices
from medart_cli.metrics.recognition import AS_WELL, LESS, NOT_SHOWN
from medart_cli.metrics.retelling import Retold, compare_retelling
from medart_cli.models.captioner import find_captioner, find_revision, open_captioner
from medart_cli.models.device import find_device, find_precision, hush_libraries
from medart_cli.models.hub import DEMONSTRATION_KEY
from medart_cli.models.questions import Question, Sampling
from medart_cli.options import list_packaged
from medart_cli.versions import name_versions

ASKED_SIDE = 1024  # pixels; larger images are shrunk, as caption does
LONGEST = 200  # tokens of an answer
AT_A_TIME = 4  # images; memory that does not suffice for them halves it
WINDOW = 32  # images that are decoded together
ALL_KINDS = "all attributes"
SHOWS_TEXT = {
    AS_WELL: "the synthetic images show what their captions say as well as real ones",
    LESS: "the synthetic images show less of what their captions say than real ones",
}
NOT_SHOWN_TEXT = (
    "it is not shown that the synthetic images show what their captions say as well as real ones"
)


@dataclass(frozen=True)
class Reteller:
    """The captioner of --captioner, not loaded yet, and what it is asked.

    Attributes:
        folder: Where it is.
        profile: Words the prompts, and says which attributes there are.
        demonstration: Whether it was made for demonstrations and knows drawn phantoms only.
    """

    folder: Path
    profile: Profile
    demonstration: bool


@dataclass(frozen=True)
class Recaptioned:
    """Images of one set with the captions that they are of, and their new ones.

    Attributes:
        item: The set.
        rows: Which of its images.
        texts: The caption of each.
        groups: Name of the patient that each caption is of.
    """

    item: ImageSet
    rows: list[int]
    texts: list[str]
    groups: list[str]

    def records(self) -> list[Record]:
        """Return the records of the images."""
        return [self.item.record(row) for row in self.rows]

    def keep(self, places: Sequence[int]) -> "Recaptioned":
        """Return some of the images."""
        parts = ([values[it] for it in places] for values in (self.rows, self.texts, self.groups))
        return Recaptioned(self.item, *parts)  # type: ignore[arg-type] # three lists


def find_reteller(config: EvaluateConfig, sets: Sequence[ImageSet]) -> Reteller | None:
    """Find the captioner of --captioner and its profile, before anything is computed.

    Raises:
        ConfigError: No drawn image has a caption, or the profile is none.
        MissingModelError: The captioner is not there.
    """
    if config.captioner is None:
        return None
    drawn = sets[1 : 1 + len(config.synthetic)]
    for item in drawn:
        if not any(caption_of(record) for record in item):
            raise ConfigError(
                f"--captioner: no image of {item.name} has a caption (prompt or text in its "
                "manifest); leave --captioner out, or use images that medart sample drew"
            )
    name = config.profile or _guess_profile(_find_captioned(config, sets))
    profile = read_profile(name, config.classes)
    hush_libraries("transformers")
    folder = find_captioner(config.captioner, offline=config.offline, option="--captioner")
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Reteller(folder, profile, bool(facts.get(DEMONSTRATION_KEY, False)))


def _find_captioned(config: EvaluateConfig, sets: Sequence[ImageSet]) -> ImageSet:
    """Return the real images whose captions are drawn: the training images, where known."""
    trained = find_training(config, [*sets])
    return sets[0] if trained is None else trained


def _guess_profile(real: ImageSet) -> str:
    """Return the profile that most captions of the real images are of, if it is a packaged one."""
    made = (record.fields.get("caption") for record in real)
    names = Counter(facts.get("profile") for facts in made if isinstance(facts, dict))
    common = next((name for name, _ in names.most_common(1)), None)
    name = common if common in list_packaged("profiles") else DEFAULT_PROFILE
    log.info("--captioner: profile %s; --profile sets another", name)
    return str(name)


def caption_of(record: Record) -> str | None:
    """Return what an image was drawn from; of a real image, what it is described by."""
    prompt = record.fields.get("prompt") if record.synthetic else None
    return prompt if isinstance(prompt, str) and prompt else record.text or None


def measure_captions(
    config: EvaluateConfig, sets: Sequence[ImageSet], reteller: Reteller | None, cache: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Caption drawn and real images again, and compare the attributes.

    Returns:
        For each synthetic set the content of `retelling` in metrics.json, and the lines of
        captions.jsonl.
    """
    if reteller is None:
        return [], []
    facts, lines, owners = [], [], _find_captioned(config, sets)
    for item in sets[1 : 1 + len(config.synthetic)]:
        drawn = choose_drawn(config, item)
        sources = find_sources(drawn, owners)
        drawn = Recaptioned(item, drawn.rows, drawn.texts, name_captions(drawn, sources, owners))
        real, paired = choose_real(config, owners, sources)
        told = retell(config, [drawn, real], reteller, cache)
        failed, sides = [], []
        for part, answers in zip((drawn, real), told, strict=True):
            good = [place for place, text in enumerate(answers) if text is not None]
            failed.append(len(answers) - len(good))
            kept, texts = part.keep(good), [str(answers[place]) for place in good]
            sides.append((kept, texts))
            lines += list_captions(kept, texts)
        found = {
            "set": item.name,
            "profile": reteller.profile.name,
            "n_drawn": len(sides[0][1]),
            "n_real": len(sides[1][1]),
            "paired": paired,
            "failed": {"drawn": failed[0], "real": failed[1]},
        }
        kinds = compare_kinds(sides[0], sides[1], reteller.profile)
        facts.append(found | judge_kinds(kinds, reteller.profile) | {"kinds": kinds})
    return facts, lines


def choose_drawn(config: EvaluateConfig, item: ImageSet) -> Recaptioned:
    """Choose at random, at most --captions, images of a set that have a caption."""
    texts = {row: text for row, record in enumerate(item) if (text := caption_of(record))}
    rows = _draw([*texts], config)
    return Recaptioned(item, rows, [texts[row] for row in rows], [""] * len(rows))


def _draw(rows: Sequence[int], config: EvaluateConfig) -> list[int]:
    if len(rows) <= config.captions:
        return [*rows]
    generator = np.random.default_rng(config.seed)
    return sorted(int(row) for row in generator.choice(rows, config.captions, replace=False))


def find_sources(drawn: Recaptioned, real: ImageSet) -> list[int | None]:
    """Find for each drawn image the real one whose caption it is from, by its bytes or its name."""
    sources = [record.source for record in drawn.records()]
    hashes = {str(source.get("sha256")) for source in sources} - {"None"}
    names = {str(source.get("image")) for source in sources} - {"None"}
    by_hash: dict[str, int] = {}
    by_name: dict[str, int] = {}
    for row, (record, key) in enumerate(zip(real, real.keys, strict=True)):
        digest = key.ljust(32, b"\0").hex()
        if digest in hashes:
            by_hash.setdefault(digest, row)
        if record.file_name in names:
            by_name.setdefault(record.file_name, row)
    return [
        by_hash.get(str(source["sha256"]))
        if "sha256" in source
        else by_name.get(str(source.get("image")))
        for source in sources
    ]


def name_captions(drawn: Recaptioned, sources: Sequence[int | None], real: ImageSet) -> list[str]:
    """Name the patient of each drawn image's caption, else its image, else the caption itself."""
    names = []
    for record, row, text in zip(drawn.records(), sources, drawn.texts, strict=True):
        if row is not None:
            names.append(_name_group(real, row))
        else:
            source = record.source
            known = source.get("group_id") or source.get("sha256")
            names.append(f"source {known}" if known else f"text {text}")
    return names


def _name_group(real: ImageSet, row: int) -> str:
    group = real.record(row).group
    return f"group {group}" if group is not None else f"image {real.keys[row].hex()}"


def choose_real(
    config: EvaluateConfig, real: ImageSet, sources: Sequence[int | None]
) -> tuple[Recaptioned, bool]:
    """Choose the real images that the drawn ones are from, or else others with captions.

    Returns:
        The images; and whether they are those that the drawn ones are from.
    """
    own = sorted({row for row in sources if row is not None and real.record(row).text})
    rows = own or _draw([row for row, record in enumerate(real) if record.text], config)
    if not rows:
        log.warning("--captioner: no image of %s has a text, so there is nothing to compare with",
                    real.name)  # fmt: skip
    elif not own:
        log.info("--captioner: the synthetic images are of no captions of %s; its own images and "
                 "captions are what they are compared with", real.name)  # fmt: skip
    texts = [str(real.record(row).text) for row in rows]
    return Recaptioned(real, rows, texts, [_name_group(real, row) for row in rows]), bool(own)


def retell(
    config: EvaluateConfig, parts: Sequence[Recaptioned], reteller: Reteller, cache: Path
) -> list[list[str | None]]:
    """Caption images again; what the cache has is taken from there, the rest is kept as it comes.

    Returns:
        For each part the new caption of each image; None where the model failed.
    """
    device = find_device(config.device)
    settings = (
        *(find_revision(reteller.folder), find_precision(config.precision, device)),
        *(ASKED_SIDE, LONGEST, name_versions()),
    )
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
    path = cache / "captions" / f"{name}.jsonl"
    for place in (path.parent.parent, path.parent):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)  # captions tell what images show
    known = _read_texts(path)
    wanted: list[list[tuple[str, Path, str]]] = []
    for part in parts:
        found = []
        for record, row in zip(part.records(), part.rows, strict=True):
            prompt = reteller.profile.build_prompt({"label": record.label})
            key = hashlib.sha256(part.item.keys[row] + b"\0" + prompt.encode()).hexdigest()
            found.append((key, record.path, prompt))
        wanted.append(found)
    todo = {it[0]: it[1:] for found in wanted for it in found if it[0] not in known}
    if todo:
        with ManifestWriter(path) as writer, progress("captions", len(todo)) as bar:
            for key, text in _ask(config, todo, reteller):
                bar.advance()
                if text is not None:
                    known[key] = text
                    writer.append({"key": key, "text": text})
    return [[known.get(key) for key, _, _ in found] for found in wanted]


def _read_texts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    texts = {}
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            texts[str(row["key"])] = str(row["text"])
        except (ValueError, KeyError, TypeError):  # torn by a crash: it is asked for again
            continue
    return texts


def _ask(
    config: EvaluateConfig, todo: Mapping[str, tuple[Path, str]], reteller: Reteller
) -> Iterator[tuple[str, str | None]]:
    """Yield key and new caption of each image, None where the model failed."""
    captioner = open_captioner(
        *(str(config.captioner), reteller.folder),
        device=find_device(config.device),
        precision=config.precision,
        sampling=Sampling(temperature=0, max_new_tokens=LONGEST),
    )
    captioner.batch_size = min(AT_A_TIME, config.batch_size)
    images = map_ahead(
        lambda item: (item[0], _load(item[1][0]), item[1][1]),
        todo.items(),
        threads=config.workers,
        ahead=WINDOW,
    )
    while window := list(islice(images, WINDOW)):
        questions = [Question(image, prompt, 0) for _, image, prompt in window]
        for item in captioner.ask(questions, greedy=True):
            stop.check()
            if item is not None:
                index, answer = item
                bad = answer.error is not None or answer.only_reasoning
                if answer.error is not None:
                    log.warning("--captioner: an image has no caption: %s", answer.error)
                yield window[index][0], None if bad else answer.text


def _load(path: Path) -> Image.Image:
    image = load_image(path)
    image.thumbnail((ASKED_SIDE, ASKED_SIDE), Image.Resampling.LANCZOS)
    return image


def list_captions(part: Recaptioned, told: Sequence[str]) -> list[dict[str, Any]]:
    """List captions and new captions, for captions.jsonl."""
    return [
        {
            "set": part.item.name,
            "file_name": record.file_name,
            "label": record.label,
            "text": text,
            "told": new,
        }
        for record, text, new in zip(part.records(), part.texts, told, strict=True)
    ]


def compare_kinds(
    drawn: tuple[Recaptioned, list[str]], real: tuple[Recaptioned, list[str]], profile: Profile
) -> list[dict[str, Any]]:
    """Compare what is told again, of all attributes and then of each kind that captions name."""
    read = [_read_attributes(part, texts, profile) for part, texts in (drawn, real)]
    attributes = sorted({it for asked, told in read for said in (*asked, *told) for it in said})
    codes = [code_alike(getter) for getter in _list_codes(drawn[0], real[0])]
    sides = []
    for number, ((part, _), (asked, told)) in enumerate(zip((drawn, real), read, strict=True)):
        tables = tabulate(asked, attributes), tabulate(told, attributes)
        own = [values[number] for values in codes]
        sides.append(Retold(*tables, *own) if part.rows else None)
    if sides[0] is None:
        return []
    kinds = [COLOR, SIZE, *(kind for kind in profile.attributes if kind not in (COLOR, SIZE))]
    found = []
    for kind in (ALL_KINDS, *kinds):
        chosen = [place for place, it in enumerate(attributes) if kind in (ALL_KINDS, it[0])]
        compared = compare_retelling(sides[0], sides[1], np.array(chosen, dtype=np.intp))
        if compared is not None:
            found.append({"kind": kind, **compared})
    return found


def judge_kinds(kinds: list[dict[str, Any]], profile: Profile) -> dict[str, str]:
    """Return the verdict over all attributes, and its reason."""
    if not kinds:
        reason = f"the captions name no attribute of profile {profile.name}"
        return {"verdict": NOT_SHOWN, "reason": reason}
    return {key: kinds[0][key] for key in ("verdict", "reason")}


def _read_attributes(
    part: Recaptioned, told: Sequence[str], profile: Profile
) -> tuple[list[set[tuple[str, str]]], list[set[tuple[str, str]]]]:
    simple = [profile.simple_caption(record.label) for record in part.records()]
    return tuple(  # type: ignore[return-value] # two
        [find_attributes(text, own, profile) for text, own in zip(texts, simple, strict=True)]
        for texts in (part.texts, told)
    )


def _list_codes(drawn: Recaptioned, real: Recaptioned) -> Iterator[tuple[list[str], list[str]]]:
    """Yield labels, texts and groups of both parts."""
    yield tuple([record.label or "" for record in part.records()] for part in (drawn, real))  # type: ignore[misc]
    yield drawn.texts, real.texts
    yield drawn.groups, real.groups


def code_alike(names: tuple[list[str], list[str]]) -> tuple[Indices, Indices]:
    """Give the same names of two lists the same code."""
    codes = np.unique(np.array([*names[0], *names[1]]), return_inverse=True)[1]
    return codes[: len(names[0])], codes[len(names[0]) :]


def tell_captions(item: dict[str, Any]) -> list[str]:
    """Say in plain words whether the drawn images of a set show their captions."""
    verdict = SHOWS_TEXT.get(item["verdict"], NOT_SHOWN_TEXT)
    if not item["kinds"]:
        return [f"{verdict}: {item['reason']}"]
    whole = item["kinds"][0]
    shares = [f"of synthetic images {_word(whole['drawn'])}"]
    shares += [f"of real ones {_word(whole['real'])}"] if whole["real"] else []
    shares += [f"by chance {_word(whole['drawn_floor'])}"] if whole["drawn_floor"] else []
    lines = [
        f"{verdict}: of the attributes that captions name, new captions name {', '.join(shares)}; "
        f"{item['reason']}"
    ]
    less = [part["kind"] for part in item["kinds"][1:] if part["verdict"] == LESS]
    if less and item["verdict"] == LESS:  # a gate: one test first, so that kinds add no errors
        lines.append(f"synthetic images show less than real ones of: {', '.join(less)}")
    return lines


def _word(measure: dict[str, Any] | None, form: str = ".0f") -> str:
    if measure is None:
        return "-"
    low, high = (100 * end for end in measure["interval"])
    return f"{100 * measure['value']:{form}}% [{low:{form}}, {high:{form}}]"


def show_captions(item: dict[str, Any]) -> dict[str, Any]:
    """Write what is told again as a table."""
    head = ["Attributes", "named", "synthetic", "by chance", "real", "by chance", "difference"]
    keys = ("drawn", "drawn_floor", "real", "real_floor")
    rows = []
    for part in item["kinds"]:
        gap = "-" if part["difference"] is None else _word(part["difference"], "+.0f")
        cells = [_word(part[key]) for key in keys]
        rows.append([part["kind"], str(part["mentions"]), *cells, gap])
    table: Table = (head, rows)
    return {"name": item["set"], "told": tell_captions(item), "table": table, "facts": item}
