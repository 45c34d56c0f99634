import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from medart_cli.metrics.agreement import cohen_kappa, find_kappa, fleiss_kappa

# Fleiss 1971, table 1: how many of 6 psychiatrists gave each of 30 patients which of 5 diagnoses.
FLEISS = """
    00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
    00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
""".split()


def votes_of(table):
    """Return what each reader said where only the numbers of votes are known: (R, N)."""
    return np.array([np.repeat(np.arange(len(row)), [int(it) for it in row]) for row in table]).T


def once(said):
    return np.ones((1, said.shape[1]), dtype=np.int64)


def test_fleiss_kappa_is_that_of_the_example_in_his_paper():
    said = votes_of(FLEISS)
    assert said.shape == (6, 30)
    assert np.bincount(said.ravel()).tolist() == [26, 26, 30, 55, 43]  # the totals printed there
    assert fleiss_kappa(said, once(said))[0] == pytest.approx(0.430, abs=5e-4)


def test_cohens_kappa_is_scikit_learns_under_any_weights():
    generator = np.random.default_rng(0)
    said = generator.integers(0, 3, (2, 40))
    said[1, :20] = said[0, :20]
    weights = generator.integers(0, 4, (5, 40))
    known = [cohen_kappa_score(*said, sample_weight=row) for row in weights]
    np.testing.assert_allclose(cohen_kappa(said, weights), known, atol=1e-12)


def test_fleiss_kappa_under_weights_is_that_of_images_which_stand_there_as_often():
    generator = np.random.default_rng(1)
    said, counts = generator.integers(0, 2, (4, 30)), generator.integers(0, 3, 30)
    repeated = np.repeat(said, counts, axis=1)
    assert fleiss_kappa(said, counts[None])[0] == pytest.approx(
        fleiss_kappa(repeated, once(repeated))[0]
    )


def test_readers_who_all_say_one_thing_have_no_kappa():
    said = np.ones((3, 10), dtype=np.int64)
    value, interval = find_kappa(said, np.arange(10), 0)
    assert np.isnan(value) and interval is None
    assert np.isnan(cohen_kappa(said[:2], once(said)))[0]


@pytest.mark.parametrize("readers", [2, 5])
def test_readers_who_agree_have_one_and_those_who_guess_an_interval_around_zero(readers):
    generator = np.random.default_rng(2)
    one = generator.integers(0, 2, 80)
    value, interval = find_kappa(np.tile(one, (readers, 1)), np.arange(80), 0)
    assert (value, interval) == (1, [1, 1])
    value, (low, high) = find_kappa(generator.integers(0, 2, (readers, 80)), np.arange(80), 0)
    assert low < 0 < high and low < value < high


def test_images_of_one_patient_make_the_interval_wider():
    generator = np.random.default_rng(3)
    said = np.repeat(generator.integers(0, 2, (2, 10)), 8, axis=1)
    alone = find_kappa(said, np.arange(80), 0)[1]
    together = find_kappa(said, np.repeat(np.arange(10), 8), 0)[1]
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])
