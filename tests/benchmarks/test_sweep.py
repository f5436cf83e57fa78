"""Which conditions are measured, and how they stand in a row's key and command."""

from __future__ import annotations

import math
import shlex
from typing import Any

import pytest

from bbx.benchmarks.conditions import Asked, Conditions, conditions, described
from bbx.benchmarks.forecast import row_seconds
from bbx.benchmarks.measure import PROFILES
from bbx.benchmarks.plan import Row, Subject, plan
from bbx.errors import UnavailableError, UsageError
from bbx.models.spec import ModelSpec
from tests.conftest import Command

RESNET = Subject("resnet18", spec=ModelSpec("resnet18"))


def tails(runtime: str, *, gpu: bool = False, **asked: Any) -> list[str]:
    """Keys of the rows of a runtime, from the batch on."""
    wanted = conditions(Asked(**asked), gpu=gpu)
    return [row.key.split("/", 3)[3] for row in plan([RESNET], [runtime], wanted, gpu=gpu).rows]


def test_nothing_asked_for_is_one_request_of_one_image() -> None:
    assert tails("ort-cpu") == ["b1/single"]
    assert conditions(Asked(), gpu=False) == Conditions()


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"scenarios": ["multi"]}, ["b1/multi", "b2/multi", "b4/multi", "b8/multi"]),
        ({"scenarios": ["multi"], "batches": [3]}, ["b3/multi"]),
        ({"scenarios": ["single", "offline"]}, ["b1/single", "b1/offline"]),
        ({"scenarios": ["server"], "slo_ms": 12.5}, ["b1/server/slo12.5ms"]),
        ({"batches": [1, 8, 1]}, ["b1/single", "b8/single"]),
        ({"threads": 2}, ["b1/single/t2"]),
        ({"threads": [2, 1]}, ["b1/single", "b1/single/t2", "b1/single/t1"]),
        ({"caches": ["cold", "hot"]}, ["b1/single/cold", "b1/single"]),
        ({"residences": ["pageable", "image"]}, ["b1/single", "b1/single/image"]),
        ({"threads": 1, "caches": ["cold"], "residences": ["image"]}, ["b1/single/t1/cold/image"]),
    ],
)
def test_what_is_not_as_always_stands_in_the_key(asked: dict[str, Any], wanted: list[str]) -> None:
    assert tails("ort-cpu", **asked) == wanted


def test_on_a_gpu_the_input_is_at_home_on_the_device() -> None:
    asked = {"residences": ["device", "pinned", "pageable", "image"], "precisions": ["fp32"]}
    assert tails("rtx", gpu=True, **asked) == [
        "b1/single",
        "b1/single/pinned",
        "b1/single/pageable",
        "b1/single/image",
    ]
    assert tails("ort-cpu", gpu=True, **asked) == ["b1/single", "b1/single/image"]


def test_only_an_input_on_the_device_is_captured() -> None:
    asked = {"residences": ["device", "pinned"], "precisions": ["fp32"], "cuda_graph": True}
    assert tails("rtx", gpu=True, **asked) == ["b1/single/graph", "b1/single/pinned"]


