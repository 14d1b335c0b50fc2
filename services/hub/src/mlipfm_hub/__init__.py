"""The hub: a registry of models with the people who may change it, pages, and a prediction service.

Imports `mlipfm_interfaces` and nothing else of mlipfm; models are evaluated in child processes (`predict_worker`).
"""
