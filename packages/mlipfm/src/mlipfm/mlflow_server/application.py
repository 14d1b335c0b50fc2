"""The application that the hub serves: MLflow behind the guard. The only module of this package that imports mlflow.

`uvicorn --factory mlipfm.mlflow_server.application:application`, with the folder of the hub in $MLIPFM_HUB_FOLDER.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlipfm_interfaces.hub_folder import TOKEN, secret

from .guard import Guard

FOLDER, KEY = "MLIPFM_HUB_FOLDER", "signing.key"


def application() -> Guard:
    """MLflow on the sqlite file and the artifact folder of the hub; nothing it writes is readable by others."""
    os.umask(0o077)
    folder = Path(os.environ[FOLDER])
    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    import mlflow.server as served

    database = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ |= {
        served.BACKEND_STORE_URI_ENV_VAR: database,
        served.REGISTRY_STORE_URI_ENV_VAR: database,
        served.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        served.ARTIFACTS_DESTINATION_ENV_VAR: str(artifacts),
        served.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(database, database, "mlflow-artifacts:/")
    from mlflow.server.fastapi_app import app

    return Guard(app, artifacts, secret(folder / TOKEN), secret(folder / KEY))
