"""Which epoch is kept."""

import torch

from lnl_core.training.best_epoch import BestEpoch, HeldOutScore


def network(value):
    layer = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(layer.weight, float(value))
    return layer


def offered(*scores):
    best = BestEpoch()
    for epoch, score in enumerate(scores, start=1):
        made = None if score is None else HeldOutScore(accuracy=score[0], loss=score[1])
        best.offer(epoch, made, [network(epoch)])
    assert float(best.weights[0]["weight"]) == best.epoch  # the weights are of that epoch
    return best.epoch


def test_accuracy_first_then_loss_then_the_later():
    assert offered((0.5, 1.0), (0.8, 2.0), (0.7, 0.1)) == 2
    assert offered((0.8, 0.4), (0.8, 0.3), (0.8, 0.5)) == 2
    assert offered((0.8, 0.3), (0.8, 0.3)) == 2


def test_without_held_out_rows_the_last_is_best():
    assert offered(None, None, None) == 3


def test_keeps_a_copy():
    best, layer = BestEpoch(), network(1)
    best.offer(1, HeldOutScore(accuracy=1.0, loss=0.0), [layer])
    torch.nn.init.constant_(layer.weight, 9.0)
    assert float(best.weights[0]["weight"]) == 1


def test_state_round_trip():
    best = BestEpoch()
    best.offer(4, HeldOutScore(accuracy=0.5, loss=0.7), [network(4)])
    again = BestEpoch()
    again.load(best.state())
    assert (again.epoch, again.score) == (4, best.score)
    again.offer(5, HeldOutScore(accuracy=0.4, loss=0.1), [network(5)])
    assert again.epoch == 4
