"""The command line: what a person or a pipeline types, and what it gets to see."""
