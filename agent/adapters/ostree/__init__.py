"""The OSTree sysroot, driven by the ``ostree`` program.

In: a bundle's repository, not believed, and a commit that TUF vouches for. Out: a
deployment that boots next. What must hold before ``ostree`` sees anything of a stick:

1. The device has space left, by the reference's formula.
2. The repository's ``config`` is a small regular file and names a mode a stick can have.
3. Its ``objects`` holds directories and regular files alone: no link, no FIFO.
4. ``ostree`` never opens the repository itself, but a private one of ours whose
   ``objects`` is the directory we hold open: the stick's configuration, refs, summary
   and static deltas are not read, and no swapped path component is followed.
5. ``--untrusted``: every object is hashed while it is copied. Without it ``ostree`` takes
   the file name for the hash and imports a swapped object with exit status 0.
6. A deadline, and a shorter one for standing still: what hangs is killed.

Nothing is left behind in the device's repository: no remote, no ref.

Host commands used: ostree (2022.7 and later).
"""

from agent.adapters.ostree.sysroot import OstreeSysroot
from agent.adapters.ostree.watch import Deadlines

__all__ = ["Deadlines", "OstreeSysroot"]
