import pytest
from PIL import Image

from medart_cli.data.manifest import hash_file, write_manifest
from medart_cli.data.profiles import read_profile
from medart_cli.errors import ConfigError, MissingModelError
from medart_cli.evaluate import captions
from medart_cli.evaluate.captions import (
    Recaptioned,
    choose_drawn,
    choose_real,
    code_alike,
    compare_kinds,
    find_reteller,
    find_sources,
    judge_kinds,
    name_captions,
    retell,
    show_captions,
    tell_captions,
)
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import hash_sets, read_sets
from medart_cli.models.questions import Answer

COUNT = 12


def save_set(folder, first, **keys):
    """Save small images; a key is a function of an image's number."""
    folder.mkdir()
    rows = []
    for index in range(COUNT):
        color = (first + index, 90, 200)
        Image.new("RGB", (8, 8), color).save(folder / f"{index}.png")
        own = {name: value(index) for name, value in keys.items()}
        rows.append({"file_name": f"{index}.png", "label": "nevus", **own})
    write_manifest(folder / "metadata.jsonl", rows)
    return folder


def read(real, drawn, **options):
    config = EvaluateConfig(
        real=str(real), synthetic=[str(drawn)], out=drawn / "x", device="cpu", workers=0,
        **{"captioner": "tiny", **options},
    )  # fmt: skip
    return config, hash_sets(read_sets(config))[0]


@pytest.fixture
def real(tmp_path):
    patient = {"group_id": lambda index: f"p{index // 2}"}
    return save_set(tmp_path / "real", 0, text=lambda index: f"It is red, case {index}.", **patient)


def test_drawn_images_find_the_real_ones_that_their_captions_are_of(real, tmp_path):
    def source(index):
        if index == 0:
            return {"image": "11.png"}
        if index == 1:
            return {"image": "1.png", "sha256": "ab" * 32, "group_id": "p77"}  # another file
        return {"image": "x.png", "sha256": hashes[index]}

    hashes = [hash_file(real / f"{index}.png") for index in range(COUNT)]
    drawn = save_set(
        tmp_path / "syn", 100, prompt=lambda index: f"Prompt {index}", source=source,
        synthetic=lambda _: True,
    )  # fmt: skip
    config, sets = read(real, drawn)
    told = choose_drawn(config, sets[1])
    assert told.texts == [f"Prompt {index}" for index in range(COUNT)]
    sources = find_sources(told, sets[0])
    assert sources == [11, None, *range(2, COUNT)]
    groups = name_captions(told, sources, sets[0])
    assert groups[:4] == ["group p5", "source p77", "group p1", "group p1"]
    own, paired = choose_real(config, sets[0], sources)
    assert paired and own.rows == list(range(2, COUNT)) and own.groups[0] == "group p1"


def test_without_their_sources_other_real_images_with_captions_stand_in(real, tmp_path, said):
    drawn = save_set(tmp_path / "syn", 100, prompt=lambda _: "P", synthetic=lambda _: True)
    config, sets = read(real, drawn, captions=10)
    told = choose_drawn(config, sets[1])
    assert len(told.rows) == 10 and told.rows == sorted(set(told.rows))
    sources = find_sources(told, sets[0])
    assert name_captions(told, sources, sets[0]) == ["text P"] * 10
    own, paired = choose_real(config, sets[0], sources)
    assert not paired and len(own.rows) == 10
    assert any("are of no captions of real" in line for line in said)


class _Stub:
    name, batch_size = "stub", 1

    def __init__(self, asked):
        self.asked = asked

    def ask(self, questions, *, greedy):
        assert greedy
        for index, question in enumerate(questions):
            red = question.image.getpixel((0, 0))[0]
            self.asked.append(red)
            yield index, Answer("", error="odd") if red == 3 else Answer(f"It says {red}.")
        yield None


