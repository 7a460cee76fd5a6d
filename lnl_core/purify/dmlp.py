"""DMLP: the decoupled meta label purifier, in closed form.

Tu et al., "Learning from Noisy Labels with Decoupled Meta Label Purifier", CVPR 2023. Features stay frozen; the
labels are what is learned. Two corrections:

    IPC  w*(Y) = (F'F + lambda I)^-1 F'Y                                   Eq. 6: least squares on the noisy rows
         P(Y) = F_v w*(Y)                                                  Eq. 7: its scores on the trusted rows
         Y <- Y - eta dL_val(P(Y)) / dY                                    Eq. 9: labels descend the trusted loss
    EAC  a linear classifier C learns the corrected labels by SGD          Eq. 10
         Y <- (1 - eta_E) Y + eta_E C(F)                                   Eq. 11

Everything up to L_val is linear in Y: P(Y - D) = P(Y) - F_v A^-1 F' D with A = F'F + lambda I. A gradient step
D = eta F A^-1 F_v' S therefore moves the trusted scores by eta K S with K = F_v A^-1 F'F A^-1 F_v' [m, m]. The loop
runs on the m x K trusted scores alone; two passes over the features suffice, whatever n is: one for the moments,
one that writes the labels.

Mode `fixed`, and where it departs from the paper:
  - ridge penalty, feature transform and number of IPC steps are chosen by cross-validation inside the trusted set;
    without them m < d lets IPC fit the trusted rows exactly and move the labels of all others at random;
  - L_val is the cross-entropy of calibrated scores, softmax(beta P + b) with beta and b fitted on trusted rows: one-hot
    targets against raw least-squares scores mostly demand a larger scale (noise shrinks the scores), and
    cross-validation then prefers no step at all; `squared_error` adds the paper's other term;
  - no noisy row is predicted by a classifier that learned its own observed label: IPC by the closed leave-one-out
    formula of ridge regression, EAC by cross-fitting. Else p(y | x) leans to that label, and the noise looks small;
  - the EAC scores are calibrated in the same way, and eta_E is cross-validated too (0 leaves EAC out);
  - the purified label is the mode of p(y | x) T[y, observed]: the observed label is evidence.

Memory: Gram [d, d] in float64, a sample of at most `eac_rows` rows in float32, and n x K probabilities. Features stream
three times (moments, sample, labels), once less without EAC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from lnl_core.blocks.folds import stratified_folds
from lnl_core.blocks.moments import Moments, Transform, accumulate, check_finite
from lnl_core.blocks.ridge import RidgePath
from lnl_core.blocks.softmax_link import SoftmaxLink, fit_link, log_loss, row_losses, softmax
from lnl_core.blocks.transition import estimate_transition, posterior
from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify import PURIFIERS
from lnl_core.purify.task import Purification, PurifyTask

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


class DMLPConfig(Settings):
    """Settings of DMLP; lists are the grids that cross-validation searches."""

    mode: Literal["fixed"] = "fixed"  # the closed form described above
    transforms: tuple[Transform, ...] = Field(default=("centre", "standardise"), min_length=1)
    ridge: tuple[float, ...] = Field(default=(0.001, 0.01, 0.1, 1.0, 10.0), min_length=1)  # per row, unit variance
    max_steps: int = Field(default=1024, ge=0)  # IPC steps tried: 0, 1, 2, 4, ... while the held-out loss falls
    squared_error: float = Field(default=0.0, ge=0)  # weight of the paper's squared error in L_val (Eq. 8)
    folds: int = Field(default=5, ge=2, le=50)
    held_out_rows: int = Field(default=300, ge=1)  # few trusted rows are dealt into folds anew until so many are scored
    eac_rows: int = Field(default=100_000, ge=100)  # EAC learns on a uniform sample of at most this many rows
    eac_steps: int = Field(default=1000, ge=0)  # minibatches, 10 epochs of 50,000 rows; 0: IPC alone
    eac_batch: int = Field(default=500, ge=1)  # released code: 500
    eac_lr: float = Field(default=0.002, gt=0)  # Adam, cosine to zero; released code .006 then .0006
    eac_weight_decay: float = Field(default=0.01, ge=0)  # on the squared weights; released code 3e-4 with 100 epochs
    eac_entropy: float = Field(default=0.0, ge=0)  # weight of the entropy term of Eq. 10; calibration sharpens instead
    eac_splits: int = Field(default=4, ge=2, le=20)  # cross-fitting: a row is predicted by the head of the other splits
    eac_mix: tuple[float, ...] = Field(default=(0.0, 0.25, 0.5, 0.75, 1.0), min_length=1)  # eta_E of Eq. 11
    prior: Literal["trusted", "uniform", "observed"] = "trusted"  # class prior of the noisy rows


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear classifier on raw features: probabilities = link(((x - shift) * scale) @ weights + bias)."""

    shift: Array  # [d]
    scale: Array  # [d]
    weights: Array  # [d, K]
    bias: Array  # [K]
    link: SoftmaxLink

    def scores(self, features: FloatArray) -> Array:
        """[b, d] -> [b, K] before the link."""
        folded = (self.scale[:, None] * self.weights).astype(np.float32)
        constant = self.bias - (self.shift * self.scale) @ self.weights
        return np.asarray(features @ folded + constant)

    def __call__(self, features: FloatArray) -> Array:
        """[b, d] -> [b, K] probabilities."""
        return self.link(self.scores(features))


