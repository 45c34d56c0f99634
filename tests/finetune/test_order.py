from collections import Counter

from medart_cli.finetune.order import RowOrder, epoch_order

LABELS = ("a",) * 90 + ("b",) * 10


def test_an_epoch_holds_each_row_once_and_no_two_are_alike():
    first = epoch_order(LABELS, 0, 0, False)
    assert sorted(first) == list(range(100))
    assert first != epoch_order(LABELS, 0, 1, False)
    assert first != epoch_order(LABELS, 1, 0, False)


def test_a_position_says_everything():
    orders = [*epoch_order(LABELS, 7, 0, False), *epoch_order(LABELS, 7, 1, False)]
    order = RowOrder(LABELS, 7, balance=False)
    assert [order[position] for position in range(200)] == orders


def test_balance_draws_labels_equally_often():
    drawn = Counter(
        LABELS[row] for epoch in range(20) for row in epoch_order(LABELS, 0, epoch, True)
    )
    assert abs(drawn["a"] - drawn["b"]) < 200  # of 2000; without balance 1600 apart
