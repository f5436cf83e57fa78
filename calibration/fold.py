"""What TensorRT folds before it compiles: batch norms into the layers before them, and weights that a graph
makes from constants."""

from __future__ import annotations

import onnx
from onnx import ModelProto, numpy_helper
from onnxscript.optimizer import remove_unused_nodes
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from bbx.calibration.placement import WEIGHTED
from bbx.calibration.sessions import session
from bbx.exporter import onnx_graph
from bbx.exporter.parts import giving

_RULES = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)


_MOVING = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_COMPUTING = {"Add", "Div", "Mul", "Sub"}


def constant_weights(model: ModelProto) -> ModelProto:
    """A graph in which weights that it makes from constants, such as a transposed one, are initialisers.

    Args:
        model: as `exporter.onnx_graph.prepared` made it; given back as it is where there is no such weight.

    Raises:
        BbxError: ONNX Runtime cannot compute one.
    """
    constant = {tensor.name for tensor in model.graph.initializer}
    made: set[str] = set()
    for node in model.graph.node:  # in the order in which they run
        if node.op_type in _MOVING | _COMPUTING and constant.issuperset(filter(None, node.input)):
            constant.update(node.output)
            made.update(node.output)
    read = [node.input[1] for node in model.graph.node if node.op_type in WEIGHTED and len(node.input) > 1]
    names = [name for name in dict.fromkeys(read) if name in made]
    if not names:
        return model
    part = giving(model, names)
    del part.graph.input[:]  # none is read
    with session(part, "the weights that it makes from constants") as opened:
        values = opened.run({})
    result = ModelProto()
    result.CopyFrom(model)
    result.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in zip(names, values, strict=True)
    )
    left = [node for node in result.graph.node if not set(names) & set(node.output)]
    del result.graph.node[:]
    result.graph.node.extend(left)
    remove_unused_nodes(result)
    return result


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
