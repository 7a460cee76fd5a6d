"""The kept sums of stage `purify`: moments of all rows with an observed label, added up over the parts of the cache.

Trusted rows are in the kept sums, under their observed label, and are subtracted afterwards: a row that somebody
verifies later changes nothing that was summed, so trusted labels may be added at any time. What takes part is therefore
every row with an observed label that is in the train split or trusted (held-out trusted rows are in the val split).
The sums of the last version are continued where its parts, their encoder and their rows' observed labels are still the
first parts of the cache; else they are made from the beginning. Both ways give the same bits.

Held: two sets of sums, 16 d (d + K) bytes, and a row group of features.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from lnl_core.contracts import NO_LABEL, ContractError, IntArray, Labels, metadata_of, parts, positions
from lnl_core.execution.shards import IN_PROCESS, Execution
from lnl_core.features.cache import FeatureCache, FeatureSelection
from lnl_core.files import file_sha256
from lnl_core.statistics.kept_sums import Part, extended, moments_of, nothing_kept, read_sums, write_sums
from lnl_core.statistics.moments import Moments, accumulate

LEAST_VARIANCE = 1e-13  # of a feature's variance, against its mean square: below it there is rounding alone


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """The rows of a cache that have a part in purification, in the order of the cache.

    That order is the order of ingest, in which a collection grows at its end; ids are sorted within a part alone.
    """

    cache: FeatureCache
    labels: Labels  # of the train split, and trusted
    rows: npt.NDArray[np.intp]  # where each stands in the cache, ascending

    @classmethod
    def of(cls, cache: FeatureCache, labels: Labels) -> LabelledRows:
        """Raises ContractError where a row has no feature."""
        wanted = labels.take(np.flatnonzero((labels.split == "train") | labels.trusted))
        rows = positions(wanted.ids, cache.ids, str(cache.path))
        order = np.argsort(rows)
        return cls(cache=cache, labels=wanted.take(order), rows=rows[order])

    def where(self, *, trusted: bool) -> tuple[Labels, FeatureSelection]:
        """The train rows that are trusted, or that are not, with their features, which stream."""
        found = self.labels.where(split="train", trusted=trusted)
        return self.labels.take(found), FeatureSelection(cache=self.cache, rows=self.rows[found])


class NoisyRowSums:
    """Sums over the noisy train rows, made when a purifier first asks for them."""

    def __init__(self, found: LabelledRows, previous: Path, where: Execution = IN_PROCESS) -> None:
        """`previous`: the file of the last version's sums; it need not exist. `where` parts are summed."""
        self._found, self._previous, self._where = found, previous, where
        self._kept = nothing_kept()
        self.parts_kept = 0

    @property
    def parts(self) -> int:
        """How many parts were summed; 0 where no purifier needed any."""
        return len(self._kept.keys)

    @functools.cached_property
    def moments(self) -> Moments:
        """Over the noisy rows by observed label: the kept sums without the trusted rows.

        Raises:
            ContractError: the features of all rows are the same.
        """
        cache, classes = self._found.cache, len(self._found.labels.class_names)
        before = read_sums(self._previous)
        self._kept, self.parts_kept = extended(
            before,
            _chain(self._found),
            cache.shape[1],
            classes,
            functools.partial(self._where.map, moments_of, name=operator.attrgetter("name")),
        )
        found = self._kept.moments.minus(_trusted_rows(self._found))
        _refuse_constant(found, cache.path)
        return found

    def write(self, path: Path) -> None:
        """Keep the sums for the next version; a file without parts where no purifier needed them."""
        write_sums(path, self._kept)


def _chain(found: LabelledRows) -> list[Part]:
    """The parts of the cache with their keys; nothing is summed yet."""
    observed = np.full(found.cache.shape[0], NO_LABEL, dtype=np.int32)
    observed[found.rows] = found.labels.observed_label
    chain, start = [], 0
    for path in parts(found.cache.path):
        stop = start + pq.read_metadata(path).num_rows
        chain.append(_part(path, observed[start:stop], found.labels.class_names))
        start = stop
    return chain


def _part(path: Path, observed: IntArray, class_names: tuple[str, ...]) -> Part:
    """A part of the cache; its observed labels [rows] are `NO_LABEL` where a row takes no part."""
    about = metadata_of(pq.read_schema(path))
    source = about.get("source") or file_sha256(path)
    labels = hashlib.sha256(np.ascontiguousarray(observed, dtype="<i4").tobytes()).hexdigest()
    what = [about.get("fingerprint", ""), about.get("dtype", ""), source, labels, list(class_names)]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    moments = functools.partial(_moments, path.absolute(), observed, len(class_names))
    return Part(key=key, moments=moments, name=path.name)


def _moments(path: Path, observed: IntArray, classes: int) -> Moments:
    rows = np.flatnonzero(observed != NO_LABEL)
    return _accumulated(FeatureSelection(cache=FeatureCache(path), rows=rows), observed[rows], classes)


def _trusted_rows(found: LabelledRows) -> Moments:
    """What the trusted rows are in the kept sums."""
    rows = np.flatnonzero(found.labels.trusted & (found.labels.observed_label != NO_LABEL))
    features = FeatureSelection(cache=found.cache, rows=found.rows[rows])
    return _accumulated(features, found.labels.observed_label[rows], len(found.labels.class_names))


def _accumulated(features: FeatureSelection, observed: IntArray, classes: int) -> Moments:
    return accumulate(features.batches(), observed, features.shape[1], classes, np.float64)


def _refuse_constant(sums: Moments, path: Path) -> None:
    mean_square = np.diag(sums.gram) / max(sums.rows, 1)
    variance = mean_square - (sums.total / max(sums.rows, 1)) ** 2
    if sums.rows > 1 and (variance <= LEAST_VARIANCE * mean_square).all():
        raise ContractError(
            f"{path}: all {sums.rows} noisy rows have the same feature; the encoder sees nothing in them: "
            "use another one, or look whether the features were written as they should"
        )