def test_conditions_without_sense_are_left_out_with_a_reason() -> None:
    wanted = Conditions(
        precisions=("fp32",),
        scenarios=("single", "offline"),
        caches=("hot", "cold"),
        residences=("device", "pageable"),
        threads=(None, 1, 2),
    )
    found = plan([RESNET], ["rtx", "ort-cpu"], wanted, gpu=True)
    tail = [row.key.split("/", 1)[1] for row in found.rows]
    assert tail == [
        "rtx/fp32/b1/single",
        "rtx/fp32/b1/single/pageable",
        "rtx/fp32/b1/offline",
        *(f"ort-cpu/fp32/b1/single{threads}" for threads in ("", "/t1", "/t2")),
        *(f"ort-cpu/fp32/b1/single{threads}/cold" for threads in ("", "/t1", "/t2")),
        *(f"ort-cpu/fp32/b1/offline{threads}" for threads in ("", "/t1", "/t2")),
    ]
    reasons = {each.what: each.reason for each in found.left_out}
    assert reasons["rtx --threads"] == "It computes on the GPU."
    assert reasons["rtx single cold device"] == "Only a CPU's caches are emptied."
    assert reasons["rtx offline hot pageable"] == "A GPU is kept busy with inputs that lie on it."
    assert reasons["ort-cpu single hot device"].startswith("It computes on the CPU")
    assert reasons["ort-cpu offline cold pageable"].startswith("Caches are emptied between runs")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"slo_ms": 5.0}, "--slo belongs to the scenario `server`"),
        ({"scenarios": ["server"]}, "Type --slo"),
        ({"scenarios": ["server"], "slo_ms": 0.0}, "a time in milliseconds, and is 0"),
        ({"scenarios": ["server"], "slo_ms": math.nan}, "and is nan"),
        ({"scenarios": ["serve"]}, r"no scenario 'serve'.*server"),
        ({"caches": ["warm"]}, r"no cache 'warm'.*hot"),
        ({"residences": ["disk"]}, r"no residence 'disk'.*device"),
        ({"threads": 0}, "--threads must be at least 1, and is 0"),
        ({"threads": [1, -2]}, "--threads must be at least 1, and is -2"),
        ({"batches": [0]}, "--batch must be at least 1, and is 0"),
    ],
)
def test_wrong_conditions_are_named(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        conditions(Asked(**asked), gpu=False)


@pytest.mark.parametrize(
    "asked", [{"residences": ["pinned"]}, {"residences": ["device"]}, {"cuda_graph": True}]
)
def test_what_takes_a_gpu_is_refused_without_one(asked: dict[str, Any]) -> None:
    with pytest.raises(UnavailableError, match="needs an NVIDIA GPU"):
        conditions(Asked(**asked), gpu=False)
    assert conditions(Asked(**asked), gpu=True)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"scenarios": ["server"], "slo_ms": 12.5, "threads": 2},
        {"caches": ["cold"], "residences": ["image"], "batches": [4]},
        {"scenarios": ["offline"]},
    ],
)
def test_the_command_of_a_row_measures_that_row(asked: dict[str, Any]) -> None:
    [row] = plan([RESNET], ["ort-cpu"], conditions(Asked(**asked), gpu=False), gpu=False).rows
    words = shlex.split(row.command(profile="quick", spec=RESNET.spec))
    typed = dict(zip(words[3::2], words[4::2], strict=True))
    again = Asked(
        batches=[int(typed["--batch"])],
        scenarios=[typed.get("--scenario", "single")],
        slo_ms=float(typed["--slo"]) if "--slo" in typed else None,
        threads=int(typed["--threads"]) if "--threads" in typed else None,
        caches=[typed.get("--cache", "hot")],
        residences=[typed["--residence"]] if "--residence" in typed else [],
    )
    assert plan([RESNET], ["ort-cpu"], conditions(again, gpu=False), gpu=False).rows == (row,)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"scenario": "single"}, "single"),
        ({"scenario": "single", "residence": "pageable", "cache": "hot", "device": "cpu"}, "single"),
        ({"scenario": "single", "residence": "pageable", "device": "cuda"}, "single, from pageable"),
        (
            {"scenario": "server", "slo_ns": 50_000_000, "threads_asked": 1, "device": "cpu"},
            "server within 50 ms, 1 thread",
        ),
        (
            {"scenario": "multi", "threads_asked": 2, "cache": "cold", "residence": "image", "device": "cpu"},
            "multi, 2 threads, cold, from image",
        ),
    ],
)
def test_conditions_in_words(row: dict[str, Any], text: str) -> None:
    assert described(row) == text


def test_a_search_a_photograph_and_more_processes_take_longer() -> None:
    quick, plain = PROFILES["quick"], Row("resnet18", "ort-cpu", "fp32", 1)
    server = Row("resnet18", "ort-cpu", "fp32", 1, scenario="server", slo_ns=10**8)
    image = Row("resnet18", "ort-cpu", "fp32", 1, residence="image")
    assert row_seconds(server, quick) > row_seconds(image, quick) > row_seconds(plain, quick)
    assert row_seconds(plain, PROFILES["report"]) > 5 * 30


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--slo", "5"), 2, "--slo belongs to the scenario"),
        (("--scenario", "burst"), 2, "'burst' is not one of 'single', 'multi', 'offline', 'server'"),
        (("--scenario", "server"), 2, "Type --slo"),
        (("--threads", "0"), 2, "--threads must be at least 1"),
        (("--threads", "1,x"), 2, "'1,x' is no list of whole numbers. Type it like 1,2,4."),
        (("--batch", "1,0"), 2, "--batch must be at least 1, and is 0"),
        (("--cache", "warm"), 2, "'warm' is not one of 'hot', 'cold'"),
        (("--cache", "cold", "--scenario", "offline"), 2, "Caches are emptied between runs"),
        (("--residence", "disk"), 2, "is not one of 'device', 'pinned', 'pageable', 'image'"),
    ],
)
def test_bad_words_on_the_command_line(bbx: Command, words: tuple[str, ...], code: int, text: str) -> None:
    answer = bbx("bench", "resnet18", "--runtime", "ort-cpu", *words)
    assert text in answer.error
    assert answer.code == code
