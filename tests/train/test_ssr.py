"""SSR+'s rules and losses: slow twins looped from the paper, hand-computed cases, guards."""

import collections
import math

import pytest
import torch

from lnl_core.config import ConfigError, parse
from lnl_core.statistics.knn import knn_votes
from lnl_core.train.ssr import SSRConfig, _split, _Voters
from lnl_core.train.ssr_network import ConsistencyNetwork, FeaturesAndLogits, consistency_loss
from lnl_core.train.ssr_rules import balance, consistency, draw_by_class, neighbour_count, relabel, select


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def slow_cosine(a, b):
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


def test_relabel_slow_twin():
    probabilities, label = (2 * random(30, 4)).softmax(dim=1), torch.arange(30) % 4
    known = torch.arange(30) % 5 == 0
    found, moved = relabel(probabilities, label, known, 0.6)
    for i in range(30):
        row = probabilities[i].tolist()
        expected = row.index(max(row)) if max(row) > 0.6 and i % 5 else int(label[i])
        assert int(found[i]) == expected
        assert bool(moved[i]) == (expected != int(label[i]))
    assert moved.any()


def test_relabel_by_hand():
    probabilities = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    found, moved = relabel(probabilities, torch.tensor([0, 0, 0, 0]), torch.tensor([False, False, True, False]), 0.8)
    assert found.tolist() == [1, 0, 0, 0]  # sure; not above the threshold; verified; sure of what it has
    assert moved.tolist() == [True, False, False, False]


@pytest.mark.parametrize("own", [True, False])
def test_votes_and_consistency_slow_twin(own):
    features, label, k = random(25, 6), torch.randint(0, 3, (25,), generator=generator(1)), 7
    queries = features if own else random(9, 6, seed=2)
    votes = _Voters(features=features, label=label, classes=3, k=k).votes(queries, own=own)
    agreement = consistency(votes, label[: len(queries)])
    sizes = collections.Counter(label.tolist())
    for i in range(len(queries)):
        others = [j for j in range(25) if not (own and j == i)]
        nearest = sorted(others, key=lambda j: -slow_cosine(queries[i], features[j]))[:k]
        shares = [sum(int(label[j]) == c for j in nearest) / sizes[c] for c in range(3)]
        assert votes[i].tolist() == pytest.approx([share / sum(shares) for share in shares], abs=1e-5)
        assert float(agreement[i]) == pytest.approx(shares[int(label[i])] / max(shares), abs=1e-5)


def test_balance_by_hand():
    # 3 of 4 neighbours of a class of 30, 1 of a class of 5: 0.1 against 0.2; the third class has no rows at all
    found = balance(torch.tensor([[0.75, 0.25, 0.0]]), torch.tensor([30, 5, 0]))
    assert found[0].tolist() == pytest.approx([0.025 / 0.075, 0.05 / 0.075, 0.0])


