"""IPC, the intrinsic primary correction of DMLP, in closed form and cross-validated inside the trusted set.

Tu et al., CVPR 2023, Eq. 6-9; the derivation is in `lnl_core.purify.ipc_ensemble`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import eigsh

from lnl_core.contracts import FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify.ipc_eac.leverage import Leverage
from lnl_core.purify.ipc_eac.settings import IPCEnsembleConfig
from lnl_core.purify.task import PurifyTask
from lnl_core.statistics.folds import stratified_folds
from lnl_core.statistics.moments import Moments, Transform
from lnl_core.statistics.ridge import RidgePath
from lnl_core.statistics.softmax_link import SoftmaxLink, fit_link, log_loss, softmax

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
_HALVE_FROM = 32  # IPC steps from which the search goes on with the better half of its paths


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
    """Ridge regression on IPC's labels, which can leave out the row that it predicts."""

    moved: Array  # [d, K] IPC moved the label of row x by -((x - shift) * scale)' moved
    label_mean: Array  # [K]

    def on_standardised(self, shift: Array, scale: Array) -> IPCHead:
        """The same head for features given as (x - shift) * scale: (z / scale + shift - own shift) * own scale."""
        deviation = np.divide(1.0, scale, out=np.ones_like(scale), where=scale > 0)  # own scale is 0 there as well
        return replace(self, shift=(self.shift - shift) / deviation, scale=deviation * self.scale)

    def without_own_label(self, features: FloatArray, observed: IntArray, leverage: Array) -> Array:
        """[b, K] probabilities of noisy rows, each by the regression on all other rows.

        s_-i = (s_i - h_i y_i) / (1 - h_i) with leverage h_i [b] and the row's label y_i after IPC.
        """
        both = np.concatenate([self.weights, self.moved], axis=1)
        found = features @ (self.scale[:, None] * both).astype(np.float32) - (self.shift * self.scale) @ both
        scores, moved = np.split(found, 2, axis=1)
        own = np.eye(len(self.label_mean))[observed] - self.label_mean - moved
        weight = leverage[:, None]
        return self.link((scores + self.bias - weight * own) / (1 - weight))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One point of the grid with its cross-validated scores on the trusted rows."""

    transform: Transform
    ridge: float
    steps: int
    loss: float  # held-out log-loss of the calibrated scores
    accuracy: float  # held-out


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
        label_mean = moments.counts / moments.rows
        none = np.empty((0, len(shift)))
        path = cls(shift=shift, scale=scale, ridge=ridge, trusted=none, label_mean=label_mean, rows=moments.rows)
        return path.evaluated_on(task.trusted)

    def evaluated_on(self, trusted: FloatArray) -> IPCPath:
        """The same with other trusted rows [m, d]."""
        return replace(self, trusted=((trusted.astype(np.float64) - self.shift) * self.scale) @ self.ridge.basis)

    def scores(self, penalty: float) -> Array:
        """P(Y_0) [m, K]: the trusted scores of least squares on the observed labels."""
        return np.asarray(self.trusted @ (self.ridge.cross / (self.ridge.spectrum + penalty)[:, None]))

    def root(self, penalty: float) -> Array:
        """V [m, d] with K = V V' = F_v A^-1 F'F A^-1 F_v'."""
        return self.trusted * (np.sqrt(self.ridge.spectrum) / (self.ridge.spectrum + penalty))

    def heads(self, task: PurifyTask, choice: Choice, squared_error: float, rows: list[Rows]) -> list[IPCHead]:
        """w*(Y) after the chosen steps of IPC on each of the given sets of trusted rows, with its link."""
        penalty = choice.ridge * self.rows
        scores, root = self.scores(penalty), self.root(penalty)
        run = IPCRun.of(scores, root, task.trusted_label, rows)
        pulls = list(ipc_steps(scores, task.trusted_label, run, (choice.steps,), squared_error))[-1][0]
        inverse = 1.0 / (self.ridge.spectrum + penalty)
        heads = []
        for pull, link in zip(pulls, run.links, strict=True):
            moved = inverse[:, None] * (self.trusted.T @ pull)  # Q'A^-1 F_v' S
            heads.append(
                IPCHead(
                    shift=self.shift,
                    scale=self.scale,
                    weights=self.ridge.weights(penalty, -self.ridge.spectrum[:, None] * moved),
                    bias=np.zeros(task.classes),
                    link=link,
                    moved=self.ridge.basis @ moved,
                    label_mean=self.label_mean,
                )
            )
        return heads

    def leverage(self, choice: Choice, generator: np.random.Generator) -> Leverage:
        """Of every row at the chosen penalty."""
        inverse = 1.0 / (self.ridge.spectrum + choice.ridge * self.rows)
        mean = float((self.ridge.spectrum * inverse).sum() / self.rows)
        root = self.ridge.basis * np.sqrt(inverse)
        return Leverage.of(root, mean, shift=self.shift, scale=self.scale, generator=generator)


