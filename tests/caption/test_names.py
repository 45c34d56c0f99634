import pytest

from medart_cli.caption.names import match_names, plain_name
from medart_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a/1.png", "a/1.png"),
        ("/mnt/x/a/1.png", "a/1.png"),  # has more folders
        ("2.png", "b/2.png"),  # has fewer
        ("b/2", "b/2.png"),  # lacks the ending
        ("c/2.jpg", "b/2.png"),  # the only one so called
        ("1.png", None),  # two are so called
        ("3.png", None),
    ],
)
def test_a_name_means_the_one_image_that_it_fits(name, image):
    images = ["a/1.png", "b/1.png", "b/2.png", "z.png"]
    found = match_names([name, "z.png"], images, "--texts")
    assert found.get(name) == image and found["z.png"] == "z.png"


def test_a_table_of_other_images_is_refused_under_the_name_of_its_option():
    with pytest.raises(ConfigError, match="--texts: none of its file names matches one image"):
        match_names(["x.png"], ["a.png"], "--texts")


def test_names_have_composed_letters_and_nothing_that_says_nothing():
    assert plain_name("./a//na\u0308vus.png") == "a/n\u00e4vus.png"
