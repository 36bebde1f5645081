import mlx_speech  # noqa: F401  (before mlx, so that an optimised BLAS is there)
