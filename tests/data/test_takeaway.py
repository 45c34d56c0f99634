import csv

from medart_cli.data.takeaway import build_csv, build_latex, build_markdown, write_tables

TABLE = (["", "a_b"], [["50 % of 3 | 4", "0.1 ± 0.2"], ['"x", y', "< 3"]])


def test_a_csv_file_gives_back_the_cells():
    assert list(csv.reader(build_csv(TABLE).splitlines())) == [TABLE[0], *TABLE[1]]


def test_what_latex_takes_for_its_own_is_escaped():
    text = build_latex(TABLE, "a comment")
    assert text.startswith("% a comment\n\\begin{tabular}{lr}\n")
    assert "50 \\% of 3 | 4 & 0.1 $\\pm$ 0.2 \\\\" in text and "a\\_b" in text and "$<$ 3" in text


def test_a_cell_of_markdown_does_not_become_two():
    assert build_markdown(TABLE).splitlines()[:3] == [
        "|  | a_b |", "| --- | --- |", "| 50 % of 3 / 4 | 0.1 ± 0.2 |",
    ]  # fmt: skip


def test_each_table_is_a_file_and_all_are_in_two(tmp_path):
    write_tables(tmp_path, {"scores": TABLE, "classes": TABLE})
    folder = tmp_path / "tables"
    assert sorted(path.name for path in folder.iterdir()) == [
        "classes.csv", "scores.csv", "tables.md", "tables.tex",
    ]  # fmt: skip
    assert (folder / "tables.tex").read_text().count("\\begin{tabular}") == 2
    assert "scores\n\n|" in (folder / "tables.md").read_text()


def test_tables_of_an_earlier_page_go_and_other_files_stay(tmp_path):
    write_tables(tmp_path, {"scores": TABLE, "region-1": TABLE})
    (tmp_path / "tables" / "own.csv").write_text("notes")
    write_tables(tmp_path, {"scores": TABLE})
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "own.csv", "scores.csv", "tables.md", "tables.tex",
    ]  # fmt: skip
