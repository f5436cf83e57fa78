"""What a network costs: parameters, operations and bytes, and the time that they take at least."""
