"""IPC, the intrinsic primary correction of DMLP, in closed form and cross-validated inside the trusted set.

Tu et al., CVPR 2023, Eq. 6-9; the derivation is in `lnl_core.purify.dmlp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lnl_core.blocks.folds import stratified_folds
from lnl_core.blocks.moments import Moments, Transform
from lnl_core.blocks.ridge import RidgePath
from lnl_core.blocks.softmax_link import SoftmaxLink, fit_link, log_loss, softmax
from lnl_core.contracts import FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify.dmlp_config import DMLPConfig
from lnl_core.purify.task import PurifyTask

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
_BLOCK = 8192  # rows of which the leverage is found at a time


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

    def on_standardised(self, shift: Array, scale: Array) -> IPCHead:
        """The same head for features given as (x - shift) * scale: (z / scale + shift - own shift) * own scale."""
        spread = np.divide(1.0, scale, out=np.ones_like(scale), where=scale > 0)  # own scale is 0 there as well
        return replace(self, shift=(self.shift - shift) / spread, scale=spread * self.scale)

    def leverage(self, features: FloatArray) -> Array:
        """[b] h_i = x_i' A^-1 x_i, below 1; the same for all heads of one transform and penalty."""
        folded = (self.scale[:, None] * self.basis * np.sqrt(self.inverse)).astype(np.float32)
        constant = ((self.shift * self.scale) @ self.basis * np.sqrt(self.inverse)).astype(np.float32)
        found = np.empty(len(features))
        for start in range(0, len(features), _BLOCK):
            rows = slice(start, start + _BLOCK)
            rotated = features[rows] @ folded
            rotated -= constant
            found[rows] = np.einsum("bd,bd->b", rotated, rotated)
        return np.minimum(found, 0.999)

    def without_own_label(self, features: FloatArray, observed: IntArray, leverage: Array | None = None) -> Array:
        """[b, K] probabilities of noisy rows, each by the regression on all other rows.

        s_-i = (s_i - h_i y_i) / (1 - h_i) with leverage h_i and the row's label y_i after IPC.

        Args:
            leverage: [b] of these rows, where it is known: it is what this costs.
        """
        weight = (self.leverage(features) if leverage is None else leverage)[:, None]
        turned = self.basis @ self.moved
        moved = features @ (self.scale[:, None] * turned).astype(np.float32) - (self.shift * self.scale) @ turned
        own = np.eye(len(self.label_mean))[observed] - self.label_mean - moved
        return self.link((self.scores(features) - weight * own) / (1 - weight))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One point of the grid with its cross-validated scores on the trusted rows."""

    transform: Transform
    ridge: float
    steps: int
    loss: float  # held-out log-loss of the calibrated scores
    accuracy: float  # held-out
    held_out: Array  # [m, K] out-of-fold probabilities


@dataclass(frozen=True, kw_only=True)
class IPCPath:
    """One feature transform with everything that no penalty and no fold changes."""

    shift: Array
    scale: Array
    ridge: RidgePath
    trusted: Array  # [m, d] transformed trusted features in the basis of the Gram matrix
    label_mean: Array  # [K]; labels are centred, so w* needs no intercept column
    rows: int

    @classmethod
    def of(cls, moments: Moments, task: PurifyTask, transform: Transform) -> IPCPath:
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
            current = scores[:, None] - _kernel_times(root, kernel, pull.reshape(rows, -1)).reshape(pull.shape)
            gradient = softmax(beta * current + bias) - onehot  # of CE by beta P + b; the step absorbs beta
            if squared_error:
                gradient += 2 * squared_error * (current - onehot)
            pull += rate * gradient
        done = max(done, stop)
        yield pull.transpose(1, 0, 2).copy()


def _kernel_times(root: Array, kernel: Array | None, pull: Array) -> Array:
    """V V' S: [m, n] -> [m, n]."""
    return np.asarray(root @ (root.T @ pull) if kernel is None else kernel @ pull)


def dealings_of(labels: IntArray, config: DMLPConfig, generator: np.random.Generator) -> list[Rows]:
    """Fold numbers [m], several times where the trusted rows are few: one dealing of 100 rows is mostly luck."""
    times = max(1, round(config.held_out_rows / len(labels)))
    folds = min(config.folds, len(labels))
    return [stratified_folds(labels, folds, generator.permutation(len(labels))) for _ in range(min(times, 20))]


def search(
    paths: Mapping[Transform, IPCPath], task: PurifyTask, config: DMLPConfig, dealings: list[Rows]
) -> tuple[list[Choice], tuple[Mapping[str, float], ...]]:
    """Cross-validate transform x ridge x steps; closed form, so a grid point costs a few thin products."""
    stops = tuple(dict.fromkeys([0, *(2**power for power in range(31) if 2**power <= config.max_steps)]))
    choices: list[Choice] = []
    with progress_bar("dmlp: cross-validation", len(paths) * len(config.ridge)) as advance:
        for transform, path in paths.items():
            for ridge in config.ridge:
                found = cross_validate(path, ridge * path.rows, task, stops, dealings, config.squared_error)
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


def cross_validate(
    path: IPCPath, penalty: float, task: PurifyTask, stops: tuple[int, ...], dealings: list[Rows], squared_error: float
) -> list[Array]:
    """Out-of-fold probabilities [dealings, m, K] at each stop, until two further stops only made them worse."""
    scores, root, labels = path.scores(penalty), path.root(penalty), task.trusted_label
    outside = [(turn, fold == number) for turn, fold in enumerate(dealings) for number in range(int(fold.max()) + 1)]
    run = IPCRun.of(scores, root, labels, [np.flatnonzero(~rows) for _, rows in outside])
    collected: list[Array] = []
    losses: list[float] = []
    for pull in ipc_steps(scores, root, labels, run, stops, squared_error):
        current = [scores - _kernel_times(root, None, one) for one in pull]
        probabilities = np.empty((len(dealings), *scores.shape))
        for (turn, rows), link, found in zip(outside, run.links, current, strict=True):
            probabilities[turn, rows] = link(found[rows])
        collected.append(probabilities)
        losses.append(float(np.mean([log_loss(one, labels) for one in probabilities])))
        if len(losses) > 2 and min(losses[-2:]) > min(losses):
            break
    return collected


def training_rows(fold: Rows) -> list[Rows]:
    """The trusted rows outside each fold, and last all of them."""
    return [*(np.flatnonzero(fold != number) for number in range(int(fold.max()) + 1)), np.arange(len(fold))]
