import pytest

from medart_cli.caption.rules import (
    Rules,
    begins_again,
    begins_with,
    covered,
    cut_caption,
    echoes,
    find_faults,
    find_flags,
    is_whole,
    reason_of,
    refuses,
    repeats,
    split_sentences,
    word_overlap,
)
from medart_cli.data.profiles import read_profile

SIMPLE = "A dermoscopic image of nevus"
INSTRUCTION = read_profile("dermoscopy").build_prompt({"label": "nevus"})
GOOD = (
    f"{SIMPLE}, showing a round lesion with an even brown network. Its border is regular. "
    "The surrounding skin is pale with a few dark hairs."
)


def rules(limit=120, name="dermoscopy", label="nevus", others=("melanoma", "BE"), **changes):
    profile = read_profile(name)
    own = profile.word_class(label)
    fields = {
        "simple": profile.simple_caption(label),
        "instruction": profile.build_prompt({"label": label}),
        "profile": profile,
        "own": (own.name,),
        "others": {other: profile.word_class(other) for other in others if other != label},
        "context": (),
        "limit": limit,
        "count_tokens": lambda text: len(text.split()) + 1,
    }
    return Rules(**{**fields, **changes})


def test_a_good_caption_breaks_no_rule():
    assert find_faults(GOOD, rules()) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The lesion is round and brown.", "does not begin with the template caption"),
        (f"{SIMPLE}.", "says nothing beyond the template caption"),
        (f"{SIMPLE}. Use at most 70 words in all. Describe only what you see.", "echoes"),
        (f"{SIMPLE}. I cannot describe medical images.", "refuses to describe"),
        (f"{SIMPLE} with brown brown brown brown spots.", "repeats itself"),
        (f"{SIMPLE}, brown. It may be a melanoma.", "names another class"),
        (f"{SIMPLE}, brown, after treatment.", "contains a forbidden word: treatment"),
        (f"{SIMPLE}, brown. It should be excised.", "gives advice: should be excised"),
        (f"{SIMPLE}, brown, of a man.", "tells who the patient is: man"),
        (f"{SIMPLE}, brown. It may be psoriasis.", "makes a diagnosis that is not the label: may"),
        (f"{SIMPLE}, brown. {SIMPLE}, or round.", "gives more than one caption"),
        (f"{SIMPLE}, der Rand ist rund und die Haut braun.", "is in another language: der Rand"),
        (f"{SIMPLE}, " + ", ".join(f"spot number {index}" for index in range(60)), "too long"),
    ],
)
def test_each_rule_refuses_its_own_fault_and_no_other(text, fault):
    found = find_faults(text, rules())
    assert len(found) == 1 and fault in found[0]


def test_the_beginning_is_whole_words():
    assert begins_with("a dermoscopic image of NEVUS, brown", SIMPLE)
    assert begins_with(SIMPLE, SIMPLE)
    assert not begins_with("A dermoscopic image of nevuses", SIMPLE)
    assert not begins_with("A dermoscopic image of nevus-like spots", SIMPLE)
    assert begins_with("A dermoscopic image of nevus - brown", SIMPLE)


def test_a_second_caption_begins_a_sentence():
    assert begins_again(f"{SIMPLE}, brown. {SIMPLE}, or red.", SIMPLE)
    assert begins_again(f'{SIMPLE}, brown. Or: "{SIMPLE}, red."', SIMPLE)
    assert not begins_again(f"{SIMPLE}, brown, as {SIMPLE.lower()} is.", SIMPLE)
    assert not begins_again(f"So: {SIMPLE}, brown.", SIMPLE)


