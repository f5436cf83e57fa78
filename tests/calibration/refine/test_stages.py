"""A network in stages computes what it computes at once, and keeps no more than it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bbx.calibration.refine.stages import Shelf, part_of, stages_of
from bbx.calibration.sessions import session
from bbx.exporter.onnx_graph import tensor_infos
from bbx.exporter.parts import giving


def test_each_layer_gets_the_input_that_the_whole_network_gives_it(network: Any, tmp_path: Path) -> None:
    model, placement = network.model, network.placement
    infos = tensor_infos(model)
    feeds = next(network.fit())
    inside = [name for name in placement.activations if name != "images"]
    with session(giving(model, inside), "a test") as opened:
        wanted = dict(zip(inside, opened.run(feeds), strict=True)) | feeds
    shelf, ran = Shelf(tmp_path), []
    shelf.put(0, feeds)
    for stage in stages_of(model, placement):
        assert set(stage.drops).isdisjoint(stage.gives)  # nothing is kept for nothing
        if stage.nodes:
            part, _ = part_of(model, stage, placement, infos)
            with session(part, "a test") as opened:
                answers = opened.run(shelf.get(0, stage.reads), stage.gives)
                shelf.put(0, dict(zip(stage.gives, answers, strict=True)))
        name = stage.layer.activation
        np.testing.assert_allclose(shelf.get(0, [name])[name], wanted[name], atol=1e-5)
        shelf.drop(stage.drops)
        assert len(list(tmp_path.iterdir())) <= 2  # the layer's input, and a residual stream
        ran += stage.nodes
    assert len(ran) == len(set(ran))


def test_a_part_holds_what_is_quantised_in_it(network: Any) -> None:
    model, placement = network.model, network.placement
    infos = tensor_infos(model)
    found: list[str] = []
    residuals: list[str] = []
    for stage in stages_of(model, placement):
        part, inside = part_of(model, stage, placement, infos)
        for layer in inside.layers:
            assert part.graph.node[layer.index].input[1] == layer.weight
            found.append(layer.name)
        for residual in inside.residuals:
            assert part.graph.node[residual.index].input[residual.position] == residual.activation
            residuals.append(residual.name)
    assert found == [layer.name for layer in placement.layers][:-1]  # nothing has to run after the last
    assert residuals == [residual.name for residual in placement.residuals]
    assert len(residuals) == 2
