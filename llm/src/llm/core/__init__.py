"""The parts that every architecture is assembled from."""