def test_an_echo_is_a_long_run_of_the_instruction_or_a_mark_of_the_chat():
    words = INSTRUCTION.split()
    assert echoes(f"{SIMPLE}. {' '.join(words[-9:])}", INSTRUCTION, SIMPLE)
    assert not echoes(f"{SIMPLE}. {' '.join(words[-4:])}", INSTRUCTION, SIMPLE)
    assert not echoes(GOOD, INSTRUCTION, SIMPLE)  # the simple caption stands in the instruction
    assert echoes(f"{SIMPLE}, with vessels if there are any.", INSTRUCTION, SIMPLE)
    fundus = read_profile("fundus")
    prompt, listed = fundus.build_prompt({"label": "normal"}), list(fundus.attributes)
    assert "microaneurysms, hard exudates, cotton wool spots or drusen if" in prompt
    text = "No hemorrhages, microaneurysms, hard exudates, cotton wool spots or drusen are seen."
    assert echoes(text, prompt, "A fundus", ()) and not echoes(text, prompt, "A fundus", listed)
    assert echoes(", ".join(listed[:3]), prompt, "A fundus", listed)
    for mark in ("USER: what", "ASSISTANT: It", "<image>", "[/INST]", "<|eot_id|>"):
        assert echoes(f"{SIMPLE}, brown. {mark}", INSTRUCTION, SIMPLE)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot provide a diagnosis.",
        "I can\N{RIGHT SINGLE QUOTATION MARK}t see the image.",
        "I'm sorry, but I am unable to help.",
        "As an AI language model, ...",
        "It is impossible to determine the type.",
        "Please consult a dermatologist.",
        "Please provide the image.",
    ],
)
def test_refusals_are_seen_in_many_words(text):
    assert refuses(f"{SIMPLE}. {text}")


@pytest.mark.parametrize(
    "text", ["The border cannot be followed.", "No vessels are seen.", "I-shaped streaks.", GOOD]
)
def test_findings_in_the_negative_are_no_refusal(text):
    assert not refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "brown brown brown",
        "with dark spots with dark spots with dark spots",
        "It is brown. It has hair. It is brown.",
        "It shows a spot of a dark color and an even round border with hair. "
        "Also a spot of a dark color and an even round border with skin.",
        "aaaaaaaaaaaaaaaa",
        "!?!?!?!?!?!?!?!?!?!?!?!?!?",
    ],
)
def test_loops_are_repetition(text):
    assert repeats(text)


@pytest.mark.parametrize(
    "text", ["very very brown", "dark spots and light spots and gray spots", GOOD, ""]
)
def test_ordinary_texts_are_no_repetition(text):
    assert not repeats(text)


def test_a_forbidden_or_doubtful_word_in_the_simple_caption_is_the_label_s():
    held = rules(label="skin after treatment", others=())
    assert find_faults(f"{held.simple}, pale and smooth.", held) == []
    held = rules(name="histopathology", label="grade 2", others=("grade 3",))
    text = f"{held.simple}, with crowded glands of grade 2 and dark nuclei."
    assert find_faults(text, held) == [] and find_flags(text, held) == []


def test_a_fault_without_its_words_is_its_reason():
    assert reason_of("names another class: melanoma, BE") == "names another class"
    assert reason_of("too long") == "too long"


