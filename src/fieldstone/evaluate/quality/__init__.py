"""How good the questions themselves are."""
