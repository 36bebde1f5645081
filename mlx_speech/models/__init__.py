"""Architectures, one file a model: no input or output, no checkpoint's key names, no sampling loop."""
