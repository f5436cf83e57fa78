"""Where Q/DQ pairs go: which layers and tensors, what is left out and why, how residual additions fuse."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from bbx.calibration.placement import Placement, place
from tests.calibration.graphs import graph, marked, normal

SAME = "pads=[1,1,1,1]"


def _kept(placement: Placement) -> dict[str, str]:
    return {node.name: node.reason for node in placement.kept}


def _by_name(placement: Placement, field: str) -> dict[str, object]:
    return {layer.name: getattr(layer, field) for layer in placement.layers}


def _chain() -> ModelProto:
    """stem, depthwise, pointwise, and a classifier behind a pool."""
    return graph(
        f"""(float[N,3,8,8] x) => (float[N,10] y) {{
        [stem] a = Conv<{SAME}>(x, w)
        b = Relu(a)
        [depthwise] c = Conv<{SAME}, group=4>(b, d)
        [pointwise] e = Conv(c, p)
        f = GlobalAveragePool(e)
        h = Flatten(f)
        [classifier] y = Gemm<transB=1>(h, v, u)
        }}""",
        {
            "w": normal(4, 3, 3, 3),
            "d": normal(4, 1, 3, 3),
            "p": normal(8, 4, 1, 1),
            "v": normal(10, 8),
            "u": normal(10),
        },
    )


def test_every_layer_with_weights_is_placed_with_its_role() -> None:
    placement = place(_chain())
    assert _by_name(placement, "role") == {
        "stem": "first",
        "depthwise": "depthwise",
        "pointwise": "layer",
        "classifier": "last",
    }
    assert placement.activations == ("x", "b", "c", "h")
    assert placement.roles == {"x": "first", "b": "depthwise", "c": "layer", "h": "last"}
    assert (placement.kept, placement.residuals) == ((), ())


def test_a_single_layer_is_the_first_and_two_branches_of_the_input_have_two_firsts() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { [only] y = MatMul(x, w) }"
    assert _by_name(place(graph(text, {"w": normal(4, 4)})), "role") == {"only": "first"}
    text = """(float[N,4] x) => (float[N,4] y) {
        [left] a = MatMul(x, w)
        [right] b = MatMul(x, w)
        c = Mul(a, b)
        [end] y = MatMul(c, w)
        }"""
    roles = _by_name(place(graph(text, {"w": normal(4, 4)})), "role")
    assert roles == {"left": "first", "right": "first", "end": "last"}


def test_a_layer_without_a_name_is_called_by_its_output() -> None:
    placement = place(
        graph("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(4, 4)}),
    )
    assert [layer.name for layer in placement.layers] == ["y"]
    kept = place(
        graph("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(4, 4)}),
        keep={"y": "because"},
    )
    assert (kept.layers, _kept(kept)) == ((), {"y": "because"})


@pytest.mark.parametrize(
    ("node", "x", "weight", "y", "axis"),
    [
        ("Conv(x, w)", "[N,4,8,8]", (6, 4, 1, 1), "[N,6,8,8]", 0),
        ("Conv<group=2>(x, w)", "[N,4,8,8]", (6, 2, 1, 1), "[N,6,8,8]", 0),
        ("ConvTranspose(x, w)", "[N,4,8,8]", (4, 6, 2, 2), "[N,6,9,9]", 1),
        ("ConvTranspose<group=2>(x, w)", "[N,4,8,8]", (4, 3, 2, 2), "[N,6,9,9]", None),
        ("Gemm<transB=1>(x, w)", "[N,4]", (6, 4), "[N,6]", 0),
        ("Gemm(x, w)", "[N,4]", (4, 6), "[N,6]", 1),
        ("MatMul(x, w)", "[N,4]", (4, 6), "[N,6]", 1),
        ("MatMul(x, w)", "[5,N,4]", (5, 4, 6), "[5,N,6]", 2),
        ("MatMul(x, w)", "[N,4]", (4,), "[N]", None),
    ],
)
def test_the_axis_of_the_output_channels(
    node: str, x: str, weight: tuple[int, ...], y: str, axis: int | None
) -> None:
    model = graph(f"(float{x} x) => (float{y} y) {{ y = {node} }}", {"w": normal(*weight)})
    (layer,) = place(model).layers
    assert (layer.axis, layer.activation, layer.weight) == (axis, "x", "w")


def _residual(shortcut: str, *, joined: str = "add") -> ModelProto:
    """A block of two convolutions whose output meets `shortcut`, which is made from `s`."""
    return graph(
        f"""(float[N,3,8,8] x) => (float[N,4,8,8] y) {{
        [stem] a = Conv<{SAME}>(x, w)
        s = Relu(a)
        [one] b = Conv<{SAME}>(s, v)
        c = Relu(b)
        [two] d = Conv<{SAME}>(c, v)
        {shortcut}
        [{joined}] f = Add(d, e)
        y = Relu(f)
        }}""",
        {"w": normal(4, 3, 3, 3), "v": normal(4, 4, 3, 3), "p": normal(4, 4, 1, 1), "q": normal(1, 4, 1, 1)},
    )


def test_an_identity_shortcut_shares_the_pair_of_the_branch() -> None:
    model = _residual("e = Identity(s)")
    next(node for node in model.graph.node if node.name == "add").input[1] = "s"
    placement = place(model)
    (residual,) = placement.residuals
    assert (residual.name, residual.position, residual.activation) == ("add", 1, "s")
    assert placement.activations == ("x", "s", "c")
    assert placement.roles["s"] == "layer"


def test_of_two_convolutions_the_one_of_the_longer_branch_takes_the_addition_in() -> None:
    model = _residual("[shortcut] e = Conv(s, p)")
    (residual,) = place(model).residuals
    assert (residual.position, residual.activation) == (1, "e")
    assert place(model).roles["e"] == "residual"
    add = next(node for node in model.graph.node if node.name == "add")
    add.input[0], add.input[1] = "e", "d"
    (swapped,) = place(model).residuals
    assert (swapped.position, swapped.activation) == (0, "e")


def test_where_the_longer_branch_is_kept_the_shorter_fuses() -> None:
    (residual,) = place(_residual("[shortcut] e = Conv(s, p)"), keep={"two": "asked for"}).residuals
    assert (residual.position, residual.activation) == (0, "d")


@pytest.mark.parametrize(
    "shortcut",
    [
        "e = Identity(q)",  # of another shape: each channel gets a number
        "e = Identity(d)",  # the convolution's output is read twice
    ],
)
def test_an_addition_that_cannot_fuse_is_left_alone(shortcut: str) -> None:
    assert place(_residual(shortcut)).residuals == ()


def test_additions_of_constants_of_marked_nodes_and_of_outputs_are_left_alone() -> None:
    with_constant = _residual("e = Identity(s)")
    next(node for node in with_constant.graph.node if node.name == "add").input[1] = "q"
    assert place(with_constant).residuals == ()
    assert place(marked(_residual("e = Identity(s)"), "add", "decodes boxes")).residuals == ()
    both = graph(
        f"""(float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] d) {{
        d = Conv<{SAME}>(x, v)
        y = Add(d, x)
        }}""",
        {"v": normal(4, 4, 3, 3)},
    )
    assert place(both).residuals == ()


def test_a_sum_of_a_tensor_with_itself_is_left_alone() -> None:
    text = f"""(float[N,4,8,8] x) => (float[N,4,8,8] y) {{
        d = Conv<{SAME}>(x, v)
        y = Add(d, d)
        }}"""
    assert place(graph(text, {"v": normal(4, 4, 3, 3)})).residuals == ()


def test_products_of_two_activations_are_kept_with_the_reason() -> None:
    text = """(float[N,4,8] q, float[N,8,4] k) => (float[N,4,6] y) {
        [scores] a = MatMul(q, k)
        s = Softmax(a)
        [mix] y = MatMul(s, w)
        }"""
    placement = place(graph(text, {"w": normal(4, 6)}))
    assert "a product of two activations" in _kept(placement)["scores"]
    # A product of two activations is no layer, so what comes after it is the first.
    assert _by_name(placement, "role") == {"mix": "first"}


def test_marked_layers_are_kept_and_their_activations_need_no_scale() -> None:
    placement = place(marked(_chain(), "pointwise", "decodes boxes"))
    assert _kept(placement) == {"pointwise": "decodes boxes"}
    assert placement.activations == ("x", "b", "h")


def test_arithmetic_on_shapes_is_kept() -> None:
    text = """(float[N,4] x) => (float[1] y, float[N,4] z) {
        s = Shape(x)
        f = Cast<to=1>(s)
        [size] y = MatMul(f, w)
        [layer] z = MatMul(x, v)
        }"""
    placement = place(graph(text, {"w": normal(2, 1), "v": normal(4, 4)}))
    assert _kept(placement) == {"size": "computes shapes"}
    assert placement.activations == ("x",)


def test_a_constant_input_and_other_types_are_kept() -> None:
    text = """(double[N,4] x) => (double[N,4] y, float[2,4] z) {
        [double] y = MatMul(x, w)
        [constant] z = MatMul(c, v)
        }"""
    weights = {"w": normal(4, 4).astype(np.float64), "v": normal(4, 4), "c": normal(2, 4)}
    assert _kept(place(graph(text, weights))) == {
        "double": "does not work on float32",
        "constant": "its input is a constant",
    }


def test_kept_by_name_gives_its_reason_and_does_not_move_the_ends() -> None:
    placement = place(_chain(), keep={"stem": "asked for", "no such layer": "nothing"})
    assert _kept(placement) == {"stem": "asked for"}
    assert _by_name(placement, "role") == {
        "depthwise": "depthwise",
        "pointwise": "layer",
        "classifier": "last",
    }


def test_one_pair_for_all_readers_of_a_tensor_which_takes_the_first_readers_role() -> None:
    text = f"""(float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z) {{
        [stem] a = Conv<{SAME}>(x, v)
        [deep] b = Conv<{SAME}, group=4>(a, d)
        [wide] c = Conv<{SAME}>(a, v)
        [left] y = Conv<{SAME}>(b, v)
        [right] z = Conv<{SAME}>(c, v)
        }}"""
    placement = place(graph(text, {"v": normal(4, 4, 3, 3), "d": normal(4, 1, 3, 3)}))
    assert placement.activations == ("x", "a", "b", "c")
    assert placement.roles["a"] == "depthwise"
    assert {name for name, role in _by_name(placement, "role").items() if role == "last"} == {"left", "right"}
