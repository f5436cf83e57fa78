"""Batch normalisations folded into the layers before them, which is where TensorRT computes them."""

from __future__ import annotations

import onnx
from onnx import ModelProto
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from bbx.exporter import onnx_graph

_RULES = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)


def folded(model: ModelProto) -> ModelProto:
    """A graph whose convolutions and matrix products hold the batch normalisations that follow them.

    bbx's own exports are folded already; a graph from elsewhere may not be.

    Args:
        model: as `exporter.onnx_graph.prepared` made it; given back as it is where there is nothing to fold.

    Raises:
        ExportError: the result is not a valid graph.
    """
    if not any(node.op_type == "BatchNormalization" for node in model.graph.node):
        return model
    result: onnx.ModelProto = rewrite(model, pattern_rewrite_rules=_RULES)
    _name_again(result, model)
    prepared = onnx_graph.prepared(result, opset=onnx_graph.opset_of(model))
    onnx_graph.infer_and_check(prepared)
    del prepared.graph.value_info[:]
    return prepared


def _name_again(result: ModelProto, source: ModelProto) -> None:
    """Give nodes the names, and layers the marks, that they had: the rewriter makes new ones."""
    makers = {node.output[0]: node for node in source.graph.node}
    for node in result.graph.node:
        before = makers.get(node.output[0])
        if before is not None and before.op_type == "BatchNormalization" != node.op_type:
            before = makers[before.input[0]]
            del node.metadata_props[:]
            node.metadata_props.extend(before.metadata_props)
        if before is not None:
            node.name = before.name
