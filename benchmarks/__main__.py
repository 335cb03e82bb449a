"""All benchmarks, each in a process of its own: what one leaves in memory would count against the next."""

import subprocess
import sys

from benchmarks import SUBJECTS

for subject in SUBJECTS:
    subprocess.run([sys.executable, "-m", f"benchmarks.{subject}", *sys.argv[1:]], check=True)
