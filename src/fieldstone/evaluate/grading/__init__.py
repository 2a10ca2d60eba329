"""Answers graded by people: the sheet, its key, and what the grades come to."""