def test_infinite_temperature_is_one_neighbour_one_vote():
    features, label = random(12, 3), torch.arange(12) % 2
    votes = knn_votes(features, features, label, 2, k=4, temperature=math.inf)
    assert set((votes * 4).round(decimals=4).flatten().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert torch.allclose(votes.sum(dim=1), torch.ones(12))


def test_select_by_threshold_and_guard():
    agreement, nobody = torch.tensor([1.0, 0.4, 0.9, 1.0]), torch.zeros(4, dtype=torch.bool)
    assert select(agreement, nobody, 1.0, least=2).tolist() == [True, False, False, True]
    assert select(agreement, nobody, 0.9, least=2).tolist() == [True, False, True, True]
    assert select(agreement, nobody, 1.0, least=3).tolist() == [True, False, True, True]  # too few: the next best
    assert select(agreement, nobody, 1.0, least=64).all()
    assert select(agreement, torch.tensor([False, True, False, False]), 1.0, least=2).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_neighbours_are_cut_in_small_sets():
    assert neighbour_count(200, 50_000, 10) == 200  # CIFAR-10
    assert neighbour_count(200, 50_000, 100) == 200  # CIFAR-100
    assert neighbour_count(200, 1438, 10) == 58
    assert neighbour_count(200, 50_000, 1000) == 20
    assert neighbour_count(200, 30, 10) == 10
    assert neighbour_count(5, 30, 10) == 5


def test_draws_have_equal_classes_and_exhaust_a_class_before_repeating():
    label = torch.tensor([0] * 50 + [2] * 3 + [3] * 10)
    rows = torch.arange(63) + 100
    drawn = draw_by_class(rows, label, torch.full((5,), 0.2), 90, generator())
    classes = label[drawn - 100]
    assert collections.Counter(classes.tolist()) == {0: 30, 2: 30, 3: 30}
    assert drawn[classes == 0].unique().numel() == 30
    assert set(collections.Counter(drawn[classes == 2].tolist()).values()) == {10}
    assert classes[:30].unique().numel() == 3  # not sorted by class
    assert torch.equal(drawn, draw_by_class(rows, label, torch.full((5,), 0.2), 90, generator()))


def test_draws_follow_unequal_chances():
    label = torch.arange(20) % 2
    drawn = draw_by_class(torch.arange(20), label, torch.tensor([0.75, 0.25]), 40, generator())
    assert collections.Counter(label[drawn].tolist()) == {0: 30, 1: 10}


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("seed", range(5))
def test_draws_of_few_rows(count, seed):
    drawn = draw_by_class(torch.tensor([4]), torch.tensor([2]), torch.full((3,), 1 / 3), count, generator(seed))
    assert drawn.tolist() == [4] * count


def test_draws_reach_every_class_however_the_chances_round():
    for seed in range(20):
        chances = torch.rand(7, generator=generator(seed)) + 0.1
        label = torch.arange(70) % 7
        drawn = draw_by_class(torch.arange(70), label, chances / chances.sum(), 70, generator(seed))
        counts = torch.bincount(label[drawn], minlength=7)
        assert ((counts - 70 * chances / chances.sum()).abs() <= 1).all()


def test_voters_and_others_part_the_rows():
    rows = torch.arange(10) * 3
    voting, others = _split(rows, 4, generator())
    assert (len(voting), len(others)) == (4, 6)
    assert torch.equal(torch.cat([voting, others]).sort().values, rows)
    assert torch.equal(voting, voting.sort().values)
    assert len(_split(rows, 100, generator())[1]) == 0


def test_consistency_loss_slow_twin_and_stopped_gradient():
    predictions, projections = random(6, 4).requires_grad_(), random(6, 4, seed=1).requires_grad_()
    loss = consistency_loss(predictions, projections)
    total = 0.0
    for i in range(3):  # rows i and i + 3 are two views of an image
        total -= slow_cosine(predictions[i].detach(), projections[i + 3].detach()) / 2
        total -= slow_cosine(predictions[i + 3].detach(), projections[i].detach()) / 2
    assert float(loss.detach()) == pytest.approx(total / 3, rel=1e-5)
    loss.backward()
    assert projections.grad is None
    assert predictions.grad is not None
    same = random(2, 3).repeat(2, 1)
    assert float(consistency_loss(same, same)) == pytest.approx(-1.0)


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 5))
        self.head = torch.nn.Linear(5, 3)


def test_heads_are_drawn_from_their_seed_alone():
    classifier, images = Tiny(), random(6, 1, 2, 2)
    before = torch.random.get_rng_state()
    networks = [ConsistencyNetwork(classifier, 5, projection=4, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    outputs = [network(images) for network in networks]
    assert [tuple(value.shape) for value in outputs[0]] == [(6, 3), (6, 4), (6, 4)]
    assert torch.equal(outputs[0][2], outputs[1][2])
    assert not torch.equal(outputs[0][2], outputs[2][2])
    features, logits = FeaturesAndLogits(classifier)(images)
    assert torch.equal(logits, outputs[0][0])
    assert torch.equal(classifier.head(features), logits)


@pytest.mark.parametrize("bad", [{"theta_r": 1.5}, {"theta_r": "high"}, {"theta_s": 2}, {"k": 0}, {"alpha": -1}])
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=r"train\.ssr"):
        parse(SSRConfig, bad, "train.ssr")
