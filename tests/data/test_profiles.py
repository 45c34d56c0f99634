import tomllib
from importlib import resources

import pytest

from medart_cli.data.profiles import columns_of, read_profile, spoken_label
from medart_cli.errors import ConfigError

NAMES = (
    "blood-smear dermoscopy endoscopy fundus generic histopathology oct phantom radiograph "
    "ultrasound"
).split()


def write(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text('simple = "A scan of {label}"\nflips = false\n' + text, encoding="utf-8")
    return str(path)


def test_the_packaged_profiles_are_those_that_are_promised():
    folder = resources.files("medart_cli") / "profiles"
    assert sorted(item.name.removesuffix(".toml") for item in folder.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_packaged_profile_words_a_label_and_lists_what_to_describe(name):
    profile = read_profile(name)
    assert "basal cell" in profile.simple_caption("basal_cell")
    assert "{" not in profile.simple_caption(None) and "_" not in profile.simple_caption("a_b")
    assert profile.simple_caption(None)[0].isupper()
    assert len(profile.attributes) >= 4 and profile.words >= 40
    prompt = profile.build_prompt({"label": "basal_cell"})
    assert profile.simple_caption("basal_cell") in prompt and (
        str(profile.words) in prompt or name == "phantom"  # the small captioner is asked in short
    )
    assert all(attribute in prompt for attribute in profile.attributes)
    assert "{" not in prompt


@pytest.mark.parametrize("label", [0, 1])
def test_a_label_that_is_a_number_is_asked_for_like_its_text(label):
    profile = read_profile("generic")
    asked = profile.build_prompt({"label": label})
    assert profile.simple_caption(str(label)) in asked
    assert profile.build_prompt({"label": str(label)}) == asked


def test_names_of_folders_become_words():
    names = ["dyed-lifted-polyps", "basal_cell", "non-polypoid lesion", " nevus ", "T-cell_a"]
    spoken = ["dyed lifted polyps", "basal cell", "non-polypoid lesion", "nevus", "T-cell a"]
    assert [spoken_label(name) for name in names] == spoken


def test_mirrored_images_keep_their_meaning_where_the_body_has_no_side():
    flips = {name: read_profile(name).flips for name in NAMES}
    assert flips["dermoscopy"] and flips["endoscopy"] and flips["blood-smear"]
    assert not any(flips[name] for name in ("fundus", "radiograph", "oct", "generic"))


def test_an_image_without_a_label_has_a_simple_caption_too():
    assert read_profile("endoscopy").simple_caption("") == "An endoscopic image"
    assert read_profile("blood-smear").simple_caption(None) == "A microscopic image of a blood cell"
    assert read_profile("dermoscopy").simple_caption("  ") == "A dermoscopic image"


def test_a_profile_of_one_s_own_is_read_from_its_path(tmp_path):
    profile = read_profile(write(tmp_path, 'words = 9\n[attributes]\n"the edge" = ["edge"]\n'))
    assert profile.simple_caption("x_y") == "A scan of x y"
    assert "the edge" in profile.build_prompt({}) and "9 words" in profile.build_prompt({})


def test_context_puts_columns_into_the_prompt_and_skips_rows_that_lack_them(tmp_path):
    text = 'context = ["Body site: {site}.", "Age {age}, {sex}."]\n'
    profile = read_profile(write(tmp_path, text))
    whole = profile.build_prompt({"label": "a", "site": "back", "age": 60, "sex": "f"})
    assert whole.startswith("Body site: back. Age 60, f. Write one caption")
    part = profile.build_prompt({"label": "a", "site": "{label}", "age": None, "sex": "f"})
    assert part.startswith("Body site: {label}. Write one caption")


def test_a_prompt_of_one_s_own_takes_the_place_of_ours(tmp_path):
    text = 'prompt = "Say {simple} for {label}; see {attributes}; {words} words."\n'
    profile = read_profile(write(tmp_path, text))
    assert profile.build_prompt({"label": "a_b"}).startswith("Say A scan of a b for a b; see ")


def test_the_hash_follows_the_wording(tmp_path):
    one = read_profile(write(tmp_path, "")).hash()
    assert one == read_profile(write(tmp_path, "words = 70\n")).hash()
    assert one != read_profile(write(tmp_path, "words = 71\n")).hash()
    assert one != read_profile(write(tmp_path, 'forbidden = ["x"]\n')).hash()


def test_the_shortening_prompt_holds_text_beginning_and_length():
    prompt = read_profile("generic").build_shorter("Long {text}.", "A medical image", 33)
    assert "Long {text}." in prompt and '"A medical image"' in prompt and "33 words" in prompt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("color = true\n", "unknown key color"),
        ("words = 0\n", "words must be 1 or more"),
        ('words = "many"\n', "words must be a int"),
        ("forbidden = [1]\n", "must be texts"),
        ('[attributes]\nedge = [""]\n', "must be texts"),
        ('prompt = "About {site}."\n', "put columns into sentences of context"),
        ('context = ["Site {}."]\n', "not the name of a column"),
        ('context = ["Site {site."]\n', "expected '}'"),
        ('context = ["Site {site.__class__}."]\n', "not the name of a column"),
    ],
)
def test_a_wrong_profile_is_named_with_its_fault(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_profile(write(tmp_path, text))


@pytest.mark.parametrize("text", ["", 'simple = "A scan"\nflips = true', 'simple = "{label}"'])
def test_a_profile_needs_the_simple_caption_and_the_flips(tmp_path, text):
    path = tmp_path / "bare.toml"
    path.write_text(text, encoding="utf-8")
    assert isinstance(tomllib.loads(text), dict)
    with pytest.raises(ConfigError, match="needs simple"):
        read_profile(str(path))


def test_an_unknown_profile_names_those_that_there_are(tmp_path):
    with pytest.raises(ConfigError, match="dermoscopy, endoscopy"):
        read_profile("skin")
    with pytest.raises(ConfigError, match="no such profile"):
        read_profile(str(tmp_path / "none.toml"))


def test_columns_are_the_names_in_braces():
    assert columns_of("a {b} c {d}") == {"b", "d"}
    assert columns_of("no {{braces}}") == set()
