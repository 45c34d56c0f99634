import numpy as np
import pytest

from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.results import build_rows, choose_regime, compare_regimes, word_verdict
from medart_cli.metrics.scores import SCORES

TRUTH = np.arange(120) % 3


def predict(rate, seed):
    """Make probabilities that are right at the given rate."""
    generator = np.random.default_rng(seed)
    said = np.where(generator.uniform(size=120) < rate, TRUTH, (TRUTH + 1) % 3)
    return np.eye(3)[said] * 0.8 + 0.2 / 3


@pytest.fixture
def compared(tmp_path):
    runs = {
        name: [predict(rate, 10 * number + seed) for seed in range(3)]
        for number, (name, rate) in enumerate(
            {"real": 0.6, "synthetic": 0.3, "mix": 0.85, "pretrain": 0.62, "control": 0.64}.items()
        )
    }
    config = ClassifyConfig(data="x", synthetic="s", out=tmp_path, bootstrap=300)
    found = compare_regimes(TRUTH, runs, [str(i) for i in range(120)], config)
    for name in found:
        found[name] |= {"train_images": [30], "steps": [15]}
    return found


def test_the_verdict_follows_the_interval_of_the_difference(compared):
    verdicts = {name: found["verdict"] for name, found in compared.items()}
    assert verdicts == {
        "real": "",
        "synthetic": "worse",
        "mix": "better",
        "pretrain": "no difference shown",
        "control": "no difference shown",
    }
    for name, found in compared.items():
        if name != "real":
            gap = found["difference_to_real"]["balanced_accuracy"]
            crosses = gap["low"] <= 0 <= gap["high"]
            assert crosses == (found["verdict"] == "no difference shown")


def test_who_is_better_than_real_but_not_in_as_many_steps_is_not_called_better(tmp_path):
    config = ClassifyConfig(data="x", synthetic="s", out=tmp_path, bootstrap=300)
    groups = [str(i) for i in range(120)]
    for control, verdict in ((0.84, "no difference shown"), (0.6, "better")):
        rates = {"real": 0.6, "control": control, "mix": 0.85}
        runs = {name: [predict(rate, i)] for i, (name, rate) in enumerate(rates.items())}
        found = compare_regimes(TRUTH, runs, groups, config)
        assert found["mix"]["difference_to_real"]["balanced_accuracy"]["low"] > 0
        assert found["mix"]["verdict"] == verdict
        more_steps = "better" if control > 0.8 else "no difference shown"
        assert found["control"]["verdict"] == more_steps
        assert choose_regime(found) == ("control" if control > 0.8 else "mix")
        assert ("synthetic images help" in word_verdict("mix", found["mix"])) == (
            verdict == "better"
        )


def test_the_mean_over_seeds_stands_beside_both_intervals(compared):
    score = compared["mix"]["scores"]["accuracy"]
    each = [item["accuracy"] for item in compared["mix"]["by_seed"]]
    assert score["mean"] == pytest.approx(np.mean(each))
    assert score["low"] < score["mean"] < score["high"]
    assert score["seed_interval"][0] < score["mean"] < score["seed_interval"][1]


def test_another_regime_is_recommended_only_where_it_is_shown_to_be_better(compared):
    assert choose_regime(compared) == "mix"
    del compared["mix"]
    assert choose_regime(compared) == "real"
    del compared["real"]
    assert choose_regime(compared) == "synthetic"


def test_the_sentence_claims_nothing_where_the_interval_holds_zero(compared):
    assert "synthetic images help" in word_verdict("mix", compared["mix"])
    assert "synthetic images harm" in word_verdict("synthetic", compared["synthetic"])
    sentence = word_verdict("pretrain", compared["pretrain"])
    assert sentence.startswith(
        "pretrain (trained on the synthetic images, then on the real ones): no difference is shown"
    )
    assert "help" not in sentence and "harm" not in sentence


def test_the_table_has_a_row_a_regime_and_a_cell_a_column(compared):
    columns, rows = build_rows(compared, SCORES)
    assert [row[0] for row in rows] == list(compared)
    assert {len(row) for row in rows} == {len(columns)}
    assert rows[0][-3:] == ["", "", ""]
    assert rows[2][-1] == "better"
    cells = dict(zip(columns, rows[0], strict=True))
    assert "[" in cells["AUROC"] and "[" not in cells["calibration error"]


def test_the_narrow_table_fits_a_terminal_of_eighty_columns(compared):
    columns, rows = build_rows(compared, SCORES[:1], narrow=True)
    width = sum(
        max(len(line) for cell in column for line in [*cell.splitlines(), ""])
        for column in zip(columns, *rows, strict=True)
    )
    assert width + 3 * len(columns) + 1 <= 80
