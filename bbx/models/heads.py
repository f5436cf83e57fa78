"""Heads: what turns a backbone's pooled features into logits, or leaves them as they are."""

from __future__ import annotations

from torch import nn

from bbx.errors import ModelError
from bbx.models.spec import ModelSpec

_DROPOUT = 0.1


def mlp_head(channels: int, classes: int) -> nn.Sequential:
    """Linear, GELU, Dropout, Linear: float [batch, channels] to [batch, classes]."""
    return nn.Sequential(
        nn.Linear(channels, channels), nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(channels, classes)
    )


def classifier_path(module: nn.Module) -> str | None:
    """Path of the one layer that makes the logits, or None when there is no such layer.

    It is timm's record of it, or else the last linear layer; SqueezeNet's is its last convolution.
    """
    config: dict[str, object] = getattr(module, "pretrained_cfg", {})
    recorded = config.get("classifier")
    if recorded is not None:
        return recorded if isinstance(recorded, str) else None
    for kind in (nn.Linear, nn.Conv2d):
        paths: list[str] = [path for path, layer in module.named_modules() if isinstance(layer, kind)]
        if paths:
            return paths[-1]
    return None


def attach(module: nn.Module, spec: ModelSpec, path: str | None) -> bool:
    """Give a model the head of its spec, in place; its native head where that is what was asked for.

    Args:
        path: from `classifier_path`.

    Returns:
        Whether the native head was replaced.

    Raises:
        ModelError: the model's classifier is of a kind that cannot be exchanged so.
    """
    layer = module.get_submodule(path) if path else None
    if path and isinstance(layer, nn.Linear):
        new = _for_linear(layer, spec)
        if new is not None:
            module.set_submodule(path, new)
        return new is not None
    if path == "classifier.1" and isinstance(layer, nn.Conv2d):
        return _attach_to_squeezenet(module, layer, spec)
    return _reset_by_timm(module, spec)


def _for_linear(native: nn.Linear, spec: ModelSpec) -> nn.Module | None:
    classes = spec.num_classes or native.out_features
    match spec.head:
        case "none":
            return nn.Identity()
        case "mlp":
            return mlp_head(native.in_features, classes)
        case _ if classes == native.out_features:
            return None
        case _:
            return nn.Linear(native.in_features, classes, bias=native.bias is not None)


def _attach_to_squeezenet(module: nn.Module, native: nn.Conv2d, spec: ModelSpec) -> bool:
    """SqueezeNet classifies each position and pools the logits; another head gets pooled features."""
    classes = spec.num_classes or native.out_channels
    if spec.head == "linear":
        if classes == native.out_channels:
            return False
        module.set_submodule("classifier.1", nn.Conv2d(native.in_channels, classes, kernel_size=1))
        return True
    pooled: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)]
    if spec.head == "mlp":
        pooled.append(mlp_head(native.in_channels, classes))
    module.set_submodule("classifier", nn.Sequential(*pooled))
    return True


def _reset_by_timm(module: nn.Module, spec: ModelSpec) -> bool:
    """Heads of several parts, which timm itself knows how to exchange."""
    if spec.head == "linear" and spec.num_classes is None:
        return False
    reset = getattr(module, "reset_classifier", None)
    if spec.head == "mlp" or reset is None:
        raise ModelError(
            f"{spec.name} has no single linear classifier that --head {spec.head} could replace.",
            hint="Use --head linear.",
        )
    reset(spec.num_classes or 0)
    return True
