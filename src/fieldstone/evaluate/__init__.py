"""Evaluation: questions with known answers, put to systems, measured, compared and reported.

`questions` and `evidence` say what is asked and where the answers stand; `run` asks a workspace, `systems`
any other; `measures`, `statistics` and `judge` say what the answers are worth; `evaluation` is what comes
of it, and `report` puts it on paper. `benchmarks` reads published questions, `grading` lets people grade,
`quality` looks at the questions themselves.
"""
