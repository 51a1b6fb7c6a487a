"""Sequence anomaly detection for metrics in a database: an LSTM autoencoder with an alert budget."""

__version__ = "0.1.0"
