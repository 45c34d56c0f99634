import tomllib
from importlib import resources

import pytest

from medart_cli.caption.rules import mentioned
from medart_cli.data.classes import ClassWords
from medart_cli.data.profiles import columns_of, read_profile
from medart_cli.errors import ConfigError

NAMES = (
    "blood-smear ct-mri-slice dermoscopy endoscopy fundus generic histopathology oct phantom "
    "radiograph skin-photo ultrasound"
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


# Each template with each kind of label, as folders of real sets are called.
TEMPLATES = {
    "blood-smear": "A microscopic image of a blood cell: {}",
    "ct-mri-slice": "A cross-sectional scan of {}",
    "dermoscopy": "A dermoscopic image of {}",
    "endoscopy": "An endoscopic image of {}",
    "fundus": "A fundus photograph of {}",
    "generic": "A medical image of {}",
    "histopathology": "A histopathology image of {}",
    "oct": "An optical coherence tomography scan of {}",
    "phantom": "A phantom image of {}",
    "radiograph": "A radiograph of {}",
    "skin-photo": "A clinical photograph of {}",
    "ultrasound": "An ultrasound image of {}",
}
SPOKEN = {
    "BenignLesion": "benign lesion",
    "dyed-lifted-polyps": "dyed lifted polyps",
    "01_melanoma": "melanoma",
    "10_name": "name",
    "AK": "AK",
    "adenoma": "adenoma",
    "NORMAL": "normal",
    "Größe": "Größe",
}


@pytest.mark.parametrize("label", SPOKEN)
@pytest.mark.parametrize("name", NAMES)
def test_each_template_words_each_kind_of_label(name, label):
    assert read_profile(name).simple_caption(label) == TEMPLATES[name].format(SPOKEN[label])


def test_a_template_with_an_article_gets_the_one_that_fits_each_label(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('simple = "A photo of a {label}"\nflips = true\n')
    profile = read_profile(str(path))
    assert {profile.simple_caption(label).removeprefix("A photo of ") for label in SPOKEN} == {
        "a benign lesion", "a dyed lifted polyps", "a melanoma", "a name", "an AK", "an adenoma",
        "a normal", "a Größe",
    }  # fmt: skip


def test_a_spoken_name_goes_into_template_and_prompt(tmp_path):
    path = tmp_path / "classes.toml"
    path.write_text('mel = "melanoma"\n[nv]\nsynonyms = ["mole"]\n')
    profile = read_profile("dermoscopy", path)
    assert profile.simple_caption("mel") == "A dermoscopic image of melanoma"
    assert '"A dermoscopic image of melanoma"' in profile.build_prompt({"label": "mel"})
    assert profile.word_class("nv") == ClassWords("nv", ("mole",))
    assert profile.word_class("other_one") == ClassWords("other one")
    assert profile.hash() != read_profile("dermoscopy").hash()


def test_mirrored_images_keep_their_meaning_where_the_body_has_no_side():
    flips = {name: read_profile(name).flips for name in NAMES}
    sided = {"fundus", "radiograph", "oct", "ultrasound", "ct-mri-slice", "generic", "phantom"}
    assert {name for name in NAMES if not flips[name]} == sided


@pytest.mark.parametrize("name", NAMES)
def test_no_profile_forbids_or_doubts_what_it_asks_for(name):
    profile = read_profile(name)
    prompt = profile.build_prompt({"label": "x"})
    attributes = " ".join(profile.attributes)
    assert not mentioned(attributes, profile.forbidden + profile.doubtful)
    assert not mentioned(prompt, profile.forbidden)
    for asked, beginnings in profile.attributes.items():
        assert mentioned(asked, beginnings) or name == "phantom", asked  # the words that show it
    assert not {*profile.findings} & {*profile.forbidden}


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
    assert one != read_profile(write(tmp_path, 'findings = ["x"]\n')).hash()


def test_the_shortening_prompt_holds_text_beginning_and_length():
    prompt = read_profile("generic").build_shorter("Long {text}.", "A medical image", 33)
    assert "Long {text}." in prompt and '"A medical image"' in prompt and "33 words" in prompt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("color = true\n", "unknown key color"),
        ("words = 0\n", "words must be 1 or more"),
        ('words = "many"\n', "words must be a int"),
        ("forbidden = [1]\n", "forbidden must be a list of texts, got 1"),
        ('findings = [""]\n', "findings must be a list of texts"),
        ('[attributes]\nedge = [""]\n', "attributes, 'edge', must be a list of texts"),
        ('[attributes]\nedge = "round"\n', "attributes, 'edge', must be a list of texts"),
        ('language = "xx"\n', "language must be one of en, de"),
        ('language = "de"\n', 'language = "de" needs a prompt in it'),
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
