from dataclasses import asdict

from medart_cli.study.arms import ARMS, Arm
from medart_cli.study.contrasts import contrast
from medart_cli.study.verdict import MOST_TOLD, open_page, tell_verdicts, word_caution, word_study

FIGURES = [{"key": "kernel", "title": "kernel distance", "better": "lower"}]


def arm(name, *, copies=(0.0, 0.0, 0.0), suspected=(False, False, False)):
    settings = ARMS[name].settings() if name in ARMS else Arm(name, name).settings()
    return {
        "name": name, "title": name.upper(), **settings,
        "color_loss": "score" if name == "score" else None,
        "each": {"copies": list(copies)}, "suspected": list(suspected),
    }  # fmt: skip


def facts(differences, *, reference="lora", gains=None, arms=()):
    names = [reference, *differences]
    return {
        "reference": reference, "measures": FIGURES, "gains": gains or {},
        "arms": list(arms) or [arm(name) for name in names],
        "differences": {
            name: {key: asdict(contrast(each)) for key, each in found.items()}
            for name, found in differences.items()
        },
    }  # fmt: skip


def answers(found):
    return {item["question"]: item["answer"] for item in tell_verdicts(found)}


def test_an_answer_is_yes_or_no_only_where_the_interval_leaves_out_zero():
    lower, higher, open_ = [-2.0, -2.1, -1.9], [2.0, 2.1, 1.9], [0.5, -2.0, 1.9]
    for each, answer in ((lower, "yes, nearer"), (higher, "no, farther away"),
                         (open_, "not shown")):  # fmt: skip
        found = answers(facts({"score": {"color_distance": each}}))
        assert (
            found["Does HLDF with the color score bring the colors nearer to real ones?"] == answer
        )


def test_what_is_asked_of_lora_is_answered_by_the_arm_without_it():
    found = answers(facts({"before": {"distance": [5.0, 5.1, 4.9]}}))
    assert found["Does fine-tuning bring the images nearer to real ones?"] == "yes, nearer"
    found = answers(facts({"frozen": {"distance": [-5.0, -5.1, -4.9]}}))
    assert found["Does training the text encoder bring the images nearer?"] == "no, farther away"


def test_an_open_question_says_what_would_settle_it_and_an_answered_one_nothing():
    each = {"score": {"color_distance": [-2.0, -2.1, -1.9]}, "dora": {"distance": [0.5, 1.9, 0.6]}}
    shown, open_ = tell_verdicts(facts(each))[:2]
    assert (shown["answer"], shown["needed"]) == ("yes, nearer", "")
    assert open_["answer"] == "not shown" and "4 of 5 studies of" in open_["needed"]
    assert "95% interval" in open_["figures"] and "+0.5, +1.9, +0.6" in open_["figures"]


def test_an_arm_that_is_suspected_of_copies_is_not_praised_for_being_near():
    question = "Does HLDF with the color score bring the colors nearer to real ones?"
    for each, copier, answer in (
        ([-2.0, -2.1, -1.9], "score", "open: SCORE is nearer, but suspected of copies"),
        ([-2.0, -2.1, -1.9], "lora", "yes, nearer"),
        ([2.0, 2.1, 1.9], "lora", "open: LORA is nearer, but suspected of copies"),
    ):
        arms = [arm(it, suspected=(False, it == copier, False)) for it in ("lora", "score")]
        found = answers(facts({"score": {"color_distance": each}}, arms=arms))
        assert found[question] == answer


def test_without_a_ranking_the_kernel_distance_answers():
    item = tell_verdicts(facts({"dora": {"kernel": [-1.0, -1.1, -0.9]}}))[0]
    assert item["answer"] == "yes, nearer" and item["figures"].startswith("kernel distance: -1")


def test_where_two_distances_disagree_the_question_stays_open():
    question = "Does fine-tuning bring the images nearer to real ones?"
    shown, open_ = [1.0, 1.1, 0.9], [0.5, -0.9, 0.6]
    for energy, kernel, answer in (
        (shown, shown, "yes, nearer"),
        (shown, open_, "yes, nearer"),
        (open_, open_, "not shown"),
        (open_, shown, "open: nearer by the kernel distance, not shown by the energy distance"),
        ([-it for it in shown], shown,
         "open: nearer by the kernel distance, farther away by the energy distance"),
    ):  # fmt: skip
        found = facts({"before": {"distance": energy, "kernel": kernel}})
        item = tell_verdicts(found)[0]
        assert (item["question"], item["answer"]) == (question, answer)
        assert ("; kernel distance: " in item["figures"]) == answer.startswith("open")


def test_an_arm_of_ones_own_is_asked_the_same_by_its_title():
    found = answers(facts({"wide": {"distance": [-1.0, -1.1, -0.9]}}))
    assert found["Does WIDE bring the images nearer than LORA?"] == "yes, nearer"