@dataclass(frozen=True, kw_only=True)
class IPCHead(Head):
    """Ridge regression on IPC's labels, which can leave out the row it is asked about."""

    basis: Array  # [d, d] Q of the Gram matrix
    inverse: Array  # [d] 1 / (g + lambda)
    moved: Array  # [d, K] IPC moved the label of row x by -(Q'x)' moved
    label_mean: Array  # [K]

    def without_own_label(self, features: FloatArray, observed: IntArray) -> Array:
        """[b, K] probabilities of noisy rows, each by the regression on all other rows.

        s_-i = (s_i - h_i y_i) / (1 - h_i) with leverage h_i = x_i' A^-1 x_i and the row's label y_i after IPC.
        """
        rotated = ((features - self.shift) * self.scale).astype(np.float32) @ self.basis.astype(np.float32)
        leverage = np.minimum(np.square(rotated) @ self.inverse, 0.999)[:, None]
        own = np.eye(len(self.label_mean))[observed] - self.label_mean - rotated @ self.moved
        return self.link((self.scores(features) - leverage * own) / (1 - leverage))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One point of the grid with its cross-validated scores on the trusted rows."""

    transform: Transform
    ridge: float
    steps: int
    loss: float  # held-out log-loss of the calibrated scores
    accuracy: float  # held-out
    held_out: Array  # [m, K] out-of-fold probabilities


@PURIFIERS.register(
    "dmlp",
    config=DMLPConfig,
    summary="decoupled meta label purifier: closed-form label correction on frozen features (needs trusted rows)",
    source="Tu et al., CVPR 2023",
    needs_trusted=True,
)
def dmlp(task: PurifyTask, config: DMLPConfig, generator: np.random.Generator) -> Purification:
    """Purify the observed labels of `task`.

    Raises:
        ConfigError: no trusted rows, or a class without one; the message says what to add.
        ContractError: NaN, infinite or all-constant features.
    """
    _check_trusted(task)
    moments = accumulate(task.noisy.batches(), task.observed, task.noisy.shape[1], task.classes)
    dealings = _dealings(task.trusted_label, config, generator)
    fold = dealings[0]
    paths = {transform: _Path.of(moments, task, transform) for transform in dict.fromkeys(config.transforms)}
    choices, curve = _search(paths, task, config, dealings)
    best = min(choices, key=lambda choice: choice.loss)
    path = paths[best.transform]
    ipc = [path.head(task, best, config, rows) for rows in _training_rows(fold)]
    eac, held_out, eta, mixes = _with_eac(ipc, best, task, moments, config, fold, generator)
    probabilities = _predict(ipc[-1], eac, eta, task)
    probabilities = _with_prior(probabilities, task, config.prior)
    transition = estimate_transition(
        probabilities, task.observed, anchor_label=task.trusted_label, anchor_observed=task.trusted_observed
    )
    answer = posterior(probabilities, transition, task.observed)
    metrics = _metrics(choices, best, mixes, eta, held_out, transition, answer, task)
    return Purification(posterior=answer, metrics=metrics, curve=curve)


# --- IPC ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Path:
    """One feature transform with everything that no penalty and no fold changes."""

    shift: Array
    scale: Array
    ridge: RidgePath
    trusted: Array  # [m, d] transformed trusted features in the basis of the Gram matrix
    label_mean: Array  # [K]; labels are centred, so w* needs no intercept column
    rows: int

    @classmethod
    def of(cls, moments: Moments, task: PurifyTask, transform: Transform) -> _Path:
        shift, scale = moments.affine(transform)
        ridge = RidgePath.of(*moments.transformed(shift, scale))
        trusted = ((task.trusted.astype(np.float64) - shift) * scale) @ ridge.basis
        label_mean = moments.counts / moments.rows
        return cls(shift=shift, scale=scale, ridge=ridge, trusted=trusted, label_mean=label_mean, rows=moments.rows)

    def scores(self, penalty: float) -> Array:
        """P(Y_0) [m, K]: the trusted scores of least squares on the observed labels."""
        return np.asarray(self.trusted @ (self.ridge.cross / (self.ridge.spectrum + penalty)[:, None]))

    def root(self, penalty: float) -> Array:
        """V [m, d] with K = V V' = F_v A^-1 F'F A^-1 F_v'."""
        return self.trusted * (np.sqrt(self.ridge.spectrum) / (self.ridge.spectrum + penalty))

    def head(self, task: PurifyTask, choice: Choice, config: DMLPConfig, rows: Rows) -> IPCHead:
        """w*(Y) after the chosen steps of IPC on the given trusted rows, with its link."""
        penalty = choice.ridge * self.rows
        scores, root = self.scores(penalty), self.root(penalty)
        run = IPCRun.of(scores, root, task.trusted_label, [rows])
        pull = list(ipc_steps(scores, root, task.trusted_label, run, (choice.steps,), config.squared_error))[-1][0]
        inverse = 1.0 / (self.ridge.spectrum + penalty)
        moved = inverse[:, None] * (self.trusted.T @ pull)  # Q'A^-1 F_v' S
        return IPCHead(
            shift=self.shift,
            scale=self.scale,
            weights=self.ridge.weights(penalty, -self.ridge.spectrum[:, None] * moved),
            bias=np.zeros(task.classes),
            link=run.links[0],
            basis=self.ridge.basis,
            inverse=inverse,
            moved=moved,
            label_mean=self.label_mean,
        )


