import pytest

from medart_cli.data.numbers import plural, write_number


@pytest.mark.parametrize(("value", "form", "text"), [
    (117.6, ".2g", "118"), (0.0123, ".2g", "0.012"), (1234.4, "+.3g", "+1234"),
    (99.6, ".2g", "100"), (-730.2, ".2g", "-730"), (1e-7, ".2g", "1e-07"),
    (315.0, ".1f", "315.0"), (5.0, ".3g", "5"),
])  # fmt: skip
def test_a_large_number_is_whole_and_has_no_power_of_ten(value, form, text):
    assert write_number(value, form) == text


def test_one_thing_has_no_s():
    assert [plural(count, "image") for count in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [plural(count, "copy", "copies") for count in (1, 2)] == ["1 copy", "2 copies"]
