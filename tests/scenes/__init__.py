"""Scenes of handwritten digits on photographs: data, training and mAP for tests of detectors and segmenters.

Random weights give detections that nobody would deploy. Here torchvision's own detectors learn a task that
takes minutes on two cores, from nothing but what scikit-learn and scikit-image bring along.
"""
