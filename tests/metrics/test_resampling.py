import numpy as np

from medart_cli.metrics.resampling import draw_counts


def test_rows_of_one_group_come_and_go_together():
    groups = np.array([7, 3, 7, 7, 3, 9])
    counts = draw_counts(groups, 400, np.random.default_rng(0))
    assert counts.shape == (400, 6)
    assert (counts[:, 0] == counts[:, 2]).all() and (counts[:, 1] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 5]].sum(axis=1) == 3).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.15)


def test_rows_without_groups_are_drawn_as_often_as_there_are():
    counts = draw_counts(np.arange(30), 50, np.random.default_rng(0))
    assert (counts.sum(axis=1) == 30).all()
    assert (counts == draw_counts(np.arange(30), 50, np.random.default_rng(0))).all()
