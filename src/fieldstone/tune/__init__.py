"""Tuning: candidates for encoder and generator, each trained in one readable file."""
