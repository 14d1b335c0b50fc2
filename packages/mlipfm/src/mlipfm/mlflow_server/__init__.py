"""The MLflow server of `mlipfm hub up --server mlflow`, behind a guard. The hub itself, with users and pages, is `services/hub`."""
