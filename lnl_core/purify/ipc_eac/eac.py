"""EAC, the extrinsic auxiliary correction of DMLP: cross-fitted linear heads on IPC's labels (Eq. 10 and 11)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lnl_core.contracts import FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify.ipc_eac.ipc import Head, IPCHead, training_rows
from lnl_core.purify.ipc_eac.leverage import Leverage
from lnl_core.purify.ipc_eac.neighbours import fit_votes, out_of_fold, unit_rows
from lnl_core.purify.ipc_eac.network import EPOCHS, Network, train_network
from lnl_core.purify.ipc_eac.settings import IPCEnsembleConfig
from lnl_core.purify.row_sample import row_sample
from lnl_core.purify.task import PurifyTask
from lnl_core.statistics.log_pool import LogPool, fit_log_pool
from lnl_core.statistics.moments import Moments
from lnl_core.statistics.softmax_link import fit_link, log_loss
from lnl_core.statistics.transition import estimate_transition, posterior

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
_FEW = 2000  # reference rows below which neighbours say little that IPC does not


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """p(y | x) of the noisy rows: IPC, EAC's linear heads and networks, and the neighbours, pooled.

    Head and network j learned from the sampled rows outside split j, so that no row is predicted from its own label.
    """

    ipc: IPCHead
    pool: LogPool
    split: npt.NDArray[np.int8]  # [n]
    heads: list[Head]  # one a split; none without EAC
    networks: list[list[Network]]  # for each number of epochs one a split
    votes: FloatArray | None  # [n, K]; None where the rows are too many
    leverage: Leverage
    known_leverage: Array | None = None  # [n] where the sample held every row

    def of_rows(self, rows: slice) -> OfRows:
        """What stands here of these rows."""
        votes = None if self.votes is None else self.votes[rows]
        known = None if self.known_leverage is None else self.known_leverage[rows]
        return OfRows(split=self.split[rows], votes=votes, known_leverage=known)

    def knowing(self, rows: OfRows) -> Ensemble:
        """The same ensemble for these rows alone, which are counted from 0."""
        return replace(self, split=rows.split, votes=rows.votes, known_leverage=rows.known_leverage)

    def __call__(self, features: FloatArray, observed: IntArray, rows: slice) -> Array:
        """[b, K] probabilities of the noisy rows `rows`."""
        weight = self.leverage(features) if self.known_leverage is None else self.known_leverage[rows]
        found = [self.ipc.without_own_label(features, observed, weight)]
        if self.heads:
            found.append(self._by_split(self.heads, features, rows))
        if self.networks:
            standardised = _standardised(features, self.heads[0].shift, self.heads[0].scale)
            found += [self._by_split(networks, standardised, rows) for networks in self.networks]
        if self.votes is not None:
            found.append(self.votes[rows].astype(np.float64))
        return self.pool(np.stack(found))

    def _by_split(self, models: Sequence[Callable[[FloatArray], Array]], features: FloatArray, rows: slice) -> Array:
        found = np.empty((len(features), len(self.pool.bias)))
        for number, model in enumerate(models):
            picked = self.split[rows] == number
            found[picked] = model(features[picked])
        return found


@dataclass(frozen=True, kw_only=True)
class OfRows:
    """What the ensemble holds of some noisy rows by their place, and of no others."""

    split: npt.NDArray[np.int8]
    votes: FloatArray | None
    known_leverage: Array | None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The noisy rows that EAC learns from, and the trusted rows beside them."""

    rows: Rows  # [s] ascending
    features: FloatArray  # [s, d] standardised
    trusted: FloatArray  # [m, d] standardised
    inside: list[Rows]  # J = F + 1 sets of trusted rows: without each fold, and all
    split: Rows  # [s] 0..F-1
    shift: Array
    scale: Array


@dataclass(frozen=True, kw_only=True)
class Correction:
    """EAC's result."""

    ensemble: Ensemble
    held_out: Array  # [m, K] p(y | x) of the trusted rows, out of fold
    transitions: list[Array]  # F: T estimated without the trusted rows of a fold
    table: list[dict[str, float | str]]  # a record a member