def test_a_default_name_with_options_of_ones_own_is_asked_by_its_title():
    each = {"color_distance": [-1.0, -1.1, -0.9], "distance": [-1.0, -1.1, -0.9]}
    arms = [arm("lora"), arm("score") | {"finetune": ["--hldf-every", "4"]}]
    found = answers(facts({"score": each}, arms=arms))
    assert found["Does SCORE bring the colors nearer to real ones?"] == "yes, nearer"
    assert found["Does SCORE bring the images as a whole nearer than LORA?"] == "yes, nearer"
    assert not any("HLDF" in question for question in found)
    arms = [arm("lora") | {"finetune": ["--rank", "16"]}, arm("dora")]
    found = answers(facts({"dora": each}, arms=arms))
    assert list(found)[0] == "Does DORA bring the images nearer than LORA?"


def test_with_another_reference_nothing_is_said_of_lora_alone():
    found = answers(facts({"score": {"distance": [-1.0, -1.1, -0.9]}}, reference="dora"))
    assert list(found)[0] == "Does SCORE bring the images as a whole nearer than DORA?"


def test_a_classifiers_gain_is_one_only_beyond_both_kinds_of_chance():
    seeds_agree = contrast([0.03, 0.031, 0.029], [0.03] * 3, 60)  # as 0.842 against 0.817
    found = answers(facts({}, gains={"lora": asdict(seeds_agree)}))
    assert found["Do images drawn after LORA help a classifier?"] == "not shown"
    sure = contrast([0.13, 0.131, 0.129], [0.03] * 3, 60)
    found = answers(facts({}, gains={"lora": asdict(sure), "before": asdict(sure)}))
    assert found["Do images drawn after LORA help a classifier?"] == "yes, it is more accurate"
    assert not any("BEFORE" in question for question in found)  # a base is not what is studied


def test_copies_are_suspected_by_the_arm_and_its_seeds():
    question = "Does a model copy training images?"
    assert answers(facts({}))[question] == "no sign of it"
    copier = arm("lora", copies=(0.0, 0.5, 0.25), suspected=(False, True, True))
    item = tell_verdicts(facts({}, arms=[copier, arm("dora")]))[-2]
    assert item["answer"] == "suspected: LORA (2 of 3 seeds)"
    assert "at most 50.0 %" in item["figures"]
    assert "of 6 units without copies 0.1 would be suspected by chance" in item["figures"]
    few = arm("lora", copies=(0.0, 0.02, 0.0))
    assert answers(facts({}, arms=[few]))[question] == "no more than chance gives"
    unknown = arm("lora")
    unknown["each"] = {}
    assert answers(facts({}, arms=[unknown]))[question] == "not checked"


def test_weights_that_tell_who_was_trained_on_are_named_with_their_seeds():
    question = "Do the weights tell which images were trained on?"
    assert answers(facts({}))[question] == "not checked"
    quiet, loud = arm("lora"), arm("dora")
    for it, areas in ((quiet, [0.5, 0.6, 0.55]), (loud, [0.7, 0.9, 0.6])):
        it["each"]["membership"] = areas
        it["recognized"] = [area > 0.65 for area in areas]
    item = tell_verdicts(facts({}, arms=[quiet]))[-1]
    assert (item["question"], item["answer"]) == (question, "not shown")
    assert "no proof of privacy" in item["needed"]
    item = tell_verdicts(facts({}, arms=[quiet, loud]))[-1]
    assert item["answer"] == "yes: DORA (2 of 3 seeds)"
    assert "0.50 to 0.90" in item["figures"]


def test_the_page_says_how_many_answers_chance_alone_would_give():
    names = ("dora", "full", "frozen", "simple")
    items = tell_verdicts(facts({name: {"distance": [1.0, -1.0, 0.5]} for name in names}))
    assert "Of 4 questions in which nothing differs, chance alone would answer 0.2" in (
        word_caution(items)
    )


def answer(question, mark):
    figures = "color: -0.2, 95% interval -0.3 to -0.1 (seeds: -0.2, -0.2)"
    return {"question": question, "answer": "yes, nearer", "mark": mark, "figures": figures}


def test_the_page_opens_with_three_sentences_and_few_answers():
    quiet = [answer("Copies?", "good"), answer("Membership?", "unclear")]
    many = [answer(f"Is {number} nearer?", "good") for number in range(MOST_TOLD + 1)]
    first, second, third = open_page({"verdicts": [*many, answer("Open?", "unclear"), *quiet]})
    assert [it.mark for it in (first, second, third)] == ["unclear", "good", "unclear"]
    assert first.text == "Of 5 questions 4 could be answered."
    shown = "Is 2 nearer? Yes, nearer (color: -0.2, 95% interval -0.3 to -0.1)."
    assert second.text.endswith(f"{shown} 1 more is answered below.")
    assert "interval" not in third.text
    assert "Is 3" not in second.text and "Copies?" in third.text
    nothing = open_page({"verdicts": quiet})[1]
    assert nothing.text == "No difference between the arms is shown."


def test_the_first_line_names_the_arms_the_sets_and_their_sizes():
    found = facts({}) | {
        "seeds": [0, 1], "images": {"train": 30, "test": 12}, "real": {"patients": 9},
        "settings": {"data": "skin/images", "test": "skin/test"},
    }  # fmt: skip
    assert word_study(found) == (
        "Compared: 1 arm (LORA), each trained with 2 seeds on 30 real images (images) and held "
        "against 12 real test images (test; 9 patients)."
    )
    found["settings"].pop("test")
    assert "(split off images; 9 patients)" in word_study(found)
