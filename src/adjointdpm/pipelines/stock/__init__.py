"""The stock call of a pipeline: what it consists of, what is refused, how its steps are counted."""
