"""The parts of `ipc_ensemble`: closed-form IPC, cross-fitted EAC, and the neighbours."""
