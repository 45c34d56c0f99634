from collections import Counter

import pytest

from medart_cli.finetune.order import BatchOrder, RowOrder, epoch_order

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


def test_with_one_bucket_batches_are_the_order_itself():
    batches = BatchOrder(RowOrder(LABELS, 0, balance=False), [(8, 8)] * 100, 3)
    assert [list(batches[number]) for number in range(60)] == [
        [3 * number, 3 * number + 1, 3 * number + 2] for number in range(60)
    ]


BUCKETS = [((8, 8), (4, 16), (16, 4))[row % 7 // 3] for row in range(100)]  # 45, 41 and 14 rows


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_a_batch_is_of_one_bucket_and_rows_are_taken_as_often_as_without(balance, size):
    order = RowOrder(LABELS, 3, balance=balance)
    batches = BatchOrder(order, BUCKETS, size)
    count = 1000 // size
    placed = [batches[number] for number in range(count)]
    for batch in placed:
        assert len(batch) == size
        assert len({BUCKETS[order[position]] for position in batch}) == 1
    positions = sorted(position for batch in placed for position in batch)
    assert len({*positions}) == len(positions)  # none twice, and few are left waiting
    waiting = {*range(positions[-1] + 1)} - {*positions}
    counts = Counter(BUCKETS[order[position]] for position in waiting)
    assert all(count < size for count in counts.values())
    if size == 1:
        assert positions == [position for batch in placed for position in batch]


def test_any_batch_is_the_same_whatever_was_asked_before():
    order = RowOrder(LABELS, 3, balance=False)
    first, again = (BatchOrder(order, BUCKETS, 4) for _ in range(2))
    assert list(first[77]) == [list(again[number]) for number in range(78)][-1]
    assert list(first[5]) == list(again[5])
