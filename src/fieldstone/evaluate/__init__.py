"""Evaluation: measure a system on questions with known answers, compare two, and report."""
