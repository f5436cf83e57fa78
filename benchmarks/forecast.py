"""How long a benchmark will still take: a guess from the sizes of the networks, corrected by what happened.

The guess is made of two straight lines in the work of one inference, fitted to recorded runs of the quick
profile on two CPUs. What it gets wrong about this machine shows in the first rows, and both lines are scaled
by it; the guess counts as `_PRIOR_S` seconds of evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bbx.benchmarks.measure import PROFILES, Profile
from bbx.benchmarks.plan import Row
from bbx.benchmarks.pooling import processes_of
from bbx.benchmarks.scenarios.server import QUERIES

_GFLOPS = (
    "alexnet=0.7 vgg11=7.6 vgg11_bn=7.6 vgg13=11 vgg13_bn=11 vgg16=15 vgg16_bn=15 vgg19=20 vgg19_bn=20 "
    "googlenet=1.5 inception_v3=5.7 inception_resnet_v2=13 resnet18=1.8 resnet34=3.7 resnet50=4.1 "
    "resnet101=7.8 resnet152=12 resnext50_32x4d=4.2 resnext101_32x8d=16 resnext101_64x4d=15 "
    "wide_resnet50_2=11 wide_resnet101_2=23 resnet50_gn=4.1 densenet121=2.8 densenet161=7.7 "
    "densenet169=3.4 densenet201=4.3 mobilenet_v2=0.3 mobilenet_v3_small=0.06 mobilenet_v3_large=0.2 "
    "efficientnet_b0=0.4 efficientnet_b1=0.7 efficientnet_b2=1.1 efficientnet_b3=1.8 "
    "efficientnet_b4=4.4 efficientnet_b5=10 efficientnet_b6=19 efficientnet_b7=38 efficientnet_v2_s=8.4 "
    "efficientnet_v2_m=25 efficientnet_v2_l=56 efficientnet_lite1=0.6 efficientnet_lite2=0.9 "
    "convnext_tiny=4.5 convnext_small=8.7 convnext_base=15 convnext_large=34 regnet_x_400mf=0.4 "
    "regnet_x_800mf=0.8 regnet_x_1_6gf=1.6 regnet_x_3_2gf=3.2 regnet_x_8gf=8 regnet_x_16gf=16 "
    "regnet_x_32gf=32 regnet_y_400mf=0.4 regnet_y_800mf=0.8 regnet_y_1_6gf=1.6 regnet_y_3_2gf=3.2 "
    "regnet_y_8gf=8.5 regnet_y_16gf=16 regnet_y_32gf=32 regnet_y_128gf=375 vit_b_16=18 swin_t=4.5 "
    "alexnet_2012=0.7 vgg11_cifar=0.2 vgg11_bn_cifar=0.2 vgg13_cifar=0.2 vgg13_bn_cifar=0.2 vgg16_cifar=0.3 "
    "vgg16_bn_cifar=0.3 vgg19_cifar=0.4 vgg19_bn_cifar=0.4 inception_v1=1.6 inception_v2=2 "
    "resnet18_caffe=1.8 resnet34_caffe=3.7 resnet50_caffe=3.9 resnet101_caffe=7.6 resnet152_caffe=11 "
    "resnet101_gn=7.8 "
    "fasterrcnn_r18_fpn=90 fasterrcnn_r34_fpn=105 fasterrcnn_r50_fpn=120 fasterrcnn_r50_fpn_v2=200 "
    "fasterrcnn_r101_fpn=165 fasterrcnn_mobilenet_v3_large_fpn=5 "
    "fasterrcnn_mobilenet_v3_large_320_fpn=0.7 maskrcnn_r50_fpn=130 maskrcnn_r50_fpn_v2=230 "
    "keypointrcnn_r50_fpn=140 retinanet_r50_fpn=120 retinanet_r50_fpn_v2=120 fcos_r50_fpn=110 "
    "ssd300_vgg16=35 ssdlite320_mobilenet_v3_large=0.6 fcn_resnet50=153 fcn_resnet101=233 "
    "deeplabv3_resnet50=179 deeplabv3_resnet101=259 deeplabv3_mobilenet_v3_large=10 "
    "lraspp_mobilenet_v3_large=2.1 unet_resnet34=60 semantic_fpn_resnet50=60 "
)
"""Billions of multiply-adds of one inference at the preset's own size, from torchvision's records."""

GFLOPS: dict[str, float] = {
    name: float(value) for name, _, value in (w.partition("=") for w in _GFLOPS.split())
}

_UNKNOWN_GFLOPS = 5.0
_PRIOR_S = 15.0

_OVERHEAD_S = 0.9
"""Of a row that computes nothing: fork, open, report."""

_ROW_RUNS = 5
"""Inferences of a row that are not sampled: the first ones, and those whose answers are compared."""

_TRIALS = 4
"""Of a search for a rate, and the share of the runtime's time that requests take in them."""
_LOAD = 0.5

