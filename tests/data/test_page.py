import ast
import hashlib
import io
import re
import subprocess
import sys
import tomllib
from base64 import b64decode, b64encode
from html import unescape
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from medart_cli.data import page
from medart_cli.data.glossary import Glossary

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "medart_cli"
TEMPLATES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.html.jinja"))
SCRIPTS = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.js"))
# How a script stands in a page: as a whole, so that the policy can name it by its hash.
INCLUDED = re.compile(r'<script>\{% include "[\w/]+\.js" %\}</script>')
# Names of elements that a page could hold; <image>, <s> and the like are a tokenizer's.
TAG = re.compile(
    r"<!doctype|</?(html|head|body|meta|title|style|script|link|main|section|nav|header|footer|h[1-6]"
    r"|p|div|span|a|b|i|em|strong|small|sub|sup|code|pre|br|hr|ul|ol|li|dl|dt|dd|img|svg|figure"
    r"|figcaption|table|caption|thead|tbody|tr|th|td|details|summary)(?=[\s/>]|$)",
    re.IGNORECASE,
)


def find_html(source):
    """Find HTML tags in texts of a module, f-strings among them, and the library that escapes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [match[0] for match in TAG.finditer(node.value)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in ("html", "markupsafe")]
        elif isinstance(node, ast.ImportFrom) and node.module in ("html", "markupsafe"):
            found.append(node.module)
    return found


def fill(text, **values):
    return page._open_templates().from_string(text).render(values)


def test_html_is_written_in_templates_alone():
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 50
    found = {str(path): find_html(path.read_text(encoding="utf-8")) for path in modules}
    reader = PACKAGE / "caption/clean.py"  # of what models write: it undoes their &quot;
    assert {name: tags for name, tags in found.items() if tags} == {str(reader): ["html"]}


def test_templates_are_filled_in_one_place():
    texts = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    using = [path for path, text in texts.items() if re.search(r"(import|from) jinja2", text)]
    assert PACKAGE / "models" / "chat.py" in using  # for the errors of chat templates alone
    assert "import TemplateError\n" in texts[PACKAGE / "models" / "chat.py"]
    assert [path for path in using if path.name != "chat.py"] == [PACKAGE / "data" / "page.py"]


@pytest.mark.parametrize(
    "source",
    ["f'<p class=note>{text}</p>'", "f\"<img src='{data}'>\"", "'<TD>' + x", "import html",
     "from html import escape", "from markupsafe import Markup", "'<br>'"],
)  # fmt: skip
def test_html_in_a_module_would_be_found(source):
    assert find_html(source)


def test_what_only_looks_like_a_tag_is_none():
    assert not find_html("'<name>.run', '<image><s>', 'a < b', '<pad>', 'i <ba'")


def test_every_template_is_in_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["medart_cli"]
    packed = {path.relative_to(PACKAGE) for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert len(TEMPLATES) >= 6 and packed.issuperset(TEMPLATES)
    assert SCRIPTS and packed.issuperset(SCRIPTS)


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_every_template_can_be_compiled(template):
    page._open_templates().get_template(template.as_posix())


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_a_template_asks_for_nothing_from_outside_and_switches_no_escaping_off(template):
    text = (PACKAGE / template).read_text(encoding="utf-8")
    text = INCLUDED.sub("", text)
    assert not re.search(r"(?:https?:|//|@import|<script|<link|\|\s*safe\b|autoescape)", text)
    assert not re.search(r"\son\w+\s*=", text)  # a script in an attribute
    assert set(re.findall(r"(?:src|href)\s*=\s*(\S+)", text)) <= {"'{{", "'#{{"}  # within the page


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_stands_in_the_page_as_it_is_and_reaches_nothing_outside(script):
    text = (PACKAGE / script).read_text(encoding="utf-8")
    assert page._open_templates().get_template(script.as_posix()).render() == text
    assert "</script" not in text and "<!--" not in text
    assert not re.search(
        r"https?:|fetch|XMLHttpRequest|WebSocket|sendBeacon|import\b|eval|new Function|innerHTML"
        r"|outerHTML|insertAdjacent|document\.write|document\.cookie|set(Timeout|Interval)\(['\"]",
        text,
    )


def test_the_policy_of_a_page_allows_its_script_alone():
    digest = page.hash_script("caption/review.js")
    raw = (PACKAGE / "caption" / "review.js").read_bytes()
    assert digest == f"sha256-{b64encode(hashlib.sha256(raw).digest()).decode()}"
    shown = fill("{% extends 'data/page.html.jinja' %}{% set title = 'A' %}")
    policy = unescape(re.search(r"Content-Security-Policy' content='([^']*)'", shown)[1])
    assert " ".join(policy.split()) == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'"
    )


def test_values_are_escaped_wherever_they_stand():
    label = "<b>&\"'"
    picture = page.embed_image(Image.new("RGB", (2, 2)), label)
    text = "{% from 'data/parts.html.jinja' import answers, figure, inputs_section, opening, "
    text += "section, settings_section, strips, table with context %}"
    text += "{{ label }}{{ table([label], [[label]]) }}{{ figure(picture) }}"
    text += "{{ inputs_section(([label], [[label]])) }}"
    text += "{{ answers([finding]) }}{{ settings_section([(label, label)]) }}"
    text += "{% call section(label, label) %}{{ label }}{% endcall %}"
    text += "{% call opening(label, label) %}{{ label }}{% endcall %}"
    text += "{{ strips([strip], label) }}"
    finding = page.Finding("bad", label, label)
    strip = page.Strip(label, [picture])
    shown = fill(
        text, label=label, picture=picture, finding=finding, strip=strip, glossary=Glossary()
    )
    shown += page.render("data/page.html.jinja", title=label)
    assert shown.count("&lt;b&gt;&amp;&#34;&#39;") == 25
    assert "<b>" not in shown and '"' not in shown


def test_a_page_needs_nothing_from_outside_and_escapes_what_it_shows():
    shown = fill(
        "{% extends 'data/page.html.jinja' %}"
        "{% from 'data/parts.html.jinja' import figure, table %}"
        "{% block content %}{{ table(['name'], [[name]]) }}{{ figure(picture) }}{% endblock %}",
        title="A <title>",
        name="<script>alert(1)</script>",
        picture=page.embed_image(Image.new("RGB", (2, 2)), "a & b"),
    )
    assert "<script>" not in shown
    assert "a &amp; b" in shown
    assert re.findall(r"(?:src|href)=.(\w+:)", shown) == ["data:"]
    assert not re.search("https?:", shown)


def test_a_value_that_is_not_there_is_an_error():
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        page.render("data/page.html.jinja")
    for text in ("{% if gone %}{% endif %}", "{% for it in gone %}{% endfor %}", "{{ item.gone }}"):
        with pytest.raises(UndefinedError, match="gone"):
            fill(text, item={})


def test_a_page_has_the_title_the_style_and_its_content():
    text = "{% extends 'data/page.html.jinja' %}{% set title = 'A & B' %}"
    shown = fill(text + "{% block content %}\n<p>Here.</p>\n{% endblock %}")
    assert shown.startswith("<!doctype html>\n<html lang='en'>\n<meta charset='utf-8'>\n")
    assert "<title>A &amp; B</title>" in shown and "<style>\nbody {" in shown
    assert shown.endswith("<main><h1>A &amp; B</h1><p>Here.</p>\n</main>\n</html>\n")


@pytest.mark.parametrize(("lossy", "kind"), [(False, "png"), (True, "jpeg")])
def test_an_image_stands_in_the_page_itself(lossy, kind):
    image = Image.new("RGB", (9, 5), "teal")
    picture = page.embed_image(image, "teal", lossy=lossy)
    head, data = picture.source.split(",")
    assert (head, picture.caption) == (f"data:image/{kind};base64", "teal")
    with Image.open(io.BytesIO(b64decode(data))) as found:
        assert (found.format, found.size) == (kind.upper(), (9, 5))
        assert found.getpixel((4, 2)) == pytest.approx((0, 128, 128), abs=2)


def test_a_module_that_writes_a_page_loads_no_templates_before():
    code = "import sys, medart_cli.data.page; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def fill_section(body):
    head = "{% from 'data/parts.html.jinja' import section, table with context %}"
    return fill(head + body, glossary=Glossary())


def test_a_section_explains_the_words_that_stand_in_none_before():
    text = "{% call section('Scores', 'scores') %}<p>FID here</p>{% endcall %}"
    shown = fill_section(text + text.replace("scores", "again"))
    first, second = shown.split("</section>")[:2]
    assert first.count("<dfn>") == 1 and "<dfn>Frechet distance, FID</dfn>" in first
    assert first.index("<dfn>") < first.index("FID here") and "<dfn>" not in second


def test_an_interval_is_not_broken_within():
    shown = fill_section(
        "{{ table(['a', 'b'], [['x [1, 2]', '0.1 [0.05, 0.2] {1, 2} p = 0.3']]) }}"
    )
    parts = re.findall(r"<span class='number'>([^<]*)</span>", shown)
    assert parts == ["0.1", "[0.05, 0.2]", "{1, 2}", "p = 0.3"]
    assert "<span class='number'>0.1 ± 0.2</span>" in fill_section(
        "{{ table(['', ''], [['a', '0.1 ± 0.2']]) }}"
    )
    assert "number" not in fill_section("{{ table(['', ''], [['a', 'not shown']]) }}")


def test_settings_are_told_in_words():
    told = page.format_settings({"a": True, "b": ["x", "y"], "c": None, "d": []}, {"torch": "2"})
    assert told == [("a", "yes"), ("b", "x, y"), ("c", "-"), ("d", "none"), ("torch", "2")]