@dataclass(frozen=True, kw_only=True)
class IPCRun:
    """Several runs of IPC side by side, each on some of the trusted rows."""

    inside: npt.NDArray[np.bool_]  # [B, m] rows that run b learns from
    links: list[SoftmaxLink]  # B
    steps: Array  # [B] eta_I
    factor: FloatArray  # V [m, d] in single precision
    kernel: FloatArray | None  # V V' [m, m] where that is less work

    @classmethod
    def of(cls, scores: Array, root: Array, labels: IntArray, rows: list[Rows]) -> IPCRun:
        """A link for each set of rows; the step is half the largest that is stable, 2 / (beta lambda_max(V V'))."""
        factor = root.astype(np.float32)
        wide = len(factor) <= factor.shape[1]
        small = factor @ factor.T if wide else factor.T @ factor
        largest = max(_largest_eigenvalue(small), 1e-30)
        inside = np.zeros((len(rows), len(labels)), dtype=bool)
        for run, picked in enumerate(rows):
            inside[run, picked] = True
        links = [fit_link(scores[picked], labels[picked]) for picked in rows]
        steps = np.array([2.0 / (link.beta * largest) for link in links])
        return cls(inside=inside, links=links, steps=steps, factor=factor, kernel=small if wide else None)


def ipc_steps(
    scores: Array, labels: IntArray, run: IPCRun, stops: tuple[int, ...], squared_error: float = 0.0
) -> Iterator[tuple[Array, Array]]:
    """IPC in the space of the trusted scores, with a pause at each of the ascending `stops`.

    After p steps the noisy labels are Y_0 - F A^-1 F_v' S and the trusted scores are P_0 - V V' S. Single precision:
    the steps correct each other's rounding, and time is what they cost.

    Args:
        scores: P_0 [m, K].
        squared_error: weight of ||P - y||^2 beside the cross-entropy of the linked scores.
    Yields:
        S, the summed steps, and the trusted scores, each [B, m, K].
    """
    rows, classes = scores.shape
    start = scores.astype(np.float32)[:, None]

    def scores_after(steps: FloatArray) -> FloatArray:
        flat = steps.reshape(rows, -1)
        moved = run.factor @ (run.factor.T @ flat) if run.kernel is None else run.kernel @ flat
        return np.asarray(start - moved.reshape(steps.shape))

    onehot = np.eye(classes, dtype=np.float32)[labels][:, None]
    beta = np.array([link.beta for link in run.links], dtype=np.float32)[None, :, None]
    bias = np.stack([link.bias for link in run.links]).astype(np.float32)[None]
    rate = (run.inside * run.steps[:, None]).T[:, :, None].astype(np.float32)
    pull = np.zeros((rows, len(run.links), classes), dtype=np.float32)  # rows first: runs share each product
    done = 0
    for stop in stops:
        for _ in range(stop - done):
            current = scores_after(pull)
            gradient = softmax(beta * current + bias) - onehot  # of CE by beta P + b; the step absorbs beta
            if squared_error:
                gradient += 2 * squared_error * (current - onehot)
            pull += rate * gradient
        done = max(done, stop)
        yield pull.transpose(1, 0, 2).astype(np.float64), scores_after(pull).transpose(1, 0, 2).astype(np.float64)


def _largest_eigenvalue(symmetric: FloatArray) -> float:
    """By Lanczos iteration; a full decomposition would cost more than the steps whose size it sets."""
    if len(symmetric) < 3:
        return float(np.linalg.norm(symmetric, 2))
    start = np.ones(len(symmetric), dtype=np.float32)  # else the start is random
    return float(eigsh(symmetric, k=1, tol=1e-3, v0=start, return_eigenvectors=False)[0])