@dataclass(frozen=True, kw_only=True)
class IPCRun:
    """Several runs of IPC side by side, each on some of the trusted rows."""

    inside: npt.NDArray[np.bool_]  # [B, m] rows that run b learns from
    links: list[SoftmaxLink]  # B
    steps: Array  # [B] eta_I

    @classmethod
    def of(cls, scores: Array, root: Array, labels: IntArray, rows: list[Rows]) -> IPCRun:
        """A link for each set of rows; the step is half the largest that is stable, 2 / (beta lambda_max(V V'))."""
        small = root @ root.T if len(root) <= root.shape[1] else root.T @ root
        largest = max(float(np.linalg.eigvalsh(small)[-1]), 1e-30)
        inside = np.zeros((len(rows), len(labels)), dtype=bool)
        for run, picked in enumerate(rows):
            inside[run, picked] = True
        links = [fit_link(scores[picked], labels[picked]) for picked in rows]
        return cls(inside=inside, links=links, steps=np.array([2.0 / (link.beta * largest) for link in links]))


def ipc_steps(
    scores: Array, root: Array, labels: IntArray, run: IPCRun, stops: tuple[int, ...], squared_error: float = 0.0
) -> Iterator[Array]:
    """IPC in the space of the trusted scores: yields S [B, m, K], the summed steps, at each of the ascending `stops`.

    After p steps the noisy labels are Y_0 - F A^-1 F_v' S and the trusted scores are P_0 - V V' S.

    Args:
        scores: P_0 [m, K].  root: V [m, d].
        squared_error: weight of ||P - y||^2 beside the cross-entropy of the linked scores.
    """
    rows, classes = scores.shape
    onehot = np.eye(classes)[labels][:, None]
    beta = np.array([link.beta for link in run.links])[None, :, None]
    bias = np.stack([link.bias for link in run.links])[None]
    rate = (run.inside * run.steps[:, None]).T[:, :, None]
    pull = np.zeros((rows, len(run.links), classes))  # rows first: all runs share one product with the kernel
    kernel = root @ root.T if len(root) <= root.shape[1] else None
    done = 0
    for stop in stops:
        for _ in range(stop - done):
            current = scores[:, None] - _moved(root, kernel, pull.reshape(rows, -1)).reshape(pull.shape)
            gradient = softmax(beta * current + bias) - onehot  # of CE by beta P + b; the step absorbs beta
            if squared_error:
                gradient += 2 * squared_error * (current - onehot)
            pull += rate * gradient
        done = max(done, stop)
        yield pull.transpose(1, 0, 2).copy()