# What a specialist would write of each kind of image, among the classes of common data sets.
FIELDS = [
    ("oct", "NORMAL", "CNV DME DRUSEN NORMAL", "showing all layers of the retina in order, with a "
     "smooth foveal pit. No drusen, fluid or detachment can be seen. Vessel shadows cross it.", []),
    ("oct", "DME", "CNV DME DRUSEN NORMAL", "with a thickened retina and dark intraretinal cystoid "
     "spaces under the fovea. Drusen are present at one edge. The foveal contour is lost.",
     ["mentions drusen, which is a class"]),
    ("oct", "CNV", "CNV DME DRUSEN NORMAL", "with an elevation in the left eye over fluid.",
     ["says left eye, which the profile calls doubtful"]),
    ("histopathology", "TUM", "ADI BACK DEB LYM MUC MUS NORM STR TUM", "stained in pink, with "
     "crowded irregular glands and dark nuclei. The stroma is thin and holds some lymphocytes. "
     "Mitotic figures and debris are visible at the back.", []),
    ("histopathology", "stroma", "stroma tumor_epithelium lymphocytes debris mucosa adipose empty",
     "stained with H&E in pale pink, with wavy collagen and a small vessel, next to mild "
     "inflammation without debris. Scattered lymphocytes are seen.",
     ["mentions lymphocytes, which is a class"]),
    ("endoscopy", "dyed-lifted-polyps", "dyed-lifted-polyps esophagitis normal-cecum polyps",
     "with a raised bluish mucosa around a round pink polyp. The surface is glossy. A snare and "
     "some stool lie beside it; no bleeding is seen.", []),
    ("endoscopy", "ulcerative-colitis", "esophagitis normal-cecum polyps ulcerative-colitis",
     "showing red, granular mucosa. Shallow ulcers and yellow exudate cover the wall. Biopsy "
     "forceps are at the edge.", []),
    ("endoscopy", "normal", "BE GERD normal polyp", "which may be seen in soft light. The mucosa "
     "is pink and smooth, and folds run to the lumen.", []),
    ("blood-smear", "neutrophil", "basophil eosinophil ig lymphocyte monocyte neutrophil platelet",
     "with a segmented purple nucleus of three lobes. The cytoplasm is pale pink with fine "
     "granules. Red blood cells surround it, and one platelet lies near the edge.",
     ["mentions platelet, which is a class"]),
    ("fundus", "3", "0 1 2 3 4", "with a pale pink optic disc and sharp margins. The arteries are "
     "narrow, and 3 dot hemorrhages and hard exudates lie around the macula.", []),
    ("fundus", "glaucoma", "glaucoma cataract diabetic_retinopathy normal", "with a large cup and "
     "a thin inferior rim. The vessels bend at the edge of the disc, typical of glaucoma.", []),
    ("radiograph", "PNEUMONIA", "NORMAL PNEUMONIA", "in frontal projection, with a patchy opacity "
     "in the lower part on the left of the image. A side marker stands at the top.", []),
    ("radiograph", "NORMAL", "COVID Lung_Opacity NORMAL Viral_Pneumonia", "of the chest in frontal "
     "view. Both lungs are clear without opacities, and the heart is of normal size.", []),
    ("ultrasound", "benign", "benign malignant normal", "showing an oval, hypoechoic mass with a "
     "circumscribed margin, parallel to the skin, and posterior enhancement behind it.", []),
    ("dermoscopy", "BKL", "MEL NV BCC AK BKL DF VASC SCC", "with many milia-like cysts and "
     "comedo-like openings. The lesion is brown and sharply bordered. There are gel bubbles.", []),
    ("dermoscopy", "BCC", "MEL NV BCC AK", "basal cell carcinoma, with arborizing vessels.",
     ["may make a diagnosis: carcinoma"]),
    ("ct-mri-slice", "glioma_tumor", "glioma_tumor meningioma_tumor no_tumor pituitary_tumor",
     "in axial plane at the level of the ventricles. A bright, irregular tumor with ring "
     "enhancement lies in the white matter on one side, with surrounding edema.", []),
    ("skin-photo", "Psoriasis", "Psoriasis Eczema Acne Tinea", "on an elbow. A well-defined red "
     "plaque carries thick silvery scale, with smaller papules beside it.", []),
    ("generic", "lesion", "lesion no_lesion", "of irregular shape; the tissue around is dark.", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "label", "classes", "text", "flags"), FIELDS)
def test_what_a_specialist_would_write_is_accepted(name, label, classes, text, flags):
    held = rules(name=name, label=label, others=classes.split())
    assert find_faults(f"{held.simple}, {text}", held) == []
    assert find_flags(f"{held.simple}, {text}", held) == flags


