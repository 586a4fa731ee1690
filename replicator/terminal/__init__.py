"""Output on terminals and pipes, and the form of errors."""
