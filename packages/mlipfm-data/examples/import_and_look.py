"""Import a small extended XYZ file with one bad frame, see every decision, and export the store again."""

import tempfile
from pathlib import Path

from mlipfm_data import Store, export_extxyz, import_file, read_all
from mlipfm_data.store.describe import describe

WATER = """3
Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy={energy} charge=0 spin=1 tag=demo
O 0.0 0.000 0.119 0.0 0.0 {force}
H 0.0 0.763 -0.477 0.0 0.0 0.0
H 0.0 -0.763 {z} 0.0 0.0 0.0
"""

with tempfile.TemporaryDirectory() as folder:
    source = Path(folder) / "water.xyz"
    frames = [(-14.25, 0.1, -0.477), (-14.20, 0.4, -0.450), (float("nan"), 0.4, -0.440)]
    source.write_text("".join(WATER.format(energy=e, force=f, z=z) for e, f, z in frames))

    report = import_file(source, Path(folder) / "store", level="wb97m-d3bj/def2-tzvppd")
    print("\n".join(report.lines()))
    with Store(Path(folder) / "store") as store:
        print("\n".join(describe(store)))
        export_extxyz(store, Path(folder) / "out.xyz")
        assert [s.key for s in read_all(Path(folder) / "out.xyz")] == [s.key for s in store]
