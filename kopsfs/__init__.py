"""kopsfs mounts a kops state store as a local directory, and knows what the files in it mean.

Read in this order: `store/driver.py` (what a state store is), `fs/tree.py` (what we believe about
it), `fs/journal.py` (what we owe it), `fs/filesystem.py` (what a system call does), `fuse.py` (how
the kernel asks); then `daemon.py` (who runs when). What a kops document means is `spec/`.
"""

__version__ = "0.1.0"
