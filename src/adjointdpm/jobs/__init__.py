"""What people do with a gradient through sampling, one package each."""
