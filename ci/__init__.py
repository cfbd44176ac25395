"""What CI runs: the regression over models, hand-written programs, generated documents."""