def searched(task: PurifyTask, config: IPCEnsembleConfig, generator: np.random.Generator) -> PurifyTask:
    """The task with at most `search_rows` trusted rows, as many of each class as its share: a fold of them all."""
    parts = -(-len(task.trusted_label) // config.search_rows)
    if parts == 1:
        return task
    fold = stratified_folds(task.trusted_label, parts, generator.permutation(len(task.trusted_label)))
    rows = np.flatnonzero(fold == 0)
    return replace(
        task,
        trusted=task.trusted[rows],
        trusted_label=task.trusted_label[rows],
        trusted_observed=task.trusted_observed[rows],
    )


def fold_assignments(labels: IntArray, config: IPCEnsembleConfig, generator: np.random.Generator) -> list[Rows]:
    """Fold numbers [m], several times where the trusted rows are few: one assignment of 100 rows is mostly luck."""
    times = max(1, round(config.held_out_rows / len(labels)))
    folds = min(config.folds, len(labels))
    return [stratified_folds(labels, folds, generator.permutation(len(labels))) for _ in range(min(times, 20))]


@dataclass(kw_only=True)
class _GridPath:
    """One transform and penalty on its way through the steps."""

    transform: Transform
    ridge: float
    held_out: Iterator[Array]
    choices: list[Choice] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(choice.loss for choice in self.choices)

    @property
    def falls(self) -> bool:
        """False once two further stops only made the held-out loss worse."""
        losses = [choice.loss for choice in self.choices]
        return len(losses) < 3 or min(losses[-2:]) <= min(losses)


def search(
    paths: Mapping[Transform, IPCPath], task: PurifyTask, config: IPCEnsembleConfig, assignments: list[Rows]
) -> tuple[list[Choice], tuple[Mapping[str, float], ...]]:
    """Cross-validate transform x ridge x steps; closed form, so a step of a grid point costs a few thin products.

    All paths take `_HALVE_FROM` steps; then at every doubling of the steps the half with the smaller held-out loss goes
    on (successive halving: Jamieson & Talwalkar, AISTATS 2016), and no path goes on that only gets worse.
    """
    stops = tuple(dict.fromkeys([0, *(2**power for power in range(31) if 2**power <= config.max_steps)]))
    grid = [
        _GridPath(
            transform=transform,
            ridge=ridge,
            held_out=cross_validate(path, ridge * path.rows, task, stops, assignments, config.squared_error),
        )
        for transform, path in paths.items()
        for ridge in config.ridge
    ]
    active = grid
    with progress_bar("ipc_ensemble: cross-validation", len(stops)) as advance:
        for stop in stops:
            for one in active:
                one.choices.append(_choice(one.transform, one.ridge, stop, next(one.held_out), task.trusted_label))
            active = [one for one in active if one.falls]
            if stop >= _HALVE_FROM:
                active = sorted(active, key=lambda one: one.best)[: (len(active) + 1) // 2]
            advance()
    best = min(grid, key=lambda one: one.best)
    curve = tuple(
        {"step": float(choice.steps), "held_out_loss": choice.loss, "held_out_accuracy": choice.accuracy}
        for choice in best.choices
    )
    return [choice for one in grid for choice in one.choices], curve


def _choice(transform: Transform, ridge: float, steps: int, held_out: Array, labels: IntArray) -> Choice:
    """Scores of one grid point from its out-of-fold probabilities [assignments, m, K]."""
    return Choice(
        transform=transform,
        ridge=ridge,
        steps=steps,
        loss=float(np.mean([log_loss(probabilities, labels) for probabilities in held_out])),
        accuracy=float((held_out.argmax(axis=2) == labels).mean()),
    )


def cross_validate(
    path: IPCPath,
    penalty: float,
    task: PurifyTask,
    stops: tuple[int, ...],
    assignments: list[Rows],
    squared_error: float,
) -> Iterator[Array]:
    """Out-of-fold probabilities [assignments, m, K] at each stop."""
    scores, root, labels = path.scores(penalty), path.root(penalty), task.trusted_label
    outside = [(turn, fold == number) for turn, fold in enumerate(assignments) for number in range(int(fold.max()) + 1)]
    run = IPCRun.of(scores, root, labels, [np.flatnonzero(~rows) for _, rows in outside])
    for _, moved in ipc_steps(scores, labels, run, stops, squared_error):
        probabilities = np.empty((len(assignments), *scores.shape))
        for (turn, rows), link, one in zip(outside, run.links, moved, strict=True):
            probabilities[turn, rows] = link(one[rows])
        yield probabilities


def training_rows(fold: Rows) -> list[Rows]:
    """The trusted rows outside each fold, and last all of them."""
    return [*(np.flatnonzero(fold != number) for number in range(int(fold.max()) + 1)), np.arange(len(fold))]
