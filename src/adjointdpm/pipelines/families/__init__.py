"""The families of pipelines, one module each, and what several of them share."""