def _moved(root: Array, kernel: Array | None, pull: Array) -> Array:
    """V V' S: [m, n] -> [m, n]."""
    return np.asarray(root @ (root.T @ pull) if kernel is None else kernel @ pull)


def _dealings(labels: IntArray, config: DMLPConfig, generator: np.random.Generator) -> list[Rows]:
    """Fold numbers [m], several times where the trusted rows are few: one dealing of 100 rows is mostly luck."""
    times = max(1, round(config.held_out_rows / len(labels)))
    folds = min(config.folds, len(labels))
    return [stratified_folds(labels, folds, generator.permutation(len(labels))) for _ in range(min(times, 20))]


def _search(
    paths: Mapping[Transform, _Path], task: PurifyTask, config: DMLPConfig, dealings: list[Rows]
) -> tuple[list[Choice], tuple[Mapping[str, float], ...]]:
    """Cross-validate transform x ridge x steps; closed form, so a grid point costs a few thin products."""
    stops = tuple(dict.fromkeys([0, *(2**power for power in range(31) if 2**power <= config.max_steps)]))
    choices: list[Choice] = []
    with progress_bar("dmlp: cross-validation", len(paths) * len(config.ridge)) as advance:
        for transform, path in paths.items():
            for ridge in config.ridge:
                found = _held_out(path, ridge * path.rows, task, stops, dealings, config.squared_error)
                for stop, held_out in zip(stops, found, strict=False):
                    choices.append(_choice(transform, ridge, stop, held_out, task.trusted_label))
                advance()
    best = min(choices, key=lambda choice: choice.loss)
    curve = tuple(
        {"step": float(choice.steps), "held_out_loss": choice.loss, "held_out_accuracy": choice.accuracy}
        for choice in choices
        if (choice.transform, choice.ridge) == (best.transform, best.ridge)
    )
    return choices, curve


def _choice(transform: Transform, ridge: float, steps: int, held_out: Array, labels: IntArray) -> Choice:
    """Scores of one grid point from its out-of-fold probabilities [dealings, m, K]."""
    return Choice(
        transform=transform,
        ridge=ridge,
        steps=steps,
        loss=float(np.mean([log_loss(probabilities, labels) for probabilities in held_out])),
        accuracy=float((held_out.argmax(axis=2) == labels).mean()),
        held_out=held_out[0],
    )


