"""What does a system call do to a store? No pyfuse3 here; read `tree.py`, `journal.py`, `filesystem.py`."""
