"""How good a model is in the terms of its task: metrics, and artefacts side by side on one dataset."""
