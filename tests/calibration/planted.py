"""Networks with a planted weakness: what INT8 does to them is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import ModelProto

from bbx.calibration.quantise import Images
from tests.calibration.graphs import Arrays, graph, normal


def rows(outlier: float) -> Images:
    """Feeds of 16 numbers; one of the first number's 6,144 values is `outlier`, in calibration only."""

    def feeds(first: int, largest: float | None) -> Iterator[Arrays]:
        for seed in range(first, first + 3):
            values = normal(2048, 16, seed=seed)
            if seed == first and largest is not None:
                values[0, 0] = largest
            yield {"x": values}

    return Images(lambda: feeds(0, outlier), lambda: feeds(10, None), 3 * 2048)


def with_outlier() -> ModelProto:
    """Two matrix products, of which the first pays no heed to the first number of `rows`."""
    first = normal(16, 32, scale=0.25)
    first[0] = 0
    text = """(float[N,16] x) => (float[N,8] y) {
        [one] a = MatMul(x, w)
        b = Relu(a)
        [two] y = MatMul(b, v)
        }"""
    return graph(text, {"w": first, "v": normal(32, 8, seed=1, scale=0.2)})


def chain(layers: int, sensitive: int | None = None) -> ModelProto:
    """Matrix products in a row; the input of the sensitive one has a channel of a thousand times the range.

    The layer before makes that channel large and the sensitive one makes it small again, so that in floating
    point nothing happens, while one scale a tensor rounds every other channel of it to zero.
    """
    weights = {f"w{index}": normal(16, 16, seed=index, scale=0.25) for index in range(layers)}
    if sensitive is not None:
        weights[f"w{sensitive - 1}"][:, 0] *= 1000
        weights[f"w{sensitive}"][0] /= 1000
    nodes = [f"[layer{index}] a{index + 1} = MatMul(a{index}, w{index})" for index in range(layers)]
    return graph(f"(float[N,16] a0) => (float[N,16] a{layers}) {{ " + "\n".join(nodes) + "}", weights)


def chain_rows() -> Images:
    """Feeds of `chain`."""

    def feeds(first: int) -> Iterator[Arrays]:
        for seed in range(first, first + 3):
            yield {"a0": normal(16, 16, seed=seed)}

    return Images(lambda: feeds(0), lambda: feeds(10))


def with_bad_depthwise(width: int) -> ModelProto:
    """A stem, a depthwise layer whose input has a channel of a thousand times the range, a pointwise layer.

    Args:
        width: output channels of the pointwise layer, which decide what share of the weights the others hold.
    """
    stem, deep = normal(16, 3, 1, 1, seed=1), normal(16, 1, 3, 3, seed=2, scale=0.3)
    stem[0] *= 1000
    deep[0] /= 1000
    text = f"""(float[N,3,8,8] x) => (float[N,{width}] y) {{
        [stem] a = Conv(x, s)
        b = Relu(a)
        [deep] c = Conv<group=16, pads=[1,1,1,1]>(b, d)
        [point] e = Conv(c, p)
        f = Relu(e)
        g = GlobalAveragePool(f)
        [end] y = Flatten(g)
        }}"""
    return graph(text, {"s": stem, "d": deep, "p": normal(width, 16, 1, 1, seed=3, scale=0.3)})


def pictures() -> Images:
    """Feeds of `with_bad_depthwise`."""

    def feeds(first: int) -> Iterator[Arrays]:
        for seed in range(first, first + 2):
            yield {"x": normal(8, 3, 8, 8, seed=seed)}

    return Images(lambda: feeds(0), lambda: feeds(10))
