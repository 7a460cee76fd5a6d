"""Estimates and classifiers in closed form on features, labels and scores; no networks."""
