"""The training recipes behind the embeddings: ``python -m facekit.train <recipe> --help``."""