_S_PER_GFLOP = {"ort-cpu": 0.012}
_SLOWER_S_PER_GFLOP = 0.020

_EXPORT_S = 7.0
_EXPORT_S_PER_GFLOP = 0.25


def gflops(subject: str, batch: int = 1) -> float:
    """Work of one inference, as far as it is known without building the model."""
    return batch * GFLOPS.get(subject, _UNKNOWN_GFLOPS)


def row_seconds(row: Row, profile: Profile) -> float:
    """A guess at how long a row takes when its artefact is there."""
    return processes_of(row.scenario, profile) * _process_seconds(row, profile)


def _process_seconds(row: Row, profile: Profile) -> float:
    run = gflops(row.subject, row.batch) * _S_PER_GFLOP.get(row.runtime, _SLOWER_S_PER_GFLOP)
    sampled = min(max(profile.at_least_s, 20 * run), profile.cap_s) + min(profile.warm_up_cap_s, 0.3)
    if row.scenario == "server":
        sampled = min(_TRIALS * QUERIES * run / _LOAD, profile.search_cap_s)
    elif row.residence == "image":
        sampled *= 2  # whole, and phase by phase
    return _OVERHEAD_S + max(sampled, 2 * run) + _ROW_RUNS * run


def export_seconds(subject: str) -> float:
    """A guess at how long an export of a preset takes, with its proof, alone on a CPU."""
    return _EXPORT_S + _EXPORT_S_PER_GFLOP * gflops(subject)


def affordable(rows: Sequence[Row], profile: Profile, budget_s: float, *, builders: int = 1) -> set[str]:
    """Keys of the rows to spend a time on: the subjects that cost least, so that it is enough for most rows.

    A subject is measured with all its rows, because its rows are there to be compared with each other.

    Args:
        rows: those that have to be measured.
        builders: exports made at once.
    """
    mine: dict[str, list[Row]] = {}
    for row in rows:
        mine.setdefault(row.subject, []).append(row)
    cost = {
        subject: export_seconds(subject) / builders + sum(row_seconds(row, profile) for row in theirs)
        for subject, theirs in mine.items()
    }
    chosen: set[str] = set()
    for subject in sorted(mine, key=lambda name: cost[name]):
        budget_s -= cost[subject]
        if budget_s >= 0:
            chosen |= {row.key for row in mine[subject]}
    return chosen


@dataclass(slots=True)
class Scale:
    """How much longer things take than was guessed, from those that are done."""

    guessed: float = _PRIOR_S
    took: float = _PRIOR_S

    def learn(self, guessed: float, took: float) -> None:
        """Take note of something that is done."""
        self.guessed += guessed
        self.took += took

    def of(self, guessed: float) -> float:
        """A guess, corrected."""
        return guessed * self.took / self.guessed


@dataclass(slots=True)
class Forecast:
    """The time that is left, learnt from rows and exports as they end.

    Attributes:
        rows: to be measured still, in order.
        exports: seconds guessed for exports to be made still, by subject.
        builders: exports made at once.
    """

    rows: list[Row]
    exports: dict[str, float]
    profile: str
    builders: int = 1
    _rows: Scale = field(default_factory=Scale)
    _exports: Scale = field(default_factory=Scale)

    def row_done(self, row: Row, took_s: float | None) -> None:
        """A row has ended; None where it did not have to be measured."""
        self.rows.remove(row)
        if took_s is not None:
            self._rows.learn(self._guess(row), took_s)

    def exports_done(self, subjects: Iterable[str], took_s: float) -> None:
        """The exports of some subjects have ended, after so many seconds of wall time."""
        guessed = sum(self.exports.pop(subject, 0.0) for subject in subjects)
        # Exports that were on disk take no time, and say nothing of those that are not.
        if took_s > 0.2 * guessed / self.builders:
            self._exports.learn(guessed / self.builders, took_s)

    def left_s(self) -> float:
        """Seconds left."""
        exports = sum(self.exports.values()) / self.builders
        return self._rows.of(sum(map(self._guess, self.rows))) + self._exports.of(exports)

    def _guess(self, row: Row) -> float:
        return row_seconds(row, PROFILES[self.profile])
