"""Typed errors. Each message names the file, key or argument at fault and says what to do about it."""

from __future__ import annotations


class MLXSpeechError(Exception):
    """Base of every error this library raises on purpose."""


class AudioError(MLXSpeechError, ValueError):
    """A recording that cannot be read, or that holds no usable audio."""


class CheckpointError(MLXSpeechError, ValueError):
    """Weights or a configuration that are damaged, incomplete or of an unknown kind."""


class ModelNotFoundError(MLXSpeechError, LookupError):
    """A model name that names nothing, or whose weights cannot be had here and now."""


class OptionError(MLXSpeechError, ValueError):
    """An argument or a combination of arguments that makes no sense."""


class OutputError(MLXSpeechError, OSError):
    """A result that could not be written."""


class VoicesError(MLXSpeechError, ValueError):
    """A file of known voices that is damaged or another model's, or a name that it does not hold."""
