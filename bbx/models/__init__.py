"""Models: names, options, architectures, heads and weights.

`spec`, `registry` and `zoo` load no heavy library; everything else needs torch and is imported late.
"""
