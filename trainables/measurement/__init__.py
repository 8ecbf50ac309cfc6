"""Measurements of a trial: gradient noise, curvature, loss planes, augmentation noise."""
