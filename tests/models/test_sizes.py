from medart_cli.models.bases import KINDS
from medart_cli.models.sizes import BASE_SIZES, HUB_SIZES, find_size
from medart_cli.options import DEFAULT_BASE


def test_the_default_base_is_known_in_any_spelling():
    assert find_size(DEFAULT_BASE) is find_size(DEFAULT_BASE.upper()) is BASE_SIZES["pixart"]
    assert find_size("someone/else") is None


def test_each_size_is_of_a_kind_that_medart_trains_and_has_a_name_on_the_hub():
    assert {size.pipeline for size in BASE_SIZES.values()} <= KINDS.keys()
    assert {*HUB_SIZES.values()} == BASE_SIZES.keys()
