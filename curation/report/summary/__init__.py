"""Counts over a dataset: outcomes, reasons, histograms, failures; and the funnel in a terminal."""
