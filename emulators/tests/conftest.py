import sys
from pathlib import Path

# The emulators are run from a checkout and are not installed.
sys.path.insert(0, str(Path(__file__).parents[2]))