def _held_out(
    path: _Path, penalty: float, task: PurifyTask, stops: tuple[int, ...], dealings: list[Rows], squared_error: float
) -> list[Array]:
    """Out-of-fold probabilities [dealings, m, K] at each stop, until two further stops only made them worse."""
    scores, root, labels = path.scores(penalty), path.root(penalty), task.trusted_label
    outside = [(turn, fold == number) for turn, fold in enumerate(dealings) for number in range(int(fold.max()) + 1)]
    run = IPCRun.of(scores, root, labels, [np.flatnonzero(~rows) for _, rows in outside])
    collected: list[Array] = []
    losses: list[float] = []
    for pull in ipc_steps(scores, root, labels, run, stops, squared_error):
        current = [scores - _moved(root, None, one) for one in pull]
        probabilities = np.empty((len(dealings), *scores.shape))
        for (turn, rows), link, found in zip(outside, run.links, current, strict=True):
            probabilities[turn, rows] = link(found[rows])
        collected.append(probabilities)
        losses.append(float(np.mean([log_loss(one, labels) for one in probabilities])))
        if len(losses) > 2 and min(losses[-2:]) > min(losses):
            break
    return collected


# --- EAC ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EAC:
    """Cross-fitted heads: head j learned from the sampled rows outside split j."""

    heads: list[Head]
    split: npt.NDArray[np.int8]  # [n] split of a row; -1 where it was not sampled, so any head may predict it

    def __call__(self, features: FloatArray, rows: slice) -> Array:
        """[b, K] probabilities of the noisy rows `rows`."""
        found = np.stack([head(features) for head in self.heads])
        split = self.split[rows]
        chosen = found[np.maximum(split, 0), np.arange(len(split))]
        return np.where((split < 0)[:, None], found.mean(axis=0), chosen)


def _with_eac(
    ipc: list[IPCHead],
    best: Choice,
    task: PurifyTask,
    moments: Moments,
    config: DMLPConfig,
    fold: Rows,
    generator: np.random.Generator,
) -> tuple[EAC | None, Array, float, list[dict[str, float]]]:
    """Train EAC per fold and cross-fitted; choose eta_E by the held-out log-loss of the mixture.

    Returns:
        EAC, the out-of-fold probabilities of the mixture [m, K], eta_E, and the table of what was tried.
    """
    if config.eac_steps == 0:
        return None, best.held_out, 0.0, []
    shift, scale = moments.affine("standardise")
    rows, sample = _sample(task, config.eac_rows, generator)
    split = generator.permutation(np.arange(len(rows)) % config.eac_splits)
    folds = _training_rows(fold)
    targets = [_targets(head, sample, task, rows, inside) for head, inside in zip(ipc, folds, strict=True)]
    targets += [targets[-1]] * (config.eac_splits - 1)
    takes_part = np.ones((len(rows), len(targets)), dtype=np.float32)
    takes_part[:, len(ipc) - 1 :] = split[:, None] != np.arange(config.eac_splits)
    standard = ((sample - shift) * scale).astype(np.float32)
    weights, bias = eac_heads(standard, np.stack(targets, axis=1), takes_part, config, generator)
    folds += [folds[-1]] * (config.eac_splits - 1)
    trusted = ((task.trusted.astype(np.float64) - shift) * scale) @ weights.transpose(1, 0, 2) + bias[:, None]
    links = [fit_link(one[inside], task.trusted_label[inside]) for one, inside in zip(trusted, folds, strict=True)]
    held_out = np.empty_like(best.held_out)
    for number in range(len(ipc) - 1):
        held_out[fold == number] = links[number](trusted[number][fold == number])
    heads = [
        Head(shift=shift, scale=scale, weights=weights[:, number], bias=bias[number], link=links[number])
        for number in range(len(ipc) - 1, len(links))
    ]
    eta, mixture, table = _mix(best.held_out, held_out, task.trusted_label, config.eac_mix)
    of_row = np.full(task.noisy.shape[0], -1, dtype=np.int8)
    of_row[rows] = split
    return EAC(heads=heads, split=of_row), mixture, eta, table


