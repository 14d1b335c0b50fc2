"""The contract of mlipfm: structures, batches, potentials, derivatives, checkpoints, plug-ins, the command and the testing kit."""
