import re

from medart_cli.data.glossary import TERMS, Glossary


def test_a_word_is_explained_once_where_it_first_stands():
    page = Glossary()
    first = page.explain("<h2>KID</h2><p title='FID'>n = 20, 95 % interval</p>")
    assert [name for name, _ in first] == ["Kernel distance, KID", "n", "95% interval"]
    assert [name for name, _ in page.explain("FID and KID at n")] == ["Frechet distance, FID"]
    assert page.explain("FID, KID and n") == []
    assert Glossary().explain("KID")  # another page has said nothing yet


def test_captions_and_names_of_images_are_not_the_words_of_a_page():
    tile = (
        "<figure data-shown class='tile '><img><figcaption>a loss of features</figcaption></figure>"
    )
    card = "<article data-shown data-row=''><figure>x</figure><p>a loss of variety</p></article>"
    assert Glossary().explain(tile + card) == []
    assert len(Glossary().explain(f"{tile} the loss")) == 1


def test_an_explanation_is_one_plain_line():
    assert len({name for name, _, _ in TERMS}) == len(TERMS) > 30
    for name, pattern, meaning in TERMS:
        assert len(meaning) <= 200 and not meaning.endswith("."), name
        assert not re.search(pattern, "A photograph of healthy skin."), name
