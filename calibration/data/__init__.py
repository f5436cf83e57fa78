"""Calibration data as an artefact: where images come from, which were taken, and what is wrong with them."""
