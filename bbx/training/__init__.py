"""Transfer learning: a head for the classes at hand, trained on pictures, kept with all that it needs."""
