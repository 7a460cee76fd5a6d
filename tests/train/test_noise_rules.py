"""What methods conclude from the noise estimate, and the published settings that the rules meet."""

import numpy as np
import pytest

from lnl_core.statistics.noise_estimate import NoiseEstimate, noise_of_posterior
from lnl_core.train import noise_rules


def noise_of(rate, classes, kind="symmetric"):
    transition = np.full((classes, classes), rate / (classes - 1))
    if kind == "asymmetric":
        transition = rate * np.roll(np.eye(classes), 1, axis=1)
    np.fill_diagonal(transition, 1 - rate)
    return NoiseEstimate(rate=rate, source="set", prior=np.full(classes, 1 / classes), transition=transition)


def inclusive(nominal, classes):
    """The tables' rates are inclusive: the draw may hit the true class."""
    return noise_of(nominal * (1 - 1 / classes), classes)


@pytest.mark.parametrize(
    ("classes", "nominal", "lambda_u"),
    [(10, 0.2, 0), (10, 0.5, 25), (10, 0.8, 25), (10, 0.9, 50), (100, 0.2, 25), (100, 0.5, 150), (100, 0.9, 150)],
)
def test_divide_mix_settings_are_the_papers(classes, nominal, lambda_u):
    noise = inclusive(nominal, classes)
    assert noise_rules.lambda_u(noise) == lambda_u
    assert noise_rules.p_threshold(noise) == (0.6 if nominal == 0.9 else 0.5)
    assert noise_rules.loss_window(noise) == (5 if nominal == 0.9 else 1)
    assert not noise_rules.confidence_penalty(noise)


def test_asymmetric_noise():
    noise = noise_of(0.4, 10, "asymmetric")
    assert noise.kind == "asymmetric"
    assert noise_rules.lambda_u(noise) == 0
    assert noise_rules.confidence_penalty(noise)
    assert noise_rules.elr_constants(noise) == (0.9, 1.0)
    assert noise_rules.elr_constants(noise_of(0.4, 10)) == (0.7, 3.0)
    assert noise_rules.elr_constants(noise_of(0.4, 100)) == (0.9, 7.0)
    assert [noise_rules.elr_lambda_ramp(noise_of(0.4, classes)) for classes in (10, 100)] == [0.0, 0.4]
    thresholds = [noise_rules.relabel_threshold(value) for value in (noise_of(0.4, 10), noise, noise_of(0.4, 100))]
    assert thresholds == [0.9, 0.8, 0.8]


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_cannot_set_the_kinds_apart(classes):
    assert noise_of(0.3, classes, "asymmetric").kind == "symmetric"


@pytest.mark.parametrize(("nominal", "rho"), [(0.2, 0.7), (0.5, 0.495), (0.8, 0.252)])
def test_pro_mix_ratio(nominal, rho):
    assert noise_rules.clean_ratio(inclusive(nominal, 10)) == pytest.approx(rho)


def test_class_forget_rates_by_hand():
    # joint [[.4, .1], [0, .5]]: the second label is wrong in .1 of .6, the first never; mean .1, wanted .2
    noise = NoiseEstimate(
        rate=0.1, source="set", prior=np.array([0.5, 0.5]), transition=np.array([[0.8, 0.2], [0.0, 1.0]])
    )
    assert noise_rules.class_forget_rates(noise, 0.1) == pytest.approx([0, 1 / 6])
    assert noise_rules.class_forget_rates(noise, 0.2) == pytest.approx([0, 2 / 6])
    assert noise_rules.class_forget_rates(noise, 0.9) == pytest.approx([0, 0.95])


def test_class_forget_rates_without_noise_or_class():
    assert noise_rules.class_forget_rates(noise_of(0.0, 3), 0.3) == pytest.approx([0.3] * 3)
    never = NoiseEstimate(
        rate=0.5, source="set", prior=np.array([1.0, 0.0]), transition=np.array([[1.0, 0.0], [0.5, 0.5]])
    )
    assert noise_rules.class_forget_rates(never, 0.3) == pytest.approx([0.3, 0.3])
    assert noise_rules.class_forget_rates(noise_of(0.4, 10), 0.4) == pytest.approx([0.4] * 10)


@pytest.mark.parametrize("rate", [0.0, 0.999])
@pytest.mark.parametrize("classes", [2, 1000])
def test_every_rule_has_a_value(rate, classes):
    noise = noise_of(rate, classes)
    assert noise_rules.lambda_u(noise) >= 0
    assert 0.1 <= noise_rules.clean_ratio(noise) <= 0.7
    assert 0 <= noise_rules.forget_rate(noise) < 1
    assert ((noise_rules.class_forget_rates(noise, 0.5) >= 0) & (noise_rules.class_forget_rates(noise, 0.5) < 1)).all()


def test_posterior_by_hand():
    posterior = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32)
    noise = noise_of_posterior(posterior, np.array([0, 0, 1]), "purifier")
    assert noise.rate == pytest.approx((0.1 + 0.8 + 0.6) / 3)
    assert noise.prior == pytest.approx([1.7 / 3, 1.3 / 3])
    assert noise.transition == pytest.approx(np.array([[1.1 / 1.7, 0.6 / 1.7], [0.9 / 1.3, 0.4 / 1.3]]))


def test_posterior_of_a_class_nobody_has():
    noise = noise_of_posterior(np.array([[1.0, 0.0]], dtype=np.float32), np.array([0]), "purifier")
    assert noise.transition.tolist() == [[1, 0], [0, 1]]


def test_prior_of_a_balanced_sample_by_hand():
    noise = NoiseEstimate(
        rate=0.1, source="set", prior=np.array([0.8, 0.2]), transition=np.array([[0.9, 0.1], [0.1, 0.9]])
    )
    # p(0 | 0) = .72 / .74, p(0 | 1) = .08 / .26
    assert noise.prior_of_balanced() == pytest.approx(
        [(0.72 / 0.74 + 0.08 / 0.26) / 2, (0.02 / 0.74 + 0.18 / 0.26) / 2]
    )
    even = noise_of(0.3, 5)
    assert even.prior_of_balanced() == pytest.approx(np.full(5, 0.2))
