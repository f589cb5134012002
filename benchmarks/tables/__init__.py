"""The tables and phrases of the documents, from what the benchmarks wrote."""
