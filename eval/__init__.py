"""Evaluation: data sets in, run logs, metrics, tables and reports out."""
