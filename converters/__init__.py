"""Converters: one file of rules a model family, and the files they read and write.

Shipped as ``mlx_speech.converters``.
"""