def with_eac(
    ipc: list[IPCHead],
    leverage: Leverage,
    task: PurifyTask,
    moments: Moments,
    config: IPCEnsembleConfig,
    fold: Rows,
    generator: np.random.Generator,
) -> Correction:
    """Train EAC's members and pool them with IPC by their log-loss on trusted rows that they did not see.

    IPC's labels are first corrected by the neighbours' (the paper's alternation, once); the others learn from those.
    """
    sample = _sample(task, moments, config.eac_rows, fold, generator)
    observed = task.observed[sample.rows]
    on_sample = [head.on_standardised(sample.shift, sample.scale) for head in ipc]
    weight = leverage.on_standardised(sample.shift, sample.scale)(sample.features)
    from_ipc = [head.without_own_label(sample.features, observed, weight) for head in on_sample]
    transitions, targets = _targets(from_ipc, observed, task, sample.inside)
    ipc_held_out = out_of_fold([head(task.trusted) for head in ipc], sample.inside)
    held_out = {"IPC": ipc_held_out}
    if config.eac_steps == 0:
        ensemble = Ensemble(
            ipc=ipc[-1],
            pool=_identity(task.classes),
            split=np.empty(0, np.int8),
            heads=[],
            networks=[],
            votes=None,
            leverage=leverage,
        )
        return Correction(ensemble=ensemble, held_out=ipc_held_out, transitions=transitions[:-1], table=[])
    votes, vote_held_out = _neighbours(sample, targets, ipc_held_out, task, config, generator)
    if votes is not None:
        pool = fit_log_pool(np.stack([ipc_held_out, vote_held_out]), task.trusted_label)
        both = [pool(np.stack(pair)) for pair in zip(from_ipc, votes, strict=True)]
        transitions, targets = _targets(both, observed, task, sample.inside)
    heads, held_out["EAC"] = _linear_member(sample, targets, task, config, generator)
    networks = []
    for epochs in EPOCHS if config.eac_hidden else ():
        found, predicted = _network_member(sample, targets, ipc, task, epochs, config, generator)
        networks.append(found)
        held_out[f"EAC network, {epochs} epochs"] = predicted
    everywhere = votes is not None and len(sample.rows) == len(task.observed)
    if everywhere:
        held_out["neighbours"] = vote_held_out
    stacked = np.stack(list(held_out.values()))
    pool = fit_log_pool(stacked, task.trusted_label)
    split = (np.arange(len(task.observed)) % (len(ipc) - 1)).astype(np.int8)
    split[sample.rows] = sample.split
    ensemble = Ensemble(
        ipc=ipc[-1],
        pool=pool,
        split=split,
        heads=heads,
        networks=networks,
        votes=votes[-1] if everywhere and votes is not None else None,
        leverage=leverage,
        known_leverage=weight if len(weight) == len(task.observed) else None,
    )
    pooled = _cross_fitted_pool(stacked, task.trusted_label, sample.inside)
    return Correction(
        ensemble=ensemble,
        held_out=pooled,
        transitions=transitions[:-1],
        table=_table({**held_out, "pool": pooled}, [*pool.weights, 1.0], task.trusted_label),
    )


def _neighbours(
    sample: Sample,
    targets: list[FloatArray],
    ipc_held_out: Array,
    task: PurifyTask,
    config: IPCEnsembleConfig,
    generator: np.random.Generator,
) -> tuple[FloatArray | None, Array]:
    """Votes [J, s, K] of the sampled rows, each without its own, and those of the trusted rows [m, K] out of fold.

    The reference is as large as `vote_work` multiplications allow; None where that is less than `_FEW` rows and less
    than the sample.
    """
    size, width = sample.features.shape
    most = min(size, int(config.vote_work / (size * width)))
    if most < min(size, _FEW):
        return None, np.zeros((0, 0))
    chosen = np.sort(generator.choice(size, size=most, replace=False))
    own = np.full(size, -1)
    own[chosen] = np.arange(most)
    unit = unit_rows(sample.features.copy())
    labels = np.stack(targets, axis=1)[chosen]
    vote, held_out = fit_votes(
        unit[chosen], labels, unit_rows(sample.trusted.copy()), task.trusted_label, sample.inside, ipc_held_out
    )
    return vote.among_themselves() if most == size else vote(unit, own), held_out


def _linear_member(
    sample: Sample,
    targets: list[FloatArray],
    task: PurifyTask,
    config: IPCEnsembleConfig,
    generator: np.random.Generator,
) -> tuple[list[Head], Array]:
    """Heads, one a split, and their out-of-fold probabilities [m, K] of the trusted rows.

    To train as few as possible, head j is without split j of the noisy rows and without fold j of the trusted ones.
    """
    splits = len(targets) - 1
    takes_part = (sample.split[:, None] != np.arange(splits)).astype(np.float32)
    weights, bias = eac_heads(sample.features, np.stack(targets[:-1], axis=1), takes_part, config, generator)
    heads, found = [], []
    for number in range(splits):
        inside = sample.inside[number]
        scores = sample.trusted.astype(np.float64) @ weights[:, number] + bias[number]
        link = fit_link(scores[inside], task.trusted_label[inside])
        heads.append(
            Head(shift=sample.shift, scale=sample.scale, weights=weights[:, number], bias=bias[number], link=link)
        )
        found.append(link(scores))
    return heads, out_of_fold([*found, found[-1]], sample.inside)


