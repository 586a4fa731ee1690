"""From the stream's bytes to the changes they carry: one decoder for each output plugin."""