def _mix(
    ipc: Array, eac: Array, labels: IntArray, etas: tuple[float, ...]
) -> tuple[float, Array, list[dict[str, float]]]:
    """eta_E by held-out log-loss, its mixture [m, K], and a record for each that was tried.

    Few trusted rows cannot tell the mixtures apart: of those within one standard error of the best (of the paired
    difference), the one nearest to an even mixture is taken.
    """
    mixtures = {eta: (1 - eta) * ipc + eta * eac for eta in etas}
    each = {eta: row_losses(mixture, labels) for eta, mixture in mixtures.items()}
    losses = {eta: float(loss.mean()) for eta, loss in each.items()}
    least = min(losses, key=lambda eta: losses[eta])
    behind = {eta: loss - each[least] for eta, loss in each.items()}
    close = [eta for eta, more in behind.items() if more.mean() <= more.std() / np.sqrt(len(more))]
    best = min(close, key=lambda eta: (abs(eta - 0.5), losses[eta]))
    table = [
        {
            "eta_E": eta,
            "held_out_loss": round(losses[eta], 5),
            "held_out_accuracy": round(float((mixture.argmax(axis=1) == labels).mean()), 5),
        }
        for eta, mixture in mixtures.items()
    ]
    return best, mixtures[best], table


def eac_heads(
    features: FloatArray,
    targets: FloatArray,
    takes_part: FloatArray,
    config: DMLPConfig,
    generator: np.random.Generator,
) -> tuple[Array, Array]:
    """Eq. 10 for several target sets at once: one stream of minibatches trains H independent linear heads.

    Args:
        features: [s, d] standardised.  targets: [s, H, K] soft labels.
        takes_part: [s, H] 1 where a head learns from a row, 0 where it does not.
    Returns:
        weights [d, H, K], biases [H, K].
    """
    rows, width = features.shape
    _, heads, classes = targets.shape
    x, y, part = torch.from_numpy(features), torch.from_numpy(targets), torch.from_numpy(takes_part)
    weights = torch.zeros(width, heads * classes, requires_grad=True)
    bias = torch.zeros(heads * classes, requires_grad=True)
    optimizer = torch.optim.Adam([weights, bias], lr=config.eac_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.eac_steps)
    with progress_bar("dmlp: EAC", config.eac_steps) as advance:
        for picked in _minibatches(rows, config.eac_batch, config.eac_steps, generator):
            logits = torch.addmm(bias, x[picked], weights).view(-1, heads, classes)
            loss = _eac_loss(logits, y[picked], part[picked], config)
            loss = loss + config.eac_weight_decay * weights.square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance()
    final = weights.detach().double().view(width, heads, classes).numpy()
    return final, bias.detach().double().view(heads, classes).numpy()


def _minibatches(rows: int, batch: int, steps: int, generator: np.random.Generator) -> Iterator[Tensor]:
    """Row numbers of `steps` minibatches: shuffled epochs, each without its incomplete tail."""
    batch = min(batch, rows)
    whole = rows // batch
    for step in range(steps):
        if step % whole == 0:
            order = torch.from_numpy(generator.permutation(rows))
        start = step % whole * batch
        yield order[start : start + batch]


def _eac_loss(logits: Tensor, targets: Tensor, takes_part: Tensor, config: DMLPConfig) -> Tensor:
    """Cross-entropy plus `eac_entropy` times the entropy of the predictions; a mean over rows, summed over heads."""
    logs = logits.log_softmax(dim=-1)
    loss = -(targets * logs).sum(dim=-1)
    if config.eac_entropy:
        loss = loss - config.eac_entropy * (logs.exp() * logs).sum(dim=-1)
    return ((loss * takes_part).sum(dim=0) / takes_part.sum(dim=0).clamp(min=1)).sum()


def _sample(task: PurifyTask, most: int, generator: np.random.Generator) -> tuple[Rows, FloatArray]:
    """A uniform sample of rows, in order, read in one pass: (row numbers, features [s, d])."""
    total, width = task.noisy.shape
    rows = np.sort(generator.choice(total, size=min(most, total), replace=False))
    features = np.empty((len(rows), width), dtype=np.float32)
    for block, batch in task.noisy.batches():
        start, stop = np.searchsorted(rows, [block.start, block.stop])
        features[start:stop] = batch[rows[start:stop] - block.start]
    return rows, features


