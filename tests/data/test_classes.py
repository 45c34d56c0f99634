import pytest

from medart_cli.data.classes import ClassWords, fit_article, read_classes, spoken_label
from medart_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("label", "spoken"),
    [
        ("dyed-lifted-polyps", "dyed lifted polyps"), ("basal_cell", "basal cell"),
        ("non-polypoid lesion", "non-polypoid lesion"), (" nevus ", "nevus"),
        ("T-cell_a", "T-cell a"), ("a  b", "a b"), ("", ""), ("0", "0"), ("2017", "2017"),
        ("01_melanoma", "melanoma"), ("01-melanoma", "melanoma"), ("001.melanoma", "melanoma"),
        ("10_name", "name"), ("3_basal_cell", "basal cell"), ("0_No_DR", "No DR"),
        ("4_chamber", "4 chamber"), ("2_cell", "2 cell"), ("3_vessel_view", "3 vessel view"),
        ("10_", "10"), ("1_2", "1 2"), ("3D_scan", "3D scan"), ("2-cell", "2-cell"),
        ("BenignLesion", "benign lesion"), ("ViralPneumonia", "viral pneumonia"),
        ("LesionOfTheSkin", "lesion of the skin"), ("AKLesion", "AK lesion"),
        ("benignLesion", "benign lesion"), ("McCune", "McCune"), ("pH", "pH"), ("mRNA", "mRNA"),
        ("SARS-CoV-2", "SARS CoV-2"), ("Barrett", "Barrett"), ("Lung_Opacity", "Lung Opacity"),
        ("NORMAL", "normal"), ("DRUSEN", "drusen"),
        ("BASAL_CELL_CARCINOMA", "basal cell carcinoma"),
        ("NO_TUMOR", "no tumor"), ("OLD SCAR", "old scar"), ("AK", "AK"), ("CNV", "CNV"),
        ("VASC", "VASC"), ("CNV LESION", "CNV lesion"), ("COVID-19", "COVID-19"),
        ("NON_COVID", "non COVID"), ("mel", "mel"), ("Gro\u0308ße", "Größe"), ("GRÖSSE", "grösse"),
        ("痣", "痣"),
    ],
)  # fmt: skip
def test_names_of_folders_become_words(label, spoken):
    assert spoken_label(label) == spoken
    assert spoken_label(spoken) == spoken


@pytest.mark.parametrize(
    ("spoken", "article"),
    [("adenoma", "an"), ("polyp", "a"), ("ulcer", "an"), ("uterine wall", "a"), ("AK", "an"),
     ("BE", "a"), ("SCC", "an"), ("MRI scan", "an"), ("CT", "a"), ("eosinophil", "an"),
     ("European kind", "a"), ("unilateral mass", "a"), ("uninfected cyst", "an"), ("uveal", "a"),
     ("urticaria", "an"), ("ureter", "a"), ("hour", "an"), ("Ödem", "an"), ("8", "a"),
     ("one-sided", "a"), ("oedema", "an"), ("", "a")],
)  # fmt: skip
def test_the_article_fits_the_label(spoken, article):
    assert fit_article("A scan of a {label}", spoken) == f"A scan of {article} {{label}}"
    assert fit_article("An {label} scan", spoken) == f"{article.title()} {{label}} scan"
    assert fit_article("A scan of {label}", spoken) == "A scan of {label}"


def write(tmp_path, text):
    path = tmp_path / "classes.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_classes_have_names_and_synonyms_in_short_or_in_full(tmp_path):
    text = 'nv = "nevus"\n[mel]\nname = " melanoma "\nsynonyms = ["malignant  melanoma"]\n'
    text += '["basal cell"]\nsynonyms = ["rodent ulcer"]\n["Gro\u0308ße"]\nname = "size"\n'
    assert read_classes(write(tmp_path, text)) == {
        "nv": ClassWords("nevus"),
        "mel": ClassWords("melanoma", ("malignant melanoma",)),
        "basal cell": ClassWords("basal cell", ("rodent ulcer",)),
        "Größe": ClassWords("size"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no class"),
        ("mel = ", "cannot be read as TOML"),
        ("mel = 3", "mel: must have name"),
        ("[mel]", "mel: must have name"),
        ('[mel]\nspoken = "x"', "mel: must have name"),
        ('mel = " "', "name must be a text"),
        ("[mel]\nname = 3", "name must be a text"),
        ('[mel]\nsynonyms = "x"', "name must be a text and synonyms a list"),
        ('[mel]\nsynonyms = ["x", ""]', "none of them empty"),
    ],
)
def test_a_wrong_file_of_classes_is_named_with_its_fault(tmp_path, text, message):
    with pytest.raises(ConfigError, match=f"--classes .*{message}"):
        read_classes(write(tmp_path, text))


def test_a_missing_file_of_classes_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"--classes .*none\.toml: cannot be read"):
        read_classes(tmp_path / "none.toml")
