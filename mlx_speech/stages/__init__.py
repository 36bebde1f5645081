"""The steps of a pipeline: plain values in, plain values out, times in seconds."""
