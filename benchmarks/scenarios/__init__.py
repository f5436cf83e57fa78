"""What a row asks of a runtime: one request after another, as many as it takes, or as they come in."""
