"""The classic networks, as their papers describe them."""
