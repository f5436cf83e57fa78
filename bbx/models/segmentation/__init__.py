"""Deployable segmenters: one tensor of images in, one of logits or labels out, sizes fixed, batch free."""
