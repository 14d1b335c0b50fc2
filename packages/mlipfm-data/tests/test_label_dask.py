"""Labels from processes of a Dask cluster, given as an executor: the same store as from one process, also after an interruption."""

from concurrent.futures import Executor, Future

import numpy as np
import pytest
from kills import same_bytes
from mlipfm_data.labeling import label_all
from mlipfm_data.store.store import Store
from mlipfm_data.tblite_labeler import TbliteLabeler
from mlipfm_interfaces.structure import Provenance, Structure

WATER = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])


def waters(n: int) -> list[Structure]:
    """Distorted water; every 17th gives no charge and is refused."""
    rng = np.random.default_rng(5)
    return [
        Structure(
            [8, 1, 1],
            WATER + rng.normal(scale=0.03, size=(3, 3)),
            total_charge=None if i % 17 == 5 else 0,
            provenance=Provenance("toy", "water", 3 * i),
        )
        for i in range(n)
    ]


class Interrupted(Executor):
    """Another executor until the sixth task, then Ctrl-C."""

    def __init__(self, inner: Executor) -> None:
        self.inner, self.submitted = inner, 0

    def submit(self, *task: object) -> Future:
        self.submitted += 1
        if self.submitted == 6:
            raise KeyboardInterrupt
        return self.inner.submit(*task)


@pytest.mark.ci
def test_a_dask_cluster_writes_the_bytes_that_one_process_writes(tmp_path):
    pytest.importorskip("tblite", reason="the extra `tblite` is not installed")
    import distributed  # slow, and only here

    structures = waters(200)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path / "dask")
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        with pytest.raises(KeyboardInterrupt):
            label_all(structures, TbliteLabeler(), tmp_path / "cluster", executor=Interrupted(client.get_executor()))
        report = label_all(structures, TbliteLabeler(), tmp_path / "cluster", executor=client.get_executor(), workers=2)
    assert 0 < report.resumed < 188
    assert (report.labelled, len(report.refused)) == (188, 12)
    label_all(structures, TbliteLabeler(), tmp_path / "alone", workers=1)
    assert same_bytes(tmp_path / "cluster", tmp_path / "alone") == []
    assert [s.provenance.index for s in Store(tmp_path / "cluster")][:3] == [0, 3, 6]
