"""Parts of a graph that stand on their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx import ModelProto, helper

from bbx.exporter.onnx_graph import all_names, tensor_infos


def giving(model: ModelProto, names: Sequence[str], *, given: Iterable[str] = ()) -> ModelProto:
    """The part of a graph that these tensors need, with nothing but them as outputs.

    Args:
        given: tensors that become inputs, in the place of the nodes that make them; all outputs of such a
            node have to be among them.

    Raises:
        KeyError: no node of the main graph gives such a tensor.
    """
    cut = dict.fromkeys(given)
    makers = {
        name: index for index, node in enumerate(model.graph.node) for name in node.output if name not in cut
    }
    wanted, needed = [makers[name] for name in names], set[int]()
    while wanted:
        index = wanted.pop()
        if index not in needed:
            needed.add(index)
            wanted += [makers[name] for name in reads_of(model, index) if name in makers]
    infos = tensor_infos(model)
    part = ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = model.graph.name
    part.graph.input.extend(model.graph.input)
    part.graph.input.extend(helper.make_tensor_value_info(name, infos[name].elem_type, None) for name in cut)
    part.graph.node.extend(model.graph.node[index] for index in sorted(needed))
    read = {name for index in needed for name in reads_of(model, index)}
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    part.graph.output.extend(
        helper.make_tensor_value_info(name, infos[name].elem_type, None) for name in names
    )
    return part


def reads_of(model: ModelProto, index: int) -> set[str]:
    """Names that a node reads, those that its subgraphs read included."""
    node = model.graph.node[index]
    inner = all_names([node]) if any(a.HasField("g") for a in node.attribute) else set()
    return (set(node.input) | inner) - {""}
