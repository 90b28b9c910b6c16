"""Trained models made cheaper: plan, merge, heal and report (FastHMR, arXiv 2510.10868)."""
