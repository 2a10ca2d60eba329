"""A second look at answers: graded by a model, and held against the passages that they cite."""