def _network_member(
    sample: Sample,
    targets: list[FloatArray],
    ipc: list[IPCHead],
    task: PurifyTask,
    epochs: int,
    config: IPCEnsembleConfig,
    generator: np.random.Generator,
) -> tuple[list[Network], Array]:
    """Networks, one a split, and their out-of-fold probabilities [m, K] of the trusted rows.

    Network j is without split j of the noisy rows and without fold j of the trusted ones.
    """
    networks, found = [], []
    with progress_bar(f"ipc_ensemble: EAC networks, {epochs} epochs", len(targets) - 1) as advance:
        for number, target in enumerate(targets[:-1]):
            relevance = _relevance(ipc[number], sample)
            network = Network(relevance, config.eac_hidden, task.classes, int(generator.integers(2**31)))
            rows = np.flatnonzero(sample.split != number)
            rows = rows if len(rows) else np.arange(len(sample.rows))
            train_network(network, sample.features, target, torch.from_numpy(rows), epochs, config)
            scores, inside = network.scores(sample.trusted), sample.inside[number]
            network.link = fit_link(scores[inside], task.trusted_label[inside])
            networks.append(network)
            found.append(network.link(scores))
            advance()
    return networks, out_of_fold([*found, found[-1]], sample.inside)


def _relevance(head: IPCHead, sample: Sample) -> Array:
    """[d] length of each feature's row of IPC's weights, on standardised features; mean square 1 where not zero."""
    deviation = np.divide(1.0, sample.scale, out=np.zeros_like(sample.scale), where=sample.scale > 0)
    length = np.sqrt(np.square(head.weights * (head.scale * deviation)[:, None]).sum(axis=1))
    return np.asarray(length / max(float(np.sqrt((length**2).sum() / max((length > 0).sum(), 1))), 1e-30))


def _cross_fitted_pool(members: Array, labels: IntArray, inside: list[Rows]) -> Array:
    """Out-of-fold probabilities of the pool [m, K]: its weights from the other folds, too."""
    return out_of_fold([fit_log_pool(members[:, rows], labels[rows])(members) for rows in inside], inside)


def _identity(classes: int) -> LogPool:
    return LogPool(np.ones(1), np.zeros(classes))


def _table(held_out: dict[str, Array], weights: list[float], labels: IntArray) -> list[dict[str, float | str]]:
    return [
        {
            "member": name,
            "weight": round(float(weight), 4),
            "held_out_loss": round(log_loss(found, labels), 5),
            "held_out_accuracy": round(float((found.argmax(axis=1) == labels).mean()), 5),
        }
        for (name, found), weight in zip(held_out.items(), weights, strict=True)
    ]


def eac_heads(
    features: FloatArray,
    targets: FloatArray,
    takes_part: FloatArray,
    config: IPCEnsembleConfig,
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
    with progress_bar("ipc_ensemble: EAC", config.eac_steps) as advance:
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


def _eac_loss(logits: Tensor, targets: Tensor, takes_part: Tensor, config: IPCEnsembleConfig) -> Tensor:
    """Cross-entropy plus `eac_entropy` times the entropy of the predictions; a mean over rows, summed over heads."""
    logs = logits.log_softmax(dim=-1)
    loss = -(targets * logs).sum(dim=-1)
    if config.eac_entropy:
        loss = loss - config.eac_entropy * (logs.exp() * logs).sum(dim=-1)
    return ((loss * takes_part).sum(dim=0) / takes_part.sum(dim=0).clamp(min=1)).sum()


def _sample(task: PurifyTask, moments: Moments, most: int, fold: Rows, generator: np.random.Generator) -> Sample:
    """A uniform sample of rows, in order, read in one pass."""
    shift, scale = moments.affine("standardise")
    rows, features = row_sample(task.noisy, most, generator, prepare=lambda batch: _standardised(batch, shift, scale))
    inside = training_rows(fold)
    return Sample(
        rows=rows,
        features=features,
        trusted=_standardised(task.trusted, shift, scale),
        inside=inside,
        split=generator.permutation(np.arange(len(rows)) % (len(inside) - 1)),
        shift=shift,
        scale=scale,
    )


def _standardised(features: FloatArray, shift: Array, scale: Array) -> FloatArray:
    """(x - shift) * scale in float32."""
    found = features - shift.astype(np.float32)
    found *= scale.astype(np.float32)
    return found


def _targets(
    probabilities: list[Array], observed: IntArray, task: PurifyTask, inside: list[Rows]
) -> tuple[list[Array], list[FloatArray]]:
    """J transition matrices, each from its fold's trusted rows alone, and the corrected labels [s, K] by each."""
    transitions = [
        estimate_transition(
            one, observed, anchor_label=task.trusted_label[rows], anchor_observed=task.trusted_observed[rows]
        )
        for one, rows in zip(probabilities, inside, strict=True)
    ]
    corrected = [posterior(one, matrix, observed) for one, matrix in zip(probabilities, transitions, strict=True)]
    return transitions, corrected
