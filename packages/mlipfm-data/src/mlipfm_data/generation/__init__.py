"""Training sets of molecules that anybody can make again: SMILES, geometries, clusters, labels."""
