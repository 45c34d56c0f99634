import csv
import io

from medart_cli.data.takeaway import build_latex
from medart_cli.study.report import build_differences, build_means, list_figures, turn
from tests.study_facts import build_facts


def test_the_table_has_mean_and_deviation_and_what_real_halves_give():
    columns, rows = build_means(build_facts())
    assert columns[:3] == ["Arm", "Frechet distance (lower)", "color variety (1)"]
    assert rows[0][:3] == ["LoRA & <co>", "100.0 ± 10.0", "0.90 ± 0.10"]
    assert rows[-1][:3] == ["baseline, real images", "12.0", "-"]
    assert build_means(build_facts(), ["color_variety"])[0] == ["Arm", "color variety (1)"]


def test_differences_carry_their_interval_and_a_mark_where_zero_is_left_out():
    columns, rows = build_differences(build_facts())
    assert columns[0] == "Less LoRA & <co>"
    assert rows == [["score_x", "-20.0 [-22.5, -17.5] *", "+0.00 [-0.25, +0.25]"]]


def test_the_csv_has_a_row_for_each_arm_and_measure():
    rows = list(csv.DictReader(io.StringIO(list_figures(build_facts()))))
    assert [(row["arm"], row["measure"]) for row in rows] == [
        ("lora", "frechet"), ("lora", "color_variety"),
        ("score", "frechet"), ("score", "color_variety"),
    ]  # fmt: skip
    assert (rows[0]["seed_0"], rows[0]["difference"]) == ("90.0", "")
    assert float(rows[2]["difference"]) == -20.0 and float(rows[2]["high"]) < 0


def test_latex_is_escaped_and_of_as_many_columns_as_its_head_says():
    text = build_latex(build_means(build_facts()), "3 seeds")
    assert "LoRA \\& $<$co$>$" in text and "score\\_x" in text and "$\\pm$" in text
    head = text.splitlines()[1]
    assert head == "\\begin{tabular}{lrr}"
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert all(line.replace("\\&", "").count("&") == 2 for line in rows)


def test_a_turned_table_has_arms_as_columns():
    columns, rows = turn(build_means(build_facts()))
    assert list(columns) == ["Arm", "LoRA & <co>", "score_x", "baseline, real images"]
    assert list(rows[0]) == ["Frechet distance (lower)", "100.0 ± 10.0", "80.0 ± 10.0", "12.0"]