def _targets(head: IPCHead, sample: FloatArray, task: PurifyTask, rows: Rows, inside: Rows) -> FloatArray:
    """IPC's corrected labels of the sample [s, K]: the posterior, with T from this fold's trusted rows only."""
    observed = task.observed[rows]
    probabilities = head.without_own_label(sample, observed)
    transition = estimate_transition(
        probabilities,
        observed,
        anchor_label=task.trusted_label[inside],
        anchor_observed=task.trusted_observed[inside],
    )
    return posterior(probabilities, transition, observed)


# --- the last pass -----------------------------------------------------------------------------------------------


def _predict(ipc: IPCHead, eac: EAC | None, eta: float, task: PurifyTask) -> FloatArray:
    """p(y | x) [n, K] of the mixture (1 - eta) IPC + eta EAC, streamed."""
    probabilities = np.empty((task.noisy.shape[0], task.classes), dtype=np.float32)
    for rows, features in task.noisy.batches():
        found = 0.0 if eta == 1 else (1 - eta) * ipc.without_own_label(features, task.observed[rows])
        probabilities[rows] = found if eac is None or eta == 0 else found + eta * eac(features, rows)
    return probabilities


def _with_prior(probabilities: FloatArray, task: PurifyTask, prior: str) -> FloatArray:
    """Move p(y | x) from the trusted set's class prior to that of the noisy rows.

    `trusted` takes the two to be equal; `uniform` and `observed` (the share of each observed label) reweight.
    """
    if prior == "trusted":
        return probabilities
    source = np.bincount(task.trusted_label, minlength=task.classes) + 1.0
    observed = np.bincount(task.observed, minlength=task.classes) + 1.0
    target = observed if prior == "observed" else np.ones(task.classes)
    ratio = (target / target.sum()) / (source / source.sum())
    weighted = probabilities * ratio
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True), dtype=np.float32)


def _training_rows(fold: Rows) -> list[Rows]:
    """The trusted rows outside each fold, and last all of them."""
    return [*(np.flatnonzero(fold != number) for number in range(int(fold.max()) + 1)), np.arange(len(fold))]


def _check_trusted(task: PurifyTask) -> None:
    if task.classes < 2:
        raise ConfigError(f"dmlp: labels have {task.classes} class; there is nothing to purify with fewer than two")
    if task.noisy.shape[0] == 0:
        raise ConfigError("dmlp: there are no noisy rows; every train row is trusted")
    counts = np.bincount(task.trusted_label, minlength=task.classes)
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        raise ConfigError(
            f"dmlp: {len(missing)} of {task.classes} classes have no trusted row (first: class {missing[0]}); "
            "add verified rows of these classes to the trusted set"
        )
    check_finite(task.trusted, 0)


def _metrics(
    choices: list[Choice],
    best: Choice,
    mixes: list[dict[str, float]],
    eta: float,
    held_out: Array,
    transition: Array,
    answer: FloatArray,
    task: PurifyTask,
) -> dict[str, Any]:
    ranked = sorted(choices, key=lambda choice: choice.loss)[:12]
    candidates = [
        {
            "transform": choice.transform,
            "ridge": choice.ridge,
            "steps": choice.steps,
            "held_out_loss": round(choice.loss, 5),
            "held_out_accuracy": round(choice.accuracy, 5),
        }
        for choice in ranked
    ]
    return {
        "candidates": candidates,
        "eac_candidates": mixes,
        "chosen": {"transform": best.transform, "ridge": best.ridge, "steps": best.steps, "eta_E": eta},
        "trusted_rows": len(task.trusted_label),
        "held_out_loss": round(log_loss(held_out, task.trusted_label), 5),
        "held_out_accuracy": round(float((held_out.argmax(axis=1) == task.trusted_label).mean()), 5),
        "transition": [[round(float(value), 5) for value in row] for row in transition],
        "noise_rate": round(float(1 - answer[np.arange(len(answer)), task.observed].mean()), 5),
    }