def test_new_captions_are_cached_by_image_and_prompt_and_failures_are_not(
    real, tmp_path, monkeypatch
):
    drawn = save_set(tmp_path / "syn", 100, prompt=lambda _: "P", synthetic=lambda _: True)
    config, sets = read(real, drawn)
    asked = []
    monkeypatch.setattr(captions, "open_captioner", lambda *_, **__: _Stub(asked))
    reteller = find_reteller(config, sets)
    part = Recaptioned(sets[0], list(range(5)), ["t"] * 5, ["g"] * 5)
    (found,) = retell(config, [part], reteller, tmp_path / "cache")
    assert found == ["It says 0.", "It says 1.", "It says 2.", None, "It says 4."]
    (path,) = (tmp_path / "cache" / "captions").glob("*.jsonl")
    with path.open("a") as file:
        file.write('{"key": "torn')
    asked.clear()
    assert retell(config, [part], reteller, tmp_path / "cache") == [found]
    assert asked == [3]
    asked.clear()
    other = captions.Reteller(reteller.folder, read_profile("dermoscopy"), True)
    retell(config, [part], other, tmp_path / "cache")
    assert asked == [0, 1, 2, 3, 4]  # another prompt
    assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", ["none", "phantom", "own.toml"])
def test_the_profile_is_that_of_the_real_captions_if_it_is_packaged(tmp_path, kind):
    made = {} if kind == "none" else {"caption": lambda _: {"profile": kind}}
    real = save_set(tmp_path / "real", 0, text=lambda _: "a", **made)
    drawn = save_set(tmp_path / "syn", 100, prompt=lambda _: "P", synthetic=lambda _: True)
    config, sets = read(real, drawn)
    found = find_reteller(config, sets)
    assert found.profile.name == ("phantom" if kind == "phantom" else "generic")
    assert found.demonstration
    config, sets = read(real, drawn, profile="oct")
    assert find_reteller(config, sets).profile.name == "oct"


def test_what_cannot_be_captioned_again_is_refused_at_once(real, tmp_path):
    bare = save_set(tmp_path / "bare", 100, synthetic=lambda _: True)
    config, sets = read(real, bare)
    with pytest.raises(ConfigError, match="no image of bare has a caption"):
        find_reteller(config, sets)
    drawn = save_set(tmp_path / "syn", 100, prompt=lambda _: "P", synthetic=lambda _: True)
    config, sets = read(real, drawn, captioner="no/such", offline=True)
    with pytest.raises(MissingModelError, match="--captioner"):
        find_reteller(config, sets)
    config, sets = read(real, drawn, captioner=None)
    assert find_reteller(config, sets) is None


def tell(texts, told, item):
    rows = list(range(len(texts)))
    return Recaptioned(item, rows, texts, [f"g{row}" for row in rows]), told


def test_kinds_are_compared_and_told_in_plain_words(real, tmp_path):
    drawn = save_set(tmp_path / "syn", 100, prompt=lambda _: "P", synthetic=lambda _: True)
    _, sets = read(real, drawn)
    colors = ("red", "blue", "green", "brown")
    texts = [f"It is {colors[row % 4]} and round." for row in range(COUNT)]
    wrong = [f"It is {colors[(row + 1) % 4]} and round." for row in range(COUNT)]
    profile = read_profile("generic")
    kinds = compare_kinds(tell(texts, wrong, sets[1]), tell(texts, texts, sets[0]), profile)
    assert [item["kind"] for item in kinds] == ["all attributes", "color", "shapes and borders"]
    assert kinds[1]["drawn"]["value"] == 0 and kinds[1]["real"]["value"] == 1
    assert kinds[1]["verdict"] == "less" and kinds[2]["difference"]["value"] == 0
    facts = {"n_drawn": COUNT, "n_real": COUNT, "paired": False, "failed": {}, "kinds": kinds}
    facts |= {"set": "syn", "profile": "generic", **judge_kinds(kinds, profile)}
    lines = tell_captions(facts)
    told = "the synthetic images show less of what their captions say than real"
    assert lines[0].startswith(told)
    assert lines[1] == "synthetic images show less than real ones of: color"
    head, rows = show_captions(facts)["table"]
    assert len(rows) == 3 and all(len(row) == len(head) for row in rows)
    empty = compare_kinds(tell(["x"], ["x"], sets[1]), tell([], [], sets[0]), profile)
    assert empty == []
    bare = facts | {"kinds": [], **judge_kinds([], profile)}
    assert tell_captions(bare)[0].endswith("the captions name no attribute of profile generic")


def test_names_that_are_alike_have_the_same_code():
    one, two = code_alike((["b", "a", "b"], ["a", "c"]))
    assert one.tolist() == [1, 0, 1] and two.tolist() == [0, 2]
    assert all(len(part) == 0 for part in code_alike(([], [])))