@pytest.mark.parametrize(
    ("name", "label", "classes", "text", "fault"),
    [
        ("oct", "DME", "CNV DME", "with fluid and signs of CNV.", "names another class: CNV"),
        ("endoscopy", "normal-cecum", "polyps normal-cecum", "with a small polyp.",
         "names another class: polyps"),
        ("endoscopy", "polyp", "polyp hyperplastic_polyp", "a hyperplastic polyp, pink.",
         "names another class: hyperplastic polyp"),
        ("ultrasound", "benign", "benign malignant", "with malignant features.",
         "names another class: malignant"),
        ("blood-smear", "monocyte", "monocyte neutrophil", "much like a neutrophil.",
         "names another class: neutrophil"),
        ("radiograph", "NORMAL", "NORMAL PNEUMONIA", "with pneumonia.", "names another class: pn"),
        ("radiograph", "NORMAL", "NORMAL", "unchanged since the last film.",
         "contains a forbidden word: unchanged"),
        ("fundus", "normal", "normal", "with a red disc in a 60-year-old.", "tells who"),
    ],
)  # fmt: skip
def test_what_a_specialist_would_strike_out_is_refused(name, label, classes, text, fault):
    held = rules(name=name, label=label, others=classes.split())
    found = find_faults(f"{held.simple}, {text}", held)
    assert len(found) == 1 and found[0].startswith(fault)


def test_captions_in_a_language_of_the_user_s_are_checked_for_that_language(tmp_path):
    (tmp_path / "own.toml").write_text(
        'simple = "Ein Hautbild von {label}"\nflips = true\nlanguage = "de"\n'
        'prompt = "Beginne mit: {simple}"\n'
    )
    held = rules(name=str(tmp_path / "own.toml"))
    german = f"{held.simple}, das einen runden Fleck mit einem Netz und dem Rand der Haut zeigt."
    assert find_faults(german, held) == []
    english = f"{held.simple}, which shows a round spot with a network at the edge of the skin."
    assert [reason_of(fault) for fault in find_faults(english, held)] == ["is in another language"]


def test_a_label_in_another_script_is_no_other_script(tmp_path):
    held = rules(label="\u75e3", others=())
    assert find_faults(f"{held.simple}, a round \u75e3 of brown color.", held) == []
    found = find_faults(f"{held.simple}, a round \u9ed1 spot.", held)
    assert found == ["is in another language: \u9ed1"]


def test_an_over_long_caption_is_cut_after_the_last_sentence_that_fits():
    cut = cut_caption(GOOD, rules(limit=20))
    assert (
        cut
        == f"{SIMPLE}, showing a round lesion with an even brown network. Its border is regular."
    )
    assert rules(limit=20).fits(cut) and not rules(limit=20).fits(GOOD)


def test_nothing_is_cut_where_no_sentence_fits_or_none_says_more():
    assert cut_caption(GOOD, rules(limit=8)) is None
    assert cut_caption(f"{SIMPLE}. It is brown and round and has hair.", rules(limit=8)) is None
    assert cut_caption(f"{SIMPLE} without any end", rules(limit=50)) is None


def test_a_text_is_whole_when_its_last_sentence_has_its_end():
    assert is_whole(GOOD) and is_whole('It has a "veil."')
    assert not is_whole(f"{GOOD} Its") and not is_whole("")


def test_numbers_and_quotes_do_not_end_sentences_wrongly():
    assert split_sentences('It is 1.5 mm wide. "Round." Dark') == [
        "It is 1.5 mm wide.",
        '"Round."',
        "Dark",
    ]
    assert split_sentences("One. Two", whole=True) == ["One."]


def test_attributes_are_covered_by_beginnings_of_words():
    attributes = {"color": ["brown"], "border": ["border", "symmetr"], "hair": ["hair"]}
    assert covered("A brownish spot, symmetrical.", attributes) == ["color", "border"]
    assert covered("An asymmetrical chair.", attributes) == []


def test_word_overlap_is_a_share_of_both_texts():
    assert word_overlap("a brown spot", "a brown spot") == 1
    assert word_overlap("brown spot", "pale spot") == pytest.approx(1 / 3)
    assert word_overlap("brown", "pale") == 0
    assert word_overlap("", "") == 1
