"""Pages need nothing from outside."""

import re

from PIL import Image

from medart_cli.data.report import build_figure, build_page, build_table


def test_a_page_needs_nothing_from_outside_and_escapes_what_it_shows(tmp_path):
    page = build_page(
        "A <title>",
        [
            build_table(["name"], [["<script>alert(1)</script>"]]),
            build_figure(Image.new("RGB", (2, 2)), "a & b"),
        ],
    )
    assert "<script>" not in page
    assert "a &amp; b" in page
    assert re.findall(r"(?:src|href)=.(\w+:)", page) == ["data:"]
    assert "http" not in page
