"""The ways in which others take the gradient, one library a module."""
